//! Detection and opaque TCP through both sidecars, in explicit mode.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_integration::bytes::is_cut_off;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused_bytes;
use countersign_integration::{App, BytesApp, Lab, Mesh, Proxy, documents, ports, tls, wait};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Two sidecars with an app of bytes behind the second.
struct Pair {
    web: Proxy,
    db: Proxy,
}

/// Bytes from anybody of the mesh.
fn mesh_bytes() -> Value {
    json!([{"name": "bytes", "effect": "allow", "match":
        {"caller": {"anyInMesh": true}, "tcp": {"any": true}}}])
}

/// Bytes from anybody at all.
fn all_bytes() -> Value {
    json!([{"name": "open", "effect": "allow", "match":
        {"caller": {"unauthenticated": true}, "tcp": {"any": true}}}])
}

/// Requests of one path, from anybody.
fn requests_only() -> Value {
    json!([{"name": "api", "effect": "allow", "context": "none", "match":
        {"caller": {"unauthenticated": true}, "http": {"paths": [{"prefix": "/public"}]}}}])
}

/// The sidecar of `shop/db` in front of `app`; `port` is what is written about the app's port.
async fn db(lab: &Lab, app: SocketAddr, rules: Value, port: Value) -> Proxy {
    let mesh = lab.write("db-mesh.yaml", &lab.mesh().document());
    let access = lab.write("db-access.yaml", &documents::access("shop", rules));
    let spec = lab.proxy("shop", "db").inbound(app).documents(&[&mesh, &access]);
    let spec = spec.with(|config| {
        for (name, value) in port.as_object().unwrap() {
            config["app"][0][name] = value.clone();
        }
    });
    spec.start().await
}

/// The sidecar of `shop/web`, whose outbound listener stands for `shop/db`.
async fn web(lab: &Lab, mesh: &Mesh) -> Proxy {
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let spec = lab.proxy("shop", "web").outbound().documents(&[&mesh]);
    let bound = |config: &mut Value| {
        config["listeners"]["outbound"][0]["destination"] = json!("shop/db");
    };
    spec.with(bound).start().await
}

async fn pair(lab: &Lab, app: &BytesApp) -> Pair {
    let db = db(lab, app.address, mesh_bytes(), json!({"protocol": "tcp"})).await;
    let mesh = lab.mesh().destination_speaking(
        "shop/db",
        "db.shop",
        db.inbound(),
        &[&lab.id("shop", "db")],
        json!({"protocol": "tcp"}),
    );
    Pair { web: web(lab, &mesh).await, db }
}

impl Pair {
    /// The app of `web` calls its sidecar.
    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.web.outbound()).await.unwrap()
    }
}

async fn only(proxy: &Proxy, kind: &str) -> Value {
    let find = || async {
        let mut found = proxy.audit().into_iter().filter(|record| record["kind"] == kind);
        let first = found.next()?;
        assert_eq!(found.next(), None, "one {kind} of one connection");
        Some(first)
    };
    wait::until(&format!("a record of kind {kind}"), find).await
}

