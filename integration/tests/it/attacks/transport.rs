//! Downgrades and request smuggling at the listeners (T6, T20).

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::{refused, refused_bytes, refused_head};
use countersign_integration::{App, Lab, documents, programs, tls};
use serde_json::json;

const HOST: &str = "orders.shop";

#[tokio::test]
async fn attack_speaks_plaintext_to_strict_port() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    for mut conn in
        [Conn::h1(orders.inbound()).await.unwrap(), Conn::h2(orders.inbound()).await.unwrap()]
    {
        let claims = Call::get(HOST, "/").header("countersign-caller", &lab.id("edge", "gateway"));
        let reply = conn.send(claims).await.unwrap();
        refused(&orders, &reply, "peer_unauthenticated").await;
    }
    assert!(app.seen().is_empty());
}

/// Plaintext passes a rule that says so, and carries nothing that only a mesh peer may say.
#[tokio::test]
async fn mesh_only_headers_from_plain_client() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "health", "effect": "allow", "context": "none", "match":
        {"caller": {"unauthenticated": true}, "http": {"paths": [{"exact": "/health"}]}}}]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let call = Call::get(HOST, "/health")
        .header("countersign-http1", "absolute")
        .header("countersign-user", "root")
        .header("countersign-hops", "a")
        .header("x-forwarded-client-cert", "By=spiffe://lab.test/x");
    let reply = client::call(orders.inbound(), call).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for name in ["countersign-http1", "countersign-user", "countersign-hops", "countersign-caller"]
    {
        assert_eq!(reply.seen(name), None, "{name}");
    }
    assert_eq!(reply.seen("x-forwarded-client-cert"), None);
    let reply = client::call(orders.inbound(), Call::get(HOST, "/else")).await;
    refused(&orders, &reply, "peer_unauthenticated").await;
}

#[tokio::test]
async fn attack_offers_tls12_only() {
    let Some(openssl) = programs::system("attack_offers_tls12_only", "openssl") else { return };
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let (certificate, key) = lab.gateway.leaf().write(lab.folder(), "client");
    let attempt = |version: &str| {
        let mut command = std::process::Command::new(&openssl);
        command.args(["s_client", version, "-brief", "-alpn", "countersign/h2", "-connect"]);
        command.arg(orders.inbound().to_string()).arg("-cert").arg(&certificate);
        let done = countersign_integration::process::run(command.arg("-key").arg(&key));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let old = attempt("-tls1_2");
    assert!(old.contains("alert protocol version"), "{old}");
    let new = attempt("-tls1_3");
    assert!(new.contains("Protocol version: TLSv1.3"), "{new}");
    let label = "result=\"incompatible\"";
    orders.metric_reaches("countersign_tls_handshakes_total", &[label], 1.0).await;
}

#[tokio::test]
async fn attack_offers_opaque_alpn_on_l7_port() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "api", "effect": "allow", "context": "optional", "match":
        {"caller": {"anyInMesh": true}, "http": {"paths": [{"prefix": "/"}]}}}]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let me = lab.id("edge", "gateway");
    let own = [tls::MESH_TCP].as_slice();
    let (mesh, nobody) = (json!({"id": me}), json!({"none": "app_tls"}));
    let offers = [(own, &mesh), (&[b"h2".as_slice()], &nobody), (&[], &nobody)];
    for (nth, (alpn, peer)) in offers.into_iter().enumerate() {
        let config = tls::client(Some(lab.gateway.leaf()), alpn);
        let outcome = async {
            let mut conn = Conn::tls(orders.inbound(), config).await?;
            conn.send(Call::get(HOST, "/")).await
        };
        assert!(outcome.await.is_err(), "{alpn:?}");
        let record = refused_bytes(&orders, "undetectable", nth + 1).await;
        assert_eq!(record["peer"]["id"], peer["id"], "{record}");
        assert_eq!(record["peer"]["none"], peer["none"], "{record}");
    }
    assert!(app.seen().is_empty());
    assert_eq!(orders.decisions().len(), 3);
}

#[tokio::test]
async fn attack_smuggles_a_second_request() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let hidden = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", hidden.len()),
        "Content-Length: 0\r\nContent-Length: 44\r\n".to_owned(),
        "Content-Length: 0\r\nContent-Length: 0\r\n".to_owned(),
        "Transfer-Encoding: chunked, identity\r\n".to_owned(),
        "Transfer_Encoding: chunked\r\n".to_owned(),
        "Content-Length : 0\r\n".to_owned(),
        "X: 1\n".to_owned(),
        "X: 1\r\n folded\r\n".to_owned(),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n0\r\n\r\n{hidden}");
        let stream = client::tls_stream(orders.inbound(), config.clone()).await.unwrap();
        let answer = client::raw(stream, text.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
        refused_head(&orders, &client::parse_raw(&answer), "request_malformed").await;
    }
    assert!(app.seen().is_empty(), "{:?}", app.seen());
}

