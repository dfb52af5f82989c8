//! Floods of HTTP: memory stays bounded, and others keep being served.

use std::time::Duration;

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::h2raw::{
    END_HEADERS, END_STREAM, Fate, H2Raw, block, frame, indexed, kind,
};
use countersign_integration::outcome::{refused, refused_head};
use countersign_integration::{App, Lab, Proxy, tls, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const HOST: &str = "orders.shop";
const MIB: u64 = 1 << 20;

/// Resident memory of a process, in bytes.
fn resident(proxy: &Proxy) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", proxy.process.id())).unwrap();
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap();
    pages * 4096
}

/// A sidecar under attack, and what it weighed before.
struct Target {
    orders: Proxy,
    app: App,
    lab: Lab,
    before: u64,
}

impl Target {
    async fn start(limits: &[(&str, u64)]) -> Target {
        Target::serving(App::mirror(), limits).await
    }

    async fn serving(app: App, limits: &[(&str, u64)]) -> Target {
        let lab = Lab::new();
        let change = |spec| {
            limits.iter().fold(spec, |s: countersign_integration::proxy::Spec, (name, value)| {
                s.limit(name, *value)
            })
        };
        let orders = lab.orders(&app, change).await;
        let target = Target { orders, app, lab, before: 0 };
        // Warm: everything that is made once is there.
        for _ in 0..20 {
            target.others_are_served().await;
        }
        Target { before: resident(&target.orders), ..target }
    }

    /// A raw HTTP/2 connection of a mesh peer.
    async fn h2(&self, settings: &[(u16, u32)]) -> H2Raw<TlsStream<TcpStream>> {
        H2Raw::open(self.tls(tls::MESH_H2).await, settings).await
    }

    async fn tls(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let config = tls::client(Some(self.lab.gateway.leaf()), &[alpn]);
        client::tls_stream(self.orders.inbound(), config).await.unwrap()
    }

    /// Somebody else, on a connection of its own.
    async fn others_are_served(&self) {
        let call = Call::get(HOST, "/").header("countersign-http1", "1.1");
        let reply = self.lab.call_as("shop", "web", &self.orders, call).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// What the attack has cost. The bound is far above noise and far below what was sent.
    async fn is_unharmed(&self, most: u64) {
        self.others_are_served().await;
        let grown = resident(&self.orders).saturating_sub(self.before);
        println!("memory grew by {} KiB", grown >> 10);
        assert!(grown < most, "memory grew by {} MiB", grown / MIB);
        assert_eq!(self.orders.process.exit_status(), None);
    }
}

fn request(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", path),
        ("countersign-http1", "1.1"),
    ])
}

/// Stream ids of a client: 1, 3, 5, …
fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// A thousand connections that never finish a head end after the head time, and hold no more than
/// their bytes meanwhile.
#[tokio::test]
async fn slow_headers_cannot_hold_connections() {
    let target = Target::start(&[("H1_HEAD_MS_MAX", 3_000)]).await;
    let mut slow = Vec::new();
    for _ in 0..1_000 {
        let mut stream = TcpStream::connect(target.orders.inbound()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: orders.shop\r\nX-Slow: a").await.unwrap();
        slow.push(stream);
    }
    target.is_unharmed(128 * MIB).await;
    // One more byte now and then changes nothing: the clock runs from the first.
    for stream in &mut slow {
        let _ = stream.write_all(b"a").await;
    }
    for mut stream in slow {
        let mut answer = String::new();
        let _ = wait::ends("a slow head", stream.read_to_string(&mut answer)).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    target.orders.metric_reaches("countersign_refusals_total", &["request_timeout"], 1.0).await;
    target.is_unharmed(128 * MIB).await;
}

/// Streams begun and reset at once: the connection ends, soon, and the app saw few of them.
#[tokio::test]
async fn h2_rapid_reset() {
    let target = Target::start(&[]).await;
    let seen = target.app.seen().len();
    let mut conn = target.h2(&[]).await;
    let head = request("/rapid");
    let mut sent = 0_u32;
    'flood: for _ in 0..200 {
        let mut burst = Vec::new();
        for _ in 0..100 {
            burst.extend(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream(sent), &head));
            burst.extend(frame(kind::RST_STREAM, 0, stream(sent), &8_u32.to_be_bytes()));
            sent += 1;
        }
        if !conn.write(&burst).await {
            break 'flood;
        }
    }
    let end = wait::ends("the flooding connection", async {
        loop {
            match conn.next().await {
                None => break true,
                Some(frame) if frame.kind == kind::GOAWAY => break true,
                Some(_) => {}
            }
        }
    });
    assert!(end.await);
    let reached = target.app.seen().len() - seen;
    assert!(reached < 2_000, "{reached} of {sent} reached the app");
    target.is_unharmed(32 * MIB).await;
}

