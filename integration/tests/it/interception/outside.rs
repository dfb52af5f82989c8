//! Services outside the mesh: TLS verified by the names and roots of their document, and nothing
//! of the mesh goes there: no context, no identity, no mark.

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused;
use countersign_integration::pki::{Authority, Leaf, Request};
use countersign_integration::{App, Lab, Mesh, Proxy, documents, ports, tls, wait};
use rustls::server::Acceptor;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;

const HOST: &str = "api.example.net";
const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The public Web: an authority nobody in the mesh knows.
struct Public {
    ca: Authority,
    lab: Lab,
}

impl Public {
    fn new() -> Public {
        let (ca, lab) = (Authority::new("public.test"), Lab::new());
        ca.write_bundle(lab.folder(), "public");
        Public { ca, lab }
    }

    fn leaf(&self, name: &str) -> Leaf {
        self.ca.issue(Request::new(&[]).dns(name))
    }

    /// The documents of a caller, with the outside service at `address`.
    fn mesh(&self, address: std::net::SocketAddr) -> Mesh {
        let roots = self.lab.folder().join("public.pem");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let mesh =
            self.lab.mesh().destination("shop/storage", HOST, any, &[&self.lab.id("a", "b")]);
        mesh.with(|spec| {
            let spec = &mut spec["destinations"][0]["spec"];
            spec["endpoints"] = json!([{"address": address.ip(), "port": address.port()}]);
            spec["peer"] = json!({"tls": {"serverNames": [HOST], "roots": {"file": roots}}});
        })
    }

    /// The sidecar of `web`, which may call the service at `address`.
    async fn web(&self, address: std::net::SocketAddr) -> Proxy {
        let mesh = self.lab.write("web-mesh.yaml", &self.mesh(address).document());
        self.lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await
    }
}

fn reserved(app: &App) -> Vec<String> {
    let seen = app.seen();
    let names = seen.iter().flat_map(|head| head.headers.keys()).map(ToString::to_string);
    let ours = |name: &String| {
        let name = name.replace('_', "-");
        name.starts_with("countersign") || name == "txn-token"
    };
    names.filter(ours).collect()
}

/// A sound certificate: HTTP/1.1 and HTTP/2 apps are served, in the protocol the server chose.
#[tokio::test]
async fn a_verified_outside_service_is_called() {
    let public = Public::new();
    for (alpn, version) in [(&[H2, HTTP1][..], "HTTP/2.0"), (&[HTTP1][..], "HTTP/1.1")] {
        let server = App::tls_mirror(tls::public_server(&public.leaf(HOST), alpn));
        let web = public.web(server.address).await;
        for _ in 0..2 {
            for mut conn in
                [Conn::h1(web.outbound()).await.unwrap(), Conn::h2(web.outbound()).await.unwrap()]
            {
                let reply = conn.send(Call::post(HOST, "/a?b", "bytes")).await.unwrap();
                assert_eq!(reply.status, 200, "{}", reply.text());
                let told = reply.json();
                assert_eq!((&told["version"], &told["body_bytes"]), (&json!(version), &json!(5)));
                let target = told["target"].as_str().unwrap();
                assert!(
                    [format!("https://{HOST}/a?b").as_str(), "/a?b"].contains(&target),
                    "{target}"
                );
            }
        }
        assert!(reserved(&server).is_empty(), "{:?}", reserved(&server));
    }
}

/// Whoever cannot prove the name under the document's roots gets nothing.
#[tokio::test]
async fn an_outside_service_that_proves_nothing_gets_nothing() {
    let public = Public::new();
    let stranger = Authority::new("public.test");
    let of_mesh = public.lab.ca.issue(Request::new(&[&public.lab.id("shop", "storage")]).dns(HOST));
    let leaves = [
        ("another name", public.leaf("api.example.org")),
        ("another authority", stranger.issue(Request::new(&[]).dns(HOST))),
        ("the mesh's authority", of_mesh),
        ("an ended certificate", public.ca.issue(Request::new(&[]).dns(HOST).expired())),
    ];
    for (what, leaf) in leaves {
        let server = App::tls_mirror(tls::public_server(&leaf, &[H2, HTTP1]));
        let web = public.web(server.address).await;
        let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
        let record = refused(&web, &reply, "server_identity_unexpected").await;
        assert_eq!(record["callee"]["host"], "shop/storage", "{what}");
        assert!(server.seen().is_empty(), "{what}");
    }
    // Nor does one that speaks no TLS at all.
    let plain = App::mirror();
    let web = public.web(plain.address).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    refused(&web, &reply, "upstream_failed").await;
    assert!(plain.seen().is_empty());
}

