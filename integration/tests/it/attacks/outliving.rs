//! Outliving the reason (T17): streams and connections after expiry, revocation or a new deny.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_integration::client::{self, Call, Conn, Reply};
use countersign_integration::pki::Request;
use countersign_integration::{App, BytesApp, Lab, Leaf, Proxy, RawApp, documents, tls, wait};
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::interception::live::{Chat, HOST, hex, without};

/// Everybody of the mesh but for `/chat`.
fn no_chat() -> Value {
    let mut rules = documents::anybody();
    let deny = json!({"name": "no-chat", "effect": "deny", "match":
        {"caller": {"anyInMesh": true}, "http": {"paths": [{"prefix": "/chat"}]}}});
    rules.as_array_mut().unwrap().push(deny);
    rules
}

#[tokio::test]
async fn attack_keeps_websocket_after_new_deny_rule() {
    let lab = Lab::new();
    let app = RawApp::echo_after_upgrade().await;
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let mut chat = Chat::open(&orders, &lab.ca.leaf("shop", "web")).await;
    chat.ping().await;
    lab.write("access.yaml", &documents::access("shop", no_chat()));
    chat.ends().await;
    let ended = orders.ended(&chat.decision).await;
    assert_eq!(ended["reason"], "policy/deny_rule", "{ended}");
    assert_eq!((&ended["decision"], &ended["rule"]), (&json!("deny"), &json!("no-chat")));
    orders.metric_reaches("countersign_connections_ended_total", &["reason=\"policy\""], 1.0).await;
}

/// Nothing of what a revoked certificate had opened goes on, and nothing new begins.
#[tokio::test]
async fn attack_keeps_stream_after_revocation() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let (thief, web) = (lab.ca.leaf("shop", "web"), lab.ca.leaf("shop", "web"));
    let (mut stolen, mut good) = (lab.peer(&orders, &thief).await, lab.peer(&orders, &web).await);
    let (_sender, body) = client::stream();
    let stream = stolen.start(Call::post(HOST, "/echo", "").body(body)).await.unwrap();
    let id = stream.headers()["countersign-decision"].to_str().unwrap().to_owned();
    lab.revoke(json!({"certificates": [{"sha256": hex(&thief)}]}));
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
    let ended = orders.ended(&id).await;
    assert_eq!(ended["reason"], "revoked/certificate", "{ended}");
    wait::until_true("the end of the connection", || stolen.is_closed()).await;
    assert!(refused_by_handshake(&orders, &thief).await);
    orders.metric_reaches("countersign_tls_handshakes_total", &["result=\"revoked\""], 1.0).await;
    // Another certificate of the same workload goes on as before.
    assert_eq!(good.send(Call::get(HOST, "/")).await.unwrap().status, 200);
}

/// What an app has read of its requests' bodies: bytes, and bodies that are over.
#[derive(Default)]
struct Read {
    bytes: AtomicUsize,
    bodies: AtomicUsize,
}

impl Read {
    async fn reaches(&self, bytes: usize, bodies: usize) {
        wait::until_true("the app to read", || {
            let read = self.bodies.load(Ordering::Relaxed);
            self.bytes.load(Ordering::Relaxed) >= bytes && read >= bodies
        })
        .await;
    }
}

/// Reads whatever comes for as long as it comes; begins an answer to `Begin`, none to others.
fn reader(read: &Arc<Read>) -> App {
    let read = Arc::clone(read);
    App::serving(move |request| {
        let read = Arc::clone(&read);
        Box::pin(async move {
            let begins = request.uri().path().ends_with("/Begin");
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                    read.bytes.fetch_add(length, Ordering::Relaxed);
                }
                read.bodies.fetch_add(1, Ordering::Relaxed);
            });
            if !begins {
                return std::future::pending().await;
            }
            let (sender, body) = client::stream();
            tokio::spawn(async move { sender.closed().await });
            Ok(Response::builder().header("content-type", "application/grpc").body(body)?)
        })
    })
}

type Pieces = tokio::sync::mpsc::Sender<anyhow::Result<Frame<bytes::Bytes>>>;

/// A call that uploads five bytes and goes on; how it ends comes later.
async fn upload(
    conn: &Conn,
    method: &str,
    timeout: Option<&str>,
) -> (Pieces, tokio::task::JoinHandle<Reply>) {
    let (sender, body) = client::stream();
    let mut call = Call::post(HOST, &format!("/shop.Orders/{method}"), "").grpc().body(body);
    if let Some(timeout) = timeout {
        call = call.header("grpc-timeout", timeout);
    }
    let mut conn = conn.share().unwrap();
    let reply = tokio::spawn(async move { conn.send(call).await.unwrap() });
    sender.send(Ok(Frame::data("hello".into()))).await.unwrap();
    (sender, reply)
}