/// A header block that never ends.
#[tokio::test]
async fn h2_continuation_flood() {
    let target = Target::start(&[]).await;
    let mut conn = target.h2(&[]).await;
    conn.send(kind::HEADERS, END_STREAM, 1, &request("/endless")).await;
    let piece = block(&[("x-a", "a".repeat(1_000))]);
    let mut sent = 0;
    while sent < 100_000 && conn.send(kind::CONTINUATION, 0, 1, &piece).await {
        sent += 1;
    }
    assert!(sent < 100_000, "all of it was taken");
    assert!(matches!(conn.fate(1).await, Fate::Ended(_) | Fate::Reset(_) | Fate::Answered));
    // Empty ones cost nothing to make, and end too.
    let mut conn = target.h2(&[]).await;
    conn.send(kind::HEADERS, END_STREAM, 1, &request("/endless")).await;
    let mut sent = 0;
    while sent < 1_000_000 && conn.send(kind::CONTINUATION, 0, 1, &[]).await {
        sent += 1;
    }
    assert!(sent < 1_000_000, "all of it was taken");
    target.is_unharmed(32 * MIB).await;
    assert!(!target.app.seen().iter().any(|seen| seen.target.contains("endless")));
}

/// One entry of the table, named thousands of times: a few bytes that stand for many megabytes.
#[tokio::test]
async fn attack_sends_an_hpack_bomb() {
    let target = Target::start(&[]).await;
    for round in 0..20 {
        let mut conn = target.h2(&[]).await;
        let mut head = request("/bomb");
        head.extend(indexed(b"x-bomb", "b".repeat(3_900).as_bytes()));
        // Index 62 is the newest entry of the dynamic table.
        head.extend(std::iter::repeat_n(0xbe, 12_000));
        assert!(head.len() < 17_000);
        let (first, rest) = head.split_at(10_000);
        conn.send(kind::HEADERS, END_STREAM, 1, first).await;
        conn.send(kind::CONTINUATION, END_HEADERS, 1, rest).await;
        let fate = conn.fate(1).await;
        assert!(fate.refused(), "round {round}: {fate:?}");
    }
    target.is_unharmed(32 * MIB).await;
    assert!(!target.app.seen().iter().any(|seen| seen.target.contains("bomb")));
}

#[tokio::test]
async fn oversized_header_says_which_and_how_big() {
    let target = Target::start(&[]).await;
    let mut peer = target.lab.peer(&target.orders, target.lab.gateway.leaf()).await;
    let reply = peer.send(Call::get(HOST, "/").header("x-big", &"b".repeat(20_000))).await.unwrap();
    refused(&target.orders, &reply, "header_too_large").await;
    let why = target.orders.admin(&format!("/api/v1/why/{}", reply.decision())).await.text();
    assert!(why.contains("x-big") && why.contains("20000") && why.contains("16384"), "{why}");

    // A list over the limit never becomes a request.
    let mut conn = target.h2(&[]).await;
    let mut head = request("/many");
    for number in 0..20 {
        head.extend(block(&[(format!("x-{number}"), "v".repeat(4_000))]));
    }
    let mut pieces = head.chunks(16_000);
    conn.send(kind::HEADERS, END_STREAM, 1, pieces.next().unwrap()).await;
    for piece in pieces {
        conn.send(kind::CONTINUATION, 0, 1, piece).await;
    }
    conn.send(kind::CONTINUATION, END_HEADERS, 1, &[]).await;
    assert!(conn.fate(1).await.refused());

    for text in [
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\n\r\n", "b".repeat(17_000)),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", "X: b\r\n".repeat(200)),
        format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\n{}",
            format!("X: {}\r\n", "b".repeat(8_000)).repeat(12)
        ),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX{}", "x".repeat(100_000)),
    ] {
        let answer = client::raw(target.tls(tls::MESH_HTTP1).await, text.as_bytes()).await;
        let reply = client::parse_raw(&answer);
        assert_eq!(reply.status, 431, "{answer}");
        refused_head(&target.orders, &reply, "header_too_large").await;
    }
    target.is_unharmed(32 * MIB).await;
}

