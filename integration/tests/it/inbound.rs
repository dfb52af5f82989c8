//! The direction from another sidecar to the app: what connections are, what the app gets.

use std::time::Duration;

use countersign_integration::client::{self, Call, Conn, full};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::{App, Lab, documents, ports, tls, wait};
use http::{Response, Version};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HOST: &str = "orders.shop";

#[tokio::test]
async fn the_app_reads_verified_headers() {
    let lab = Lab::new();
    let app = App::mirror();
    let opted = json!(["groups", "claims", "device"]);
    let mesh = lab.mesh().with(|spec| spec["context"]["headers"] = opted);
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let mut claims = lab.gateway.claims(&lab.id("shop", "orders"));
    claims["sub"] = json!("user:zoë");
    claims["scope"] = json!("orders.read orders.write");
    claims["rctx"]["groups"] = json!(["support", "sre, on call"]);
    let call = Call::get(HOST, "/").context(&lab.gateway.sign(&claims));
    let reply = lab.call_as_gateway(&orders, call).await;
    let record = allowed(&orders, &reply).await;
    for (name, value) in [
        ("countersign-user", "zo%C3%AB"),
        ("countersign-scope", "orders.read orders.write"),
        ("countersign-origin", "user"),
        ("countersign-txn", "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2"),
        ("countersign-caller", "spiffe://lab.test/ns/edge/sa/gateway"),
        ("countersign-groups", "support,sre%2C%20on%20call"),
        ("countersign-decision", &reply.decision()),
    ] {
        assert_eq!(reply.seen(name).as_deref(), Some(value), "{name}");
    }
    for absent in ["txn-token", "countersign-device", "countersign-entry"] {
        assert_eq!(reply.seen(absent), None, "{absent}");
    }
    assert_eq!(record["custody"], true, "{record}");
    assert_eq!(record["txn"], "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2");
}

/// The app is spoken to in HTTP/1.1 where the sender's client was, with one `Host`, and a
/// `traceparent` where none came.
#[tokio::test]
async fn http1_is_restored_for_the_app() {
    let lab = Lab::new();
    let app = App::serving(|_| {
        Box::pin(async {
            let response = Response::builder().header("keep-alive", "timeout=5");
            let response = response.header("x-app", "1").header("connection", "keep-alive");
            Ok(response.body(full("ok"))?)
        })
    });
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let marked = Call::get(HOST, "/x?y=1").header("countersign-http1", "1.1");
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let marked = marked.context(&token).header("cookie", "a=1").header("cookie", "b=2");
    let reply = peer.send(marked).await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = app.last();
    assert_eq!((seen.version, seen.target.as_str()), (Version::HTTP_11, "/x?y=1"));
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("countersign-http1"), None);
    assert_eq!(seen.header("traceparent").map(str::len), Some(55));
    for hop in ["keep-alive", "connection", "transfer-encoding"] {
        assert_eq!(reply.header(hop), None, "{hop} on HTTP/2");
    }
    assert_eq!(reply.header("x-app"), Some("1"));
    peer.send(Call::get(HOST, "/")).await.unwrap();
    assert_eq!(app.last().version, Version::HTTP_2);
    let odd = Call::get(HOST, "/").header("countersign-http1", "9.9");
    refused(&orders, &peer.send(odd).await.unwrap(), "request_malformed").await;
}

#[tokio::test]
async fn no_session_ticket_on_the_wire() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let mut stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn handshake_that_stalls_ends_in_five_seconds() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    // The first bytes of a TLS record, and then nothing.
    let answer = client::raw_tcp(orders.inbound(), &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
    assert_eq!(answer, "");
    let label = "result=\"timeout\"";
    orders.metric_reaches("countersign_tls_handshakes_total", &[label], 1.0).await;
}

#[tokio::test]
async fn requests_finish_while_a_scrape_is_held() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let held = TcpStream::connect(orders.metrics_address()).await.unwrap();
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    for _ in 0..10 {
        assert_eq!(peer.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    }
    drop(held);
}

#[tokio::test]
async fn refusal_names_rule_in_log_and_audit() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "no-admin", "effect": "deny",
        "match": {"http": {"paths": [{"prefix": "/admin"}]}}}, documents::anybody()[0]]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/admin")).await;
    let record = refused(&orders, &reply, "policy_denied").await;
    assert_eq!((&record["policy"], &record["rule"]), (&json!("shop/access"), &json!("no-admin")));
    wait::until_true("the refusal in the log", || {
        let log = orders.log();
        let mut lines = log.lines().filter(|line| line.contains(&reply.decision()));
        lines.any(|line| line.contains("shop/access/no-admin") && line.contains("policy_denied"))
    })
    .await;
}