/// Streams opened and reset at once, by the thousand: the connection ends, others are served.
#[tokio::test]
async fn h2_rapid_reset() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
    let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    for _ in 0..20_000 {
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let request = http::Request::get("http://orders.shop/").body(()).unwrap();
        let Ok((_, mut body)) = ready.send_request(request, false) else { break };
        // Let the head out first, or there is nothing to reset.
        tokio::task::yield_now().await;
        body.send_reset(h2::Reason::CANCEL);
    }
    drop(sender);
    let outcome = countersign_integration::wait::ends("the connection", ended).await.unwrap();
    let error = outcome.expect_err("the flood was borne to its end");
    assert!(error.is_go_away() || error.is_io(), "{error}");
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
}

/// A head that never ends, in CONTINUATION frames: the limit ends it.
#[tokio::test]
async fn h2_continuation_flood() {
    use tokio::io::AsyncWriteExt as _;
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
    let mut stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    start.extend([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]); // HEADERS without END_HEADERS: `GET`
    stream.write_all(&start).await.unwrap();
    // CONTINUATION: literal fields without indexing, `x: aaa…`.
    let mut field = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
    field.extend(vec![b'a'; 16_384 - field.len()]);
    let mut frame = vec![0, 0x40, 0, 9, 0, 0, 0, 0, 1];
    frame.extend(&field);
    let mut written = 0;
    while written < 10_000 && stream.write_all(&frame).await.is_ok() {
        written += 1;
    }
    assert!(written < 10_000, "160 MB of one head were taken");
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
}

/// A rule about a path holds for every spelling of it that any server could take for the same.
#[tokio::test]
async fn host_and_path_spellings() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([
        {"name": "no-admin", "effect": "deny", "match":
            {"http": {"hosts": [HOST], "paths": [{"prefix": "/admin"}]}}},
        documents::anybody()[0],
    ]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for target in ["/admin", "/%61dmin", "/admin/x", "/adm%69n?x=1"] {
        let reply = peer.send(Call::get(HOST, target)).await.unwrap();
        refused(&orders, &reply, "policy_denied").await;
    }
    for target in ["//admin", "/./admin", "/x/../admin", "/admin;x", "/admin%2Fx", "/%2561dmin"] {
        let reply = peer.send(Call::get(HOST, target)).await.unwrap();
        refused(&orders, &reply, "path_not_canonical").await;
    }
    for host in ["ORDERS.shop", "orders.shop.", "orders.shop:80"] {
        let reply = peer.send(Call::get(host, "/admin")).await.unwrap();
        refused(&orders, &reply, "policy_denied").await;
    }
    let reply = peer.send(Call::get(HOST, "/administrators")).await.unwrap();
    assert_eq!(reply.status, 200);
    // What was decided on is what the app gets.
    let reply = peer.send(Call::get(HOST, "/%70ublic?q=%2f")).await.unwrap();
    let target = reply.json()["target"].as_str().unwrap().to_owned();
    assert!(target.ends_with("/public?q=%2f"), "{target}");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn attack_overrides_the_method_by_header() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let call = Call::get(HOST, "/").header("x-http-method-override", "DELETE");
    let call = call.header("x-original-url", "/admin").header("x_rewrite_url", "/admin");
    let reply = lab.call_as_gateway(&orders, call).await;
    assert_eq!(reply.status, 200);
    for name in ["x-http-method-override", "x-original-url", "x_rewrite_url"] {
        assert_eq!(reply.seen(name), None, "{name}");
    }
}

/// Label values come from closed sets, whatever clients invent.
#[tokio::test]
async fn random_hosts_do_not_grow_metrics() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let mut lines = Vec::new();
    for round in 0..2 {
        for number in 0..50 {
            let host = format!("h{round}-{number}.example");
            let call = Call::get(&host, &format!("/{host}")).header("user-agent", &host);
            assert_eq!(peer.send(call).await.unwrap().status, 200);
        }
        lines.push(orders.metrics().await.lines().count());
    }
    assert_eq!(lines[0], lines[1]);
}