/// Whether the other end resets the connection rather than ending it in order.
async fn is_reset<IO: AsyncRead + Unpin>(mut io: IO) -> bool {
    let read = async {
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await
    };
    wait::ends("a reset", read)
        .await
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn half_close_both_ways() {
    let lab = Lab::new();
    // Answers only once the client has ended, and goes on for a while after that.
    let app = BytesApp::serving(|mut stream| {
        Box::pin(async move {
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await?;
            for _ in 0..100 {
                stream.write_all(&asked).await?;
            }
            stream.shutdown().await
        })
    });
    let pair = pair(&lab, &app).await;
    let mut client = pair.dial().await;
    client.write_all(&[7; 10_000]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    wait::ends("the answer", client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 1_000_000);

    let decision = only(&pair.db, "decision").await;
    assert_eq!(decision["decision"], "allow", "{decision}");
    assert_eq!(decision["rule"], "bytes", "{decision}");
    assert_eq!(decision["peer"]["id"], lab.id("shop", "web"), "{decision}");
    assert_eq!(decision["req"], json!({"proto": "tcp", "port": pair.db.inbound().port()}));
    let ended = only(&pair.db, "ended").await;
    assert_eq!(ended["id"], decision["id"]);
    assert_eq!(ended["res"], json!({"bytes_in": 10_000, "bytes_out": 1_000_000}), "{ended}");
    assert_eq!(ended.get("reason"), None, "both ended it: {ended}");
    let own = only(&pair.web, "ended").await;
    assert_eq!(own["res"], ended["res"], "{own}");
    assert_eq!(own["callee"]["presented"], lab.id("shop", "db"), "{own}");
    assert!(pair.web.decisions().is_empty(), "the callee decides");
    let received = ["direction=\"inbound\"", "flow=\"received\""];
    pair.db.metric_reaches("countersign_tcp_bytes_total", &received, 10_000.0).await;
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let lab = Lab::new();
    let app = BytesApp::greeting(b"220 mail.shop ESMTP\r\n");
    let pair = pair(&lab, &app).await;
    let mut client = pair.dial().await;
    let mut greeting = [0; 21];
    wait::ends("the greeting", client.read_exact(&mut greeting)).await.unwrap();
    client.write_all(b"EHLO web.shop\r\n").await.unwrap();
    let mut echoed = [0; 15];
    wait::ends("the answer", client.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"EHLO web.shop\r\n");
    // Nobody waited for a client that says nothing.
    assert_eq!(pair.web.metric("countersign_detect_timeout_total", &[]).await, 0.0);
    assert_eq!(pair.db.metric("countersign_detect_timeout_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_reset_comes_through() {
    let lab = Lab::new();
    let app = BytesApp::serving(|mut stream| {
        Box::pin(async move {
            stream.read_exact(&mut [0; 4]).await?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        })
    });
    let pair = pair(&lab, &app).await;
    let mut client = pair.dial().await;
    client.write_all(b"quit").await.unwrap();
    assert!(is_reset(client).await, "a stream that broke off must not look complete");
    assert_eq!(only(&pair.db, "ended").await["reason"], "broken/upstream");
}

#[tokio::test]
async fn a_caller_nobody_allows_is_reset() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let only_cart = json!([{"name": "cart", "effect": "allow", "match":
        {"caller": {"anyOf": [{"namespace": "shop", "serviceAccount": "cart"}]}, "tcp": {"any": true}}}]);
    let db = db(&lab, app.address, only_cart, json!({"protocol": "tcp"})).await;
    let config = tls::client(Some(&lab.ca.leaf("shop", "web")), &[tls::MESH_TCP]);
    let stream = client::tls_stream(db.inbound(), config).await.unwrap();
    assert!(is_reset(stream).await);
    let record = refused_bytes(&db, "policy_denied", 1).await;
    assert_eq!(record["reason"], "policy_denied/no_match", "{record}");
    let mut plain = TcpStream::connect(db.inbound()).await.unwrap();
    plain.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    assert!(is_reset(plain).await);
    let record = refused_bytes(&db, "peer_unauthenticated", 1).await;
    assert_eq!(record["peer"]["none"], "plaintext", "{record}");
    assert_eq!(app.accepted(), 0);
}

/// TLS of the app's own ends in the app, from a caller who is nobody to us.
#[tokio::test]
async fn the_apps_own_tls_is_carried_as_it_is() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "db");
    let acceptor = TlsAcceptor::from(tls::server(&leaf, &[b"postgresql"]));
    let app = BytesApp::serving(move |stream| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word).await?;
            stream.shutdown().await
        })
    });
    for (tls_mode, protocol) in
        [("mesh", json!(null)), ("pass", json!(null)), ("mesh", json!("tcp"))]
    {
        let mut port = json!({"tls": tls_mode});
        if !protocol.is_null() {
            port["protocol"] = protocol;
        }
        let lab = Lab::new();
        let db = db(&lab, app.address, all_bytes(), port).await;
        let config = tls::client(Some(&lab.ca.leaf("shop", "web")), &[b"postgresql"]);
        let mut stream = client::tls_stream(db.inbound(), config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"postgresql".as_slice()));
        stream.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        wait::ends("the echo", stream.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"word");
        let record = only(&db, "decision").await;
        assert_eq!(record["peer"], json!({"none": "app_tls"}), "{record}");
        assert_eq!(record["rule"], "open");
    }
}

/// Where rules look into requests, nothing passes that shows none: bytes, silence, half a request
/// of another protocol, TLS of the app's own.
#[tokio::test]
async fn undetectable_bytes_do_not_reach_a_port_of_requests() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let db = db(&lab, app.address, requests_only(), json!({"detectTimeout": "500ms"})).await;
    for (nth, bytes) in [b"EHLO web\r\n".as_slice(), b"get key\r\n", b"", b"GE", b"\x16\x03"]
        .into_iter()
        .enumerate()
    {
        let mut stream = TcpStream::connect(db.inbound()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        assert!(is_reset(stream).await, "{bytes:?}");
        let record = refused_bytes(&db, "undetectable", nth + 1).await;
        assert_eq!(record["peer"]["none"], "plaintext", "{record}");
    }
    let timeouts = db.metric("countersign_detect_timeout_total", &[]).await;
    assert!((timeouts - 3.0).abs() < 0.1, "silence and two beginnings: {timeouts}");
    assert_eq!(app.accepted(), 0);
}