/// An app that is just starting gets a few seconds; the request waits for it.
#[tokio::test]
async fn app_that_starts_late_gets_the_request() {
    let lab = Lab::new();
    let (unused, late) = (App::mirror(), ports::free());
    let orders =
        lab.orders(&unused, |spec| spec.with(|config| config["app"][0]["address"] = json!(late)));
    let orders = orders.await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let request = tokio::spawn(async move { peer.send(Call::get(HOST, "/")).await });
    wait::until("the request in flight", async || {
        let open = orders.metric("countersign_connections", &["direction=\"inbound\""]).await;
        (open >= 1.0).then_some(())
    })
    .await;
    let _app = App::mirror_at(late);
    assert_eq!(request.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let (sender, body) = client::stream();
    let call = Call::post(HOST, "/echo", "").header("te", "trailers").body(body);
    let mut response = peer.start(call).await.unwrap();
    assert_eq!(response.status(), 200);
    // Each piece comes back before the next one is sent: nothing is collected on the way.
    for number in 0..5 {
        let piece = format!("piece {number}");
        sender.send(Ok(http_body::Frame::data(piece.clone().into()))).await.unwrap();
        let frame = wait::ends("a piece", response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece.as_bytes());
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-checksum", "1".parse().unwrap());
    trailers.insert("countersign-user", "root".parse().unwrap());
    sender.send(Ok(http_body::Frame::trailers(trailers))).await.unwrap();
    let frame = wait::ends("the trailers", response.body_mut().frame()).await.unwrap().unwrap();
    let trailers = frame.into_trailers().unwrap();
    assert_eq!(trailers.get("x-checksum").unwrap(), "1");
    assert_eq!(trailers.get("countersign-user"), None);

    let big = vec![7_u8; 5 << 20];
    let reply = peer.send(Call::post(HOST, "/echo", big.clone())).await.unwrap();
    assert!(reply.body == big, "{} bytes came back", reply.body.len());
}

/// More streams than allowed wait for their turn, and all are served.
#[tokio::test]
async fn h2_stream_limit() {
    let lab = Lab::new();
    let app = App::serving(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            countersign_integration::app::status(204)
        })
    });
    let orders = lab.orders(&app, |spec| spec).await;
    let Conn::H2(sender) = lab.peer(&orders, lab.gateway.leaf()).await else { panic!("HTTP/2") };
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut conn = Conn::H2(sender.clone());
        all.spawn(async move { conn.send(Call::get(HOST, "/")).await.unwrap().status });
    }
    assert!(all.join_all().await.iter().all(|status| *status == 204));
}

/// Admin is loopback, read-only and closed to names that are not this machine.
#[tokio::test]
async fn app_cannot_change_or_read_secrets_via_admin() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let admin = orders.admin_address();
    let host = admin.to_string();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let call = Call::get(&host, "/").method(method.parse().unwrap());
        assert_eq!(client::call(admin, call).await.status, 405, "{method}");
    }
    for path in ["/shutdown", "/quitquitquit", "/env.json", "/config_dump", "/debug/pprof"] {
        assert_eq!(client::call(admin, Call::get(&host, path)).await.status, 404, "{path}");
    }
    assert_eq!(client::call(admin, Call::get("evil.example", "/")).await.status, 403);
    assert_eq!(client::call(admin, Call::get(&host, "/")).await.status, 200);
    assert!(orders.process.exit_status().is_none());
}

/// A permit has an end: what still streams then is cut, and never looks whole.
#[tokio::test]
async fn a_stream_ends_with_its_permit() {
    let lab = Lab::new();
    let app = App::serving(|_| {
        Box::pin(async {
            let (sender, body) = client::stream();
            tokio::spawn(async move {
                let _ = sender.send(Ok(hyper::body::Frame::data("first".into()))).await;
                sender.closed().await;
            });
            Ok(Response::new(body))
        })
    });
    let rules = json!([{
        "name": "short", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
        "context": "optional", "obligations": {"maxStreamAge": "1s"},
    }]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let streamed = wait::ends("the stream", peer.send(Call::get(HOST, "/"))).await;
    assert!(streamed.is_err(), "a cut body looks whole");
}

/// The variable that makes other programs write down their TLS secrets has no effect here.
#[tokio::test]
async fn no_key_log() {
    let lab = Lab::new();
    let app = App::mirror();
    let log = lab.folder().join("keys.log");
    let orders = lab.orders(&app, |spec| spec.env("SSLKEYLOGFILE", log.clone())).await;
    assert_eq!(lab.call_as_gateway(&orders, Call::get(HOST, "/")).await.status, 200);
    assert!(!log.exists());
}