/// The status that ends a call closes our half only. Its client sends on as if it had not heard:
/// not a byte reaches the app, whether its answer had begun or not.
#[tokio::test]
async fn attack_uploads_on_after_the_end_of_its_call() {
    let lab = Lab::new();
    let read = Arc::new(Read::default());
    let app = reader(&read);
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let (begun, begun_ends) = upload(&web, "Begin", None).await;
    let (silent, silent_ends) = upload(&web, "Silent", None).await;
    read.reaches(10, 0).await;
    lab.write("access.yaml", &documents::access("shop", without("web")));
    let reply = begun_ends.await.unwrap();
    assert_eq!(reply.trailers["grpc-status"], "7", "{reply:?}");
    let reply = silent_ends.await.unwrap();
    assert_eq!(reply.header("grpc-status"), Some("7"), "{reply:?}");
    sends_on(begun).await;
    sends_on(silent).await;
    read.reaches(10, 2).await;
    assert_eq!(read.bytes.load(Ordering::Relaxed), 10);
}

/// The same when it was the call's own deadline.
#[tokio::test]
async fn attack_uploads_on_after_its_deadline() {
    let lab = Lab::new();
    let read = Arc::new(Read::default());
    let app = reader(&read);
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let web = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let calls = [upload(&web, "Begin", Some("5S")).await, upload(&web, "Silent", Some("5S")).await];
    read.reaches(10, 0).await;
    for (sender, ends) in calls {
        let reply = ends.await.unwrap();
        let status = reply.trailers.get("grpc-status").or(reply.headers.get("grpc-status"));
        assert_eq!(status.unwrap(), "4", "{reply:?}");
        sends_on(sender).await;
    }
    read.reaches(10, 2).await;
    assert_eq!(read.bytes.load(Ordering::Relaxed), 10);
}

/// Sends pieces until the other end has had enough of them, or a hundred.
async fn sends_on(sender: Pieces) {
    for _ in 0..100 {
        if sender.send(Ok(Frame::data("more".into()))).await.is_err() {
            return;
        }
    }
}

/// Whether a certificate opens nothing. A TLS 1.3 client learns of a refusal after its own half.
async fn refused_by_handshake(proxy: &Proxy, leaf: &Leaf) -> bool {
    let config = tls::client(Some(leaf), &[tls::MESH_H2]);
    match Conn::tls(proxy.inbound(), config).await {
        Ok(mut conn) => conn.send(Call::get(HOST, "/")).await.is_err(),
        Err(_) => true,
    }
}

/// One pod is named; its connection ends although nothing moves on it, that of its sibling does not.
#[tokio::test]
async fn attack_keeps_connection_of_revoked_pod() {
    const BAD: &str = "0f9b6c1e-4d0a-4c53-9d55-1f2f8c7a7f10";
    const SIBLING: &str = "5c0e7a0e-3b0f-4c55-9f6b-1d8f0a2b7c11";
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let leaf = |uid| lab.ca.issue(Request::new(&[&lab.id("shop", "web")]).in_pod(uid));
    let mut bad = lab.peer(&orders, &leaf(BAD)).await;
    let mut sibling = lab.peer(&orders, &leaf(SIBLING)).await;
    for conn in [&mut bad, &mut sibling] {
        assert_eq!(conn.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    }
    lab.revoke(json!({"pods": [{"uid": BAD}]}));
    // Its own certificate names no pod, so it warns that others may not either.
    wait::until_true("the warning", || orders.log().contains("RV-01")).await;
    wait::until_true("the end of the connection", || bad.is_closed()).await;
    assert_eq!(sibling.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    assert!(refused_by_handshake(&orders, &leaf(BAD)).await, "a new certificate of the same pod");
    orders
        .metric_reaches("countersign_connections_ended_total", &["reason=\"revoked\""], 1.0)
        .await;
}

/// Connections are opened without pause while the revocation comes into force: whichever moment
/// each of them hits, none is left.
#[tokio::test]
async fn attack_connects_between_revocation_and_check() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.revocable(app.address, documents::anybody(), |spec| spec).await;
    let thief = lab.ca.leaf("shop", "web");
    let mut opened = Vec::new();
    wait::until("the first refusal", async || {
        let config = tls::client(Some(&thief), &[tls::MESH_H2]);
        if let Ok(mut conn) = Conn::tls(orders.inbound(), config).await {
            let served = conn.send(Call::get(HOST, "/")).await.is_ok();
            opened.push(conn);
            if opened.len() == 3 {
                lab.revoke(json!({"certificates": [{"sha256": hex(&thief)}]}));
            }
            return (!served).then_some(());
        }
        Some(())
    })
    .await;
    assert!(opened.len() >= 3, "it was refused before it was revoked");
    wait::until_true("the end of all connections", || opened.iter().all(Conn::is_closed)).await;
    wait::until("no connection", async || {
        let open = orders.metric("countersign_connections", &["direction=\"inbound\""]).await;
        (open == 0.0).then_some(())
    })
    .await;
}

/// The client would resume if it were let: the end of its certificate is looked at every time.
#[tokio::test]
async fn attack_resumes_tls_session_after_expiry() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let short = lab.ca.issue(Request::new(&[&lab.id("shop", "web")]).lives_s(5));
    let config = tls::client(Some(&short), &[tls::MESH_HTTP1]);
    let answer = async || {
        let stream = client::tls_stream(orders.inbound(), config.clone()).await.ok()?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        Some((client::raw(stream, request.as_bytes()).await, resumed))
    };
    for _ in 0..2 {
        let (text, resumed) = answer().await.expect("within its life");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(!resumed);
    }
    wait::until("the certificate to be refused", async || {
        let refused = answer().await.is_none_or(|(text, _)| text.is_empty());
        refused.then_some(())
    })
    .await;
    orders.metric_reaches("countersign_tls_handshakes_total", &["result=\"expired\""], 1.0).await;
}