/// A preface cut so that its first piece tells nothing must not make the rest opaque.
#[tokio::test]
async fn preface_split_to_dodge_l7_policy() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let db = db(&lab, app.address, requests_only(), json!({"detectTimeout": "500ms"})).await;
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for cut in [1, 3] {
        let mut stream = TcpStream::connect(db.inbound()).await.unwrap();
        let _ = stream.write_all(&preface[..cut]).await;
        assert!(is_reset(stream).await, "it could be anything, {cut}");
        refused_bytes(&db, "undetectable", 1).await;
    }
    // Late, and yet nothing else: HTTP/2, whose requests are judged one by one.
    let mut late = db.metric("countersign_detect_timeout_total", &[]).await;
    for cut in [4, 14, 23] {
        let mut stream = TcpStream::connect(db.inbound()).await.unwrap();
        let (first, rest) = preface.split_at(cut);
        stream.write_all(first).await.unwrap();
        late += 1.0;
        db.metric_reaches("countersign_detect_timeout_total", &[], late).await;
        stream.write_all(rest).await.unwrap();
        let mut frame = [0; 9];
        wait::ends("our SETTINGS", stream.read_exact(&mut frame)).await.unwrap();
        assert_eq!(frame[3], 4, "a SETTINGS frame: {frame:?}");
    }
    // The requests of either version meet the rules.
    for h2 in [false, true] {
        let conn = if h2 { Conn::h2(db.inbound()).await } else { Conn::h1(db.inbound()).await };
        let reply = conn.unwrap().send(Call::get("db.shop", "/private")).await.unwrap();
        assert_eq!(reply.status, 403, "{}", reply.text());
    }
    assert_eq!(app.accepted(), 0);
}

/// Requests do not become bytes by saying so: from a sidecar that calls them bytes, or from a client
/// that takes its time, they would reach the app with whatever headers they like.
#[tokio::test]
async fn attack_smuggles_requests_as_bytes() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([
        {"name": "mesh", "effect": "allow", "context": "optional", "match":
            {"caller": {"anyInMesh": true}}},
        {"name": "open", "effect": "allow", "match":
            {"caller": {"unauthenticated": true}, "tcp": {"any": true}}},
    ]);
    let orders = db(&lab, app.address, rules, json!({})).await;
    let fields = b"\r\nHost: a\r\nCountersign-User: root\r\n\r\n";
    let request = [b"GET / HTTP/1.1".as_slice(), fields].concat();
    let config = tls::client(Some(&lab.ca.leaf("shop", "web")), &[tls::MESH_TCP]);
    // The last ones are no requests by the grammar, and yet some server serves each of them.
    let blanks = [b'\n'; 17 * 1024];
    let lines = [
        b"GET / HTTP/1.1".as_slice(),
        b"\rGET / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"\t\r\n GET\t/\t HTTP/1.1\t",
        b"GET / HTTP/1.01",
        b"GET x HTTP/1.10",
        b"GET /\0 HTTP/1.1",
        b"GET / RTSP/1.0",
        b"GET /",
        &blanks,
    ];
    for (nth, line) in lines.into_iter().enumerate() {
        let mut stream = client::tls_stream(orders.inbound(), config.clone()).await.unwrap();
        stream.write_all(&[line, fields].concat()).await.unwrap();
        assert!(is_reset(stream).await, "{}", line.escape_ascii());
        let record = refused_bytes(&orders, "protocol_mismatch", nth + 1).await;
        assert_eq!(record["kind"], "ended", "{record}");
        assert_eq!(record["peer"]["id"], lab.id("shop", "web"), "{record}");
    }

    // It could be anything, so it is let in as bytes; then it turns out to be a request.
    let mut slow = TcpStream::connect(orders.inbound()).await.unwrap();
    slow.write_all(b"GE").await.unwrap();
    orders.metric_reaches("countersign_detect_timeout_total", &[], 1.0).await;
    slow.write_all(&request[2..]).await.unwrap();
    assert!(is_reset(slow).await);
    refused_bytes(&orders, "protocol_mismatch", lines.len() + 1).await;

    // What is no request is carried, and the app says what it thinks of it.
    let mut stream = client::tls_stream(orders.inbound(), config).await.unwrap();
    stream.write_all(b"word\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    wait::ends("the app's own answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    assert!(app.seen().is_empty(), "{:?}", app.seen());
}