/// Trailers over their limit: the message fails, half of it is never passed on as the whole.
#[tokio::test]
async fn oversized_trailer_is_refused() {
    let target = Target::start(&[]).await;
    let mut peer = target.lab.peer(&target.orders, target.lab.gateway.leaf()).await;
    let (sender, body) = client::stream();
    let call = Call::post(HOST, "/x/echo", "").header("te", "trailers").body(body);
    let mut response = peer.start(call).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut trailers = http::HeaderMap::new();
    for number in 0..5 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        trailers.insert(name, "t".repeat(4_000).parse().unwrap());
    }
    sender.send(Ok(http_body::Frame::trailers(trailers))).await.unwrap();
    let end = wait::ends("the answer", http_body_util::BodyExt::frame(response.body_mut())).await;
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    target.is_unharmed(32 * MIB).await;
}

/// More streams at once than were offered are refused one by one; the connection goes on.
#[tokio::test]
async fn attack_opens_more_streams_than_allowed() {
    let app = App::serving(|request| {
        Box::pin(async move {
            if request.uri().path() == "/held" {
                std::future::pending::<()>().await;
            }
            countersign_integration::app::status(200)
        })
    });
    let target = Target::serving(app, &[]).await;
    let mut conn = target.h2(&[]).await;
    let head = request("/held");
    for number in 0..1_000 {
        conn.send(kind::HEADERS, END_HEADERS | END_STREAM, stream(number), &head).await;
    }
    let mut refused = 0;
    while refused < 1_000 - 128 {
        let frame = wait::ends("the refusals", conn.next()).await.expect("an open connection");
        if frame.kind == kind::RST_STREAM {
            assert_eq!(frame.payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
            refused += 1;
        }
    }
    let held = || target.app.seen().iter().filter(|seen| seen.target == "/held").count();
    wait::until_true("the allowed streams at the app", || held() == 128).await;
    target.is_unharmed(32 * MIB).await;
}

/// Frames that ask for work and carry nothing.
#[tokio::test]
async fn attack_floods_with_control_frames() {
    let target = Target::start(&[]).await;
    let ping = frame(kind::PING, 0, 0, &[0; 8]).repeat(500);
    let settings = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(500);
    let priority = frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(500);
    let empty = frame(kind::DATA, 0, 1, &[]).repeat(500);
    for flood in [ping, settings, priority, empty] {
        let mut conn = target.h2(&[]).await;
        let head = block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", HOST),
            (":path", "/x/echo"),
        ]);
        conn.send(kind::HEADERS, END_HEADERS, 1, &head).await;
        // The attacker never reads: answers pile up on its own side, or nowhere.
        for _ in 0..200 {
            let written = tokio::time::timeout(Duration::from_millis(200), conn.write(&flood));
            if written.await != Ok(true) {
                break;
            }
        }
        target.others_are_served().await;
    }
    target.is_unharmed(128 * MIB).await;
}

/// A client that opens no window holds its own streams and nothing else, and not for ever.
#[tokio::test]
async fn attack_never_reads_its_answers() {
    let app = App::serving(|request| {
        Box::pin(async move {
            let size = if request.uri().path() == "/big" { 4 << 20 } else { 2 };
            Ok(http::Response::new(client::full(vec![b'x'; size])))
        })
    });
    let target = Target::serving(app, &[("BODY_IDLE_MS_MAX", 2_000)]).await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut conn = target.h2(&[(4, 0)]).await;
    let head = request("/big");
    for number in 0..100 {
        conn.send(kind::HEADERS, END_HEADERS | END_STREAM, stream(number), &head).await;
    }
    let held = || target.app.seen().iter().filter(|seen| seen.target == "/big").count();
    wait::until_true("all requests at the app", || held() == 100).await;
    target.is_unharmed(96 * MIB).await;
    let mut cut = 0;
    while cut < 100 {
        let frame = wait::ends("the end of the stalled streams", conn.next()).await.expect("open");
        cut += u32::from(frame.kind == kind::RST_STREAM);
    }
    // The connection itself is sound.
    conn.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).await;
    conn.send(kind::HEADERS, END_HEADERS | END_STREAM, stream(200), &request("/small")).await;
    assert_eq!(conn.fate(stream(200)).await, Fate::Served);
    target.is_unharmed(96 * MIB).await;
}

/// The head of one connection, byte by byte, while others work on the same worker.
#[tokio::test]
async fn attack_drips_a_body() {
    let target = Target::start(&[("BODY_IDLE_MS_MAX", 1_000)]).await;
    let mut conn = Conn::h1_over(target.tls(tls::MESH_HTTP1).await).await.unwrap();
    let (sender, body) = client::stream();
    let call = Call::post(HOST, "/", "").body(body);
    let waiting = tokio::spawn(async move { conn.send(call).await });
    sender.send(Ok(http_body::Frame::data("a".into()))).await.unwrap();
    target.others_are_served().await;
    let reply = wait::ends("the stalled upload", waiting).await.unwrap().unwrap();
    refused(&target.orders, &reply, "request_timeout").await;
}