/// Opaque bytes may go on for a while after the certificate, which is counted; then they end.
#[tokio::test]
async fn attack_keeps_tcp_connection_past_its_allowance() {
    let lab = Lab::new();
    let (orders, leaf) = (bytes_behind(&lab).await, lab.ca.issue(short(&lab)));
    let mut bytes = Bytes::open(&orders, &leaf).await;
    orders.metric_reaches("countersign_connections_past_peer_expiry", &[], 1.0).await;
    bytes.ping().await;
    // A new one is accepted to the end of that second, and not for as long as this one.
    wait::until("the end of new ones", async || {
        (!Bytes::begins(&orders, &leaf).await).then_some(())
    })
    .await;
    bytes.ping().await;
    bytes.ends().await;
    orders.metric_reaches("countersign_connections_ended_total", &["reason=\"expiry\""], 1.0).await;
    let told = |record: &Value| record["kind"] == "ended" && record["reason"] == "expiry";
    wait::until_true("the record of the end", || orders.audit().iter().any(told)).await;
    wait::until("the gauge to fall", async || {
        let past = orders.metric("countersign_connections_past_peer_expiry", &[]).await;
        (past == 0.0).then_some(())
    })
    .await;
}

/// The allowance is for certificates that end, not for reasons that end.
#[tokio::test]
async fn attack_keeps_tcp_connection_after_a_new_deny_or_a_revocation() {
    let lab = Lab::new();
    let orders = bytes_behind(&lab).await;
    let (web, batch) = (lab.ca.leaf("shop", "web"), lab.ca.leaf("shop", "batch"));
    let mut denied = Bytes::open(&orders, &web).await;
    let mut revoked = Bytes::open(&orders, &batch).await;
    lab.write("access.yaml", &documents::access("shop", bytes_of(&["batch"])));
    denied.ends().await;
    revoked.ping().await;
    lab.revoke(json!({"identities": [
        {"spiffeId": lab.id("shop", "batch"), "issuedBefore": "2126-01-01T00:00:00Z"}]}));
    revoked.ends().await;
    for reason in ["policy", "revoked"] {
        let label = format!("reason=\"{reason}\"");
        orders.metric_reaches("countersign_connections_ended_total", &[&label], 1.0).await;
    }
}

fn short(lab: &Lab) -> Request {
    Request::new(&[&lab.id("shop", "web")]).lives_s(4)
}

fn bytes_of(accounts: &[&str]) -> Value {
    let callers: Vec<_> = accounts
        .iter()
        .map(|account| json!({"namespace": "shop", "serviceAccount": account}))
        .collect();
    json!([{"name": "bytes", "effect": "allow", "match":
        {"caller": {"anyOf": callers}, "tcp": {"any": true}}}])
}

/// `shop/orders` in front of an app that echoes bytes.
async fn bytes_behind(lab: &Lab) -> Proxy {
    let app = BytesApp::echo();
    let address = app.address;
    // Lives as long as the test.
    std::mem::forget(app);
    lab.revocable(address, bytes_of(&["web", "batch"]), |spec| {
        spec.with(|config| {
            config["app"][0]["protocol"] = json!("tcp");
            config["tcp"] = json!({"afterPeerExpiry": "10s"});
        })
    })
    .await
}

/// An opaque connection of a mesh peer.
struct Bytes(tokio_rustls::client::TlsStream<tokio::net::TcpStream>);

impl Bytes {
    async fn open(proxy: &Proxy, leaf: &Leaf) -> Bytes {
        let config = tls::client(Some(leaf), &[tls::MESH_TCP]);
        let mut bytes = Bytes(client::tls_stream(proxy.inbound(), config).await.unwrap());
        bytes.ping().await;
        bytes
    }

    /// Whether a connection is served at all.
    async fn begins(proxy: &Proxy, leaf: &Leaf) -> bool {
        let config = tls::client(Some(leaf), &[tls::MESH_TCP]);
        let Ok(mut stream) = client::tls_stream(proxy.inbound(), config).await else {
            return false;
        };
        let mut back = [0; 4];
        stream.write_all(b"ping").await.is_ok()
            && wait::ends("an echo or an end", stream.read_exact(&mut back)).await.is_ok()
    }

    async fn ping(&mut self) {
        self.0.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        wait::ends("the echo", self.0.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"ping");
    }

    async fn ends(&mut self) {
        let mut rest = Vec::new();
        let _ = wait::ends("the end", self.0.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}