/// What is declared beats what the bytes look like, and bytes that contradict it are refused.
#[tokio::test]
async fn declared_beats_detected() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let any = json!([{"name": "all", "effect": "allow", "context": "none", "match":
        {"caller": {"unauthenticated": true}, "any": true}}]);
    // A port of bytes carries HTTP as bytes.
    let bytes = db(&lab, app.address, all_bytes(), json!({"protocol": "tcp"})).await;
    let mut echoed = TcpStream::connect(bytes.inbound()).await.unwrap();
    echoed.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut same = [0; 18];
    wait::ends("the echo", echoed.read_exact(&mut same)).await.unwrap();
    assert_eq!(&same, b"GET / HTTP/1.1\r\n\r\n");
    // And takes no requests from a sidecar.
    let leaf = lab.ca.leaf("shop", "web");
    let mut refused = 0;
    for alpn in [tls::MESH_H2, tls::MESH_HTTP1] {
        let stream = client::tls_stream(bytes.inbound(), tls::client(Some(&leaf), &[alpn])).await;
        assert!(is_reset(stream.unwrap()).await);
        refused += 1;
        let record = refused_bytes(&bytes, "protocol_mismatch", refused).await;
        assert_eq!(record["peer"]["id"], lab.id("shop", "web"), "{record}");
    }
    // A port of HTTP takes no bytes, a port of gRPC no HTTP/1.
    let http = db(&lab, app.address, any.clone(), json!({"protocol": "http"})).await;
    let grpc = db(&lab, app.address, any, json!({"protocol": "grpc"})).await;
    for (nth, (proxy, first)) in [
        (&http, b"PING\r\n".as_slice()),
        (&grpc, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (&http, &hello(&[b"h2"])),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(proxy.inbound()).await.unwrap();
        let _ = stream.write_all(first).await;
        assert!(is_reset(stream).await, "{nth}");
        refused_bytes(proxy, "protocol_mismatch", if nth == 2 { 2 } else { 1 }).await;
    }
    for (nth, (proxy, alpn)) in
        [(&http, tls::MESH_TCP), (&grpc, tls::MESH_TCP), (&grpc, tls::MESH_HTTP1)]
            .into_iter()
            .enumerate()
    {
        let stream = client::tls_stream(proxy.inbound(), tls::client(Some(&leaf), &[alpn])).await;
        assert!(is_reset(stream.unwrap()).await, "{nth}");
        refused_bytes(proxy, "protocol_mismatch", [3, 2, 3][nth]).await;
    }
    assert_eq!(app.accepted(), 1, "nothing else came to the app");
}