/// The server asks for a certificate and sees none; it is told the name it is called by.
#[tokio::test]
async fn our_certificate_is_never_shown_outside() {
    let public = Public::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::server(&public.leaf(HOST), &[H2]);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.unwrap();
        let name = hello.client_hello().server_name().map(str::to_owned);
        let error = hello.into_stream(config).await.map(drop).expect_err("a certificate was shown");
        (name, error.to_string())
    });
    let web = public.web(address).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    // The second try, on a connection of its own, finds nobody.
    assert!([502, 503].contains(&reply.status), "{}", reply.text());
    let (name, error) = wait::ends("the handshake", server).await.unwrap();
    assert_eq!(name.as_deref(), Some(HOST));
    assert!(error.contains("no certificates"), "{error}");
}

/// The whole story of T13: a request with a verified context causes a call to an outside service.
/// Whatever the app copies, nothing of the context leaves.
#[tokio::test]
async fn attack_takes_the_context_outside() {
    let public = Public::new();
    let lab = &public.lab;
    let server = App::tls_mirror(tls::public_server(&public.leaf(HOST), &[H2, HTTP1]));
    let out = ports::free();
    // The app forwards its handle, and a stolen token beside it.
    let app = App::relay(out, HOST);
    let mesh = lab.write("mesh.yaml", &public.mesh(server.address).document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let spec = lab.proxy("shop", "orders").inbound(app.address).outbound_at(out);
    let orders = spec.documents(&[&mesh, &access]).start().await;
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    for forward in ["handle", "both"] {
        let call = Call::get("orders.shop", "/v1").context(&token).header("x-forward", forward);
        let call =
            call.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let reply = lab.call_as_gateway(&orders, call).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let found = ["result=\"handle\""];
    assert!(
        orders.metric("countersign_context_lookup_total", &found).await >= 1.0,
        "nothing to leak"
    );
    // An app that writes the names itself.
    let call = Call::get(HOST, "/").context(&token);
    let call = call.header("countersign-user", "root").header("countersign_hops", "x");
    let reply = client::call(orders.outbound(), call.header("countersign-http1", "1.1")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(server.seen().len(), 3);
    assert!(reserved(&server).is_empty(), "{:?}", reserved(&server));
    // What it answers under our names does not come in either.
    let liar = App::tls(tls::public_server(&public.leaf(HOST), &[H2]), |_| {
        Box::pin(async {
            let response = http::Response::builder()
                .header("countersign-decision", "01AAAAAAAAAAAAAAAAAAAAAAAA");
            Ok(response.header("txn-token", "x").body(client::full("hello"))?)
        })
    });
    let web = public.web(liar.address).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    assert_eq!(reply.text(), "hello");
    assert_eq!((reply.header("txn-token"), reply.header("countersign-decision")), (None, None));
}

/// New roots come into force without a restart; a file that cannot be read leaves the last good ones.
#[tokio::test]
async fn roots_are_replaced_without_restart() {
    let public = Public::new();
    let server = App::tls_mirror(tls::public_server(&public.leaf(HOST), &[H2]));
    let web = public.web(server.address).await;
    let call = async || client::call(web.outbound(), Call::get(HOST, "/")).await.status;
    assert_eq!(call().await, 200);
    public.lab.write_text("public.pem", "no certificate at all\n");
    wait::until_true("the complaint", || web.log().contains("the last good roots stay")).await;
    assert_eq!(call().await, 200);
    let other = Authority::new("public.test");
    other.write_bundle(public.lab.folder(), "public");
    wait::until("the old authority's end", || async { (call().await == 502).then_some(()) }).await;
}

/// A gateway hands contexts to workloads; a route out of the mesh is refused at load.
#[tokio::test]
async fn a_gateway_route_does_not_lead_outside() {
    let public = Public::new();
    let lab = &public.lab;
    let server = App::tls_mirror(tls::public_server(&public.leaf(HOST), &[H2]));
    let mesh = lab.gateway_mesh(&lab.gateway).with(|spec| {
        spec["destinations"] = public.mesh(server.address).spec["destinations"].clone();
    });
    let mesh = lab.write("gateway-mesh.yaml", &mesh.document());
    let spec = lab.proxy("edge", "gateway").gateway("shop/storage").documents(&[&mesh]);
    let gateway = spec.launch();
    let ended = wait::ends("the gateway", gateway.process.ended()).await;
    assert!(!ended.success());
    assert!(gateway.log().contains("is outside the mesh"), "{}", gateway.log());
}