/// A ClientHello as a client sends it.
fn hello(alpn: &[&[u8]]) -> Vec<u8> {
    let name = ServerName::try_from("db.shop").unwrap();
    let mut client = rustls::ClientConnection::new(tls::client(None, alpn), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Writes at most so many bytes at once.
struct Chopped<IO>(IO, usize);

impl<IO: AsyncRead + Unpin> AsyncRead for Chopped<IO> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Chopped<IO> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(self.1)];
        std::pin::Pin::new(&mut self.0).poll_write(cx, piece)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn post_quantum_hello_in_fragments() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let db = db(&lab, app.address, mesh_bytes(), json!({})).await;
    let leaf = lab.ca.leaf("shop", "web");
    for piece in [1, 7, 500] {
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let config = tls::client_with(Arc::new(provider), Some(&leaf), &[tls::MESH_TCP]);
        let tcp = TcpStream::connect(db.inbound()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::IpAddress(db.inbound().ip().into());
        let handshake = TlsConnector::from(config).connect(name, Chopped(tcp, piece));
        let mut stream = wait::ends("the handshake", handshake).await.unwrap();
        stream.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        wait::ends("the echo", stream.read_exact(&mut word)).await.unwrap();
        assert_eq!(&word, b"word", "in pieces of {piece}");
    }
}

/// Standard TLS clients with a certificate of the mesh, and no sidecar.
#[tokio::test]
async fn tls_ends_here_where_the_port_says_so() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = db(&lab, app.address, documents::anybody(), json!({"tls": "terminate"})).await;
    let leaf = lab.ca.leaf("shop", "web");
    for alpn in [[b"h2".as_slice()].as_slice(), &[b"http/1.1"], &[]] {
        let config = tls::client(Some(&leaf), alpn);
        let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
        let mut conn = match alpn {
            [b"h2"] => Conn::h2_over(stream).await.unwrap(),
            _ => Conn::h1_over(stream).await.unwrap(),
        };
        let reply = conn.send(Call::get("orders.shop", "/x")).await.unwrap();
        assert_eq!(reply.status, 200, "{alpn:?} {}", reply.text());
        assert_eq!(reply.seen("countersign-caller"), Some(lab.id("shop", "web")));
    }
    // Sidecars come as ever.
    let reply = lab.call_as("shop", "web", &orders, Call::get("orders.shop", "/")).await;
    assert_eq!(reply.status, 200);
    // Who has no certificate stays out, and plaintext is a caller without identity.
    let nobody = tls::client(None, &[b"http/1.1"]);
    let outcome = async {
        let mut conn = Conn::tls(orders.inbound(), nobody).await?;
        conn.send(Call::get("orders.shop", "/")).await
    };
    assert!(outcome.await.is_err());
    let label = ["result=\"no_certificate\""];
    orders.metric_reaches("countersign_tls_handshakes_total", &label, 1.0).await;
    let reply = client::call(orders.inbound(), Call::get("orders.shop", "/")).await;
    assert_eq!(reply.status, 403);
}

/// The app calls a destination of HTTP with something else, or one of bytes that is nobody.
#[tokio::test]
async fn the_app_is_held_to_what_is_declared() {
    let lab = Lab::new();
    let nowhere = ports::free();
    let mesh = lab.mesh().destination("shop/db", "db.shop", nowhere, &[&lab.id("shop", "db")]);
    let web = web(&lab, &mesh).await;
    for (nth, first) in [b"PING\r\n".as_slice(), &hello(&[])].into_iter().enumerate() {
        let mut stream = TcpStream::connect(web.outbound()).await.unwrap();
        let _ = stream.write_all(first).await;
        assert!(is_reset(stream).await);
        refused_bytes(&web, "protocol_mismatch", nth + 1).await;
    }
}

/// A destination of bytes that cannot be reached, or is somebody else: reset, never plaintext.
#[tokio::test]
async fn bytes_go_to_nobody_but_who_was_expected() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let db = db(&lab, app.address, mesh_bytes(), json!({"protocol": "tcp"})).await;
    let speaking = json!({"protocol": "tcp"});
    let nobody = ports::free();
    for (at, id, reason) in [
        (db.inbound(), "cart", "server_identity_unexpected"),
        (nobody, "db", "upstream_unreachable"),
        (app.address, "db", "upstream_failed"),
    ] {
        let ids = [&*lab.id("shop", id)];
        let mesh =
            lab.mesh().destination_speaking("shop/db", "db.shop", at, &ids, speaking.clone());
        let web = web(&lab, &mesh).await;
        assert!(is_cut_off(TcpStream::connect(web.outbound()), b"secret").await, "{reason}");
        let record = refused_bytes(&web, reason, 1).await;
        assert_eq!(record["callee"]["host"], "shop/db", "{record}");
    }
    assert!(app.accepted() <= 1, "the app that is no sidecar saw a ClientHello and nothing else");
}

/// Bytes flow only as long as the destination expects who answered: one end, counted once.
#[tokio::test]
async fn bytes_end_where_the_callee_is_no_longer_expected() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let Pair { web, db } = pair(&lab, &app).await;
    let mut stream = TcpStream::connect(web.outbound()).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    wait::ends("the echo", stream.read_exact(&mut back)).await.unwrap();
    let ids = [&*lab.id("shop", "other")];
    let speaking = json!({"protocol": "tcp"});
    let mesh = lab.mesh().destination_speaking("shop/db", "db.shop", db.inbound(), &ids, speaking);
    lab.write("web-mesh.yaml", &mesh.document());
    web.reload();
    assert!(is_reset(stream).await);
    let ended = only(&web, "ended").await;
    assert_eq!(ended["reason"], "policy/no_match", "{ended}");
    let counted = ("countersign_connections_ended_total", ["reason=\"policy\""]);
    web.metric_reaches(counted.0, &counted.1, 1.0).await;
    assert_eq!(web.metric(counted.0, &counted.1).await, 1.0);
}
