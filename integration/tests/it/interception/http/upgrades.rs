//! Switching protocols: WebSocket, other upgrades, CONNECT, and answers that switch unasked.

use std::time::Duration;

use countersign_integration::outcome::refused;
use countersign_integration::raw_app::field;
use countersign_integration::{RawApp, client, documents, tls, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{HOST, Pair, Setting, head, ping};

fn upgrade(to: &str, more: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {to}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

#[tokio::test]
async fn websocket_echo() {
    let app = RawApp::echo_after_upgrade().await;
    let pair = Pair::start(app.address).await;
    let mut stream = pair.dial().await;
    stream.write_all(upgrade("websocket", "").as_bytes()).await.unwrap();
    let answer = wait::ends("the answer", head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert_eq!(field(&answer, "upgrade"), Some("websocket"));
    assert_eq!(field(&answer, "connection"), Some("upgrade"));
    assert_eq!(field(&answer, "sec-websocket-accept"), Some("of-dGhlIHNhbXBsZSBub25jZQ=="));
    // Bytes that are no HTTP, more than any buffer on the way, and an end that leaves the other
    // direction open.
    ping(&mut stream, b"\x81\x85\0\0\0\0hello \n\n GET / \0").await;
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        for _ in 0..40 {
            write.write_all(&[7; 100_000]).await.unwrap();
        }
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    wait::ends("the echo", read.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back.len(), 4_000_000);
    sending.await.unwrap();
    let seen = app.heads().pop().unwrap();
    assert_eq!(field(&seen, "upgrade"), Some("websocket"));
    assert_eq!(field(&seen, "countersign-caller"), Some(&*pair.lab.id("shop", "web")));
    assert_eq!(field(&seen, "host"), Some(HOST));
    wait::until_true("the record", || !pair.orders.decisions().is_empty()).await;
    let record = pair.orders.decisions().pop().unwrap();
    assert_eq!(record["res"]["status"], 101, "{record}");
    assert_eq!(record["decision"], "allow", "{record}");
}

/// A client that is gone when the app agrees: there never is a tunnel, and under `audit: full` its
/// end is recorded all the same, once.
#[tokio::test]
async fn a_tunnel_that_never_began_has_its_record() {
    let (gone, waiting) = tokio::sync::watch::channel(false);
    let app = RawApp::serving(move |mut caller| {
        let mut waiting = waiting.clone();
        async move {
            caller.head().await;
            let _ = waiting.wait_for(|gone| *gone).await;
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                          upgrade: websocket\r\n\r\n";
            caller.write(agreed).await;
            caller.echo().await;
        }
    })
    .await;
    let mut rules = documents::anybody();
    rules[0]["obligations"] = json!({"audit": "full"});
    let pair = Pair::with(app.address, Setting { rules, ..Setting::default() }).await;
    let config = tls::client(Some(pair.lab.gateway.leaf()), &[tls::MESH_HTTP1]);
    let mut stream = client::tls_stream(pair.orders.inbound(), config).await.unwrap();
    stream.write_all(upgrade("websocket", "").as_bytes()).await.unwrap();
    wait::until_true("the request at the app", || !app.heads().is_empty()).await;
    socket2::SockRef::from(stream.get_ref().0).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    gone.send(true).unwrap();
    let ended = || {
        let all = pair.orders.audit().into_iter();
        all.filter(|record| record["kind"] == "ended").collect::<Vec<_>>()
    };
    wait::until_true("the record of the end", || !ended().is_empty()).await;
    pair.orders.process.terminate();
    assert_eq!(ended().len(), 1, "{:?}", ended());
}

/// An answer that does not switch is an answer like any other, and the connection goes on.
#[tokio::test]
async fn an_upgrade_the_app_does_not_want() {
    let app = RawApp::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let pair = Pair::start(app.address).await;
    let mut stream = pair.dial().await;
    for _ in 0..3 {
        stream.write_all(upgrade("websocket", "").as_bytes()).await.unwrap();
        let answer = wait::ends("the answer", head(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(field(&answer, "upgrade"), None);
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"no");
    }
}

#[tokio::test]
async fn other_protocols_only_where_the_port_lists_them() {
    let app = RawApp::echo_after_upgrade().await;
    let pair = Pair::start(app.address).await;
    let close = "Connection: close\r\n";
    let answer = pair.raw(&upgrade("tls/1.0", close)).await;
    refused(&pair.web, &client::parse_raw(&answer), "upgrade_unsupported").await;
    // Whatever the first sidecar lets through, the second one has its own list.
    let answer = pair.raw_as_peer(&upgrade("tls/1.0", close)).await;
    refused(&pair.orders, &client::parse_raw(&answer), "upgrade_unsupported").await;
    assert!(app.heads().is_empty());

    let setting = Setting {
        port: json!({"protocol": "http", "upgrades": ["tls/1.0"]}),
        app: json!({"upgrades": ["tls/1.0"]}),
        ..Setting::default()
    };
    let pair = Pair::with(app.address, setting).await;
    let mut stream = pair.dial().await;
    stream.write_all(upgrade("TLS/1.0", "").as_bytes()).await.unwrap();
    let answer = wait::ends("the answer", head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    ping(&mut stream, b"\x16\x03\x01").await;
}

/// What Java's `HttpClient` sends on every first request: taken for the HTTP/1.1 request it is.
#[tokio::test]
async fn an_upgrade_to_http2_is_passed_over() {
    let app = RawApp::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let pair = Pair::start(app.address).await;
    let text = format!(
        "POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nContent-Length: 0\r\n\
         Host: {HOST}\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n\r\n"
    );
    let answer = pair.raw(&text).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let seen = app.heads().pop().unwrap();
    assert_eq!(field(&seen, "upgrade"), None, "{seen}");
    assert_eq!(field(&seen, "http2-settings"), None, "{seen}");
}

/// CONNECT is an ordinary decision about its authority, where the port allows it at all.
#[tokio::test]
async fn connect_where_the_port_allows_it() {
    let app = RawApp::serving(|mut caller| async move {
        while let Some(head) = caller.head().await {
            if head.starts_with("CONNECT ") {
                caller.write("HTTP/1.1 200 Connected\r\n\r\n").await;
                return caller.echo().await;
            }
        }
    })
    .await;
    let connect = format!("CONNECT {HOST}:80 HTTP/1.1\r\nHost: {HOST}:80\r\n");
    let closing = format!("{connect}Connection: close\r\n\r\n");
    let pair = Pair::start(app.address).await;
    let answer = pair.raw_as_peer(&closing).await;
    refused(&pair.orders, &client::parse_raw(&answer), "connect_unsupported").await;

    let tunnels = |effect: &str, methods: &[&str], host: &str| {
        let of = json!({"methods": methods, "hosts": [host]});
        json!({"name": effect, "effect": effect, "match": {"caller": {"anyInMesh": true}, "http": of}})
    };
    let allow = |methods: &[&str], host: &str| {
        let mut rule = tunnels("allow", methods, host);
        rule["context"] = json!("optional");
        rule
    };
    let this = format!("{HOST}:80");
    let allowed = json!([allow(&["CONNECT"], &this)]);
    let setting = || Setting {
        port: json!({"protocol": "http", "connect": true}),
        app: json!({"connect": true}),
        ..Setting::default()
    };
    let pair = Pair::with(app.address, Setting { rules: allowed, ..setting() }).await;
    let mut stream = pair.dial().await;
    stream.write_all(format!("{connect}\r\n").as_bytes()).await.unwrap();
    let answer = wait::ends("the answer", head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    ping(&mut stream, b"\x16\x03\x01 not http \r\n\r\n").await;
    let seen = app.heads().pop().unwrap();
    assert!(seen.starts_with(&format!("CONNECT {HOST}:80 HTTP/1.1\r\n")), "{seen}");

    // A port is part of what is reached: no rule about another, or about none, lets it pass.
    let other = allow(&["CONNECT"], &format!("{HOST}:22"));
    let without = allow(&["CONNECT", "GET"], HOST);
    let refused_host = tunnels("deny", &["CONNECT"], HOST);
    let (elsewhere, here) = (allow(&["CONNECT"], "other.shop:80"), allow(&["CONNECT"], &this));
    let mut none = [elsewhere, other, without];
    for (rule, name) in none.iter_mut().zip(["elsewhere", "other", "without"]) {
        rule["name"] = json!(name);
    }
    for (rules, reason) in [
        (json!(none), "policy_denied/no_match"),
        (json!([here, refused_host]), "policy_denied/deny_rule"),
    ] {
        let pair = Pair::with(app.address, Setting { rules, ..setting() }).await;
        let answer = pair.raw(&closing).await;
        let reply = client::parse_raw(&answer);
        assert_eq!(reply.status, 403, "{answer}");
        let record = pair.orders.record(&reply.decision()).await;
        assert_eq!(record["reason"], reason, "{record}");
    }
}

/// An answer that switches although nobody asked, or to something else: 502, and its connection
/// serves nobody else.
#[tokio::test]
async fn attack_app_switches_protocols_unasked() {
    for (request, answer) in [
        (
            "plain",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "websocket",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tls/1.0\r\n\r\n",
        ),
        ("websocket", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ] {
        let app = RawApp::serving(move |mut caller| async move {
            // Poisoned: what follows the head would be taken for an answer to the next request.
            while caller.head().await.is_some() {
                caller.write(answer).await;
                caller.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen").await;
            }
        })
        .await;
        let pair = Pair::start(app.address).await;
        for round in 1..=3 {
            let text = if request == "plain" {
                format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
            } else {
                upgrade(request, "Connection: close\r\n")
            };
            let reply = client::parse_raw(&pair.raw(&text).await);
            assert_eq!(reply.status, 502, "{answer}");
            let record = pair.orders.record(&reply.decision()).await;
            assert_eq!(record["reason"], "app_failed", "{record}");
            assert_eq!(app.heads().len(), round, "a connection was used again");
        }
    }
}

/// A failed upgrade leaves no tunnel: what the client sends behind it is judged as a request.
#[tokio::test]
async fn attack_smuggles_behind_a_failed_upgrade() {
    let app = RawApp::answering("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n").await;
    let rules = json!([{"name": "chat", "effect": "allow", "context": "optional", "match": {
        "caller": {"anyInMesh": true}, "http": {"paths": [{"exact": "/chat"}]}}}]);
    let pair = Pair::with(app.address, Setting { rules, ..Setting::default() }).await;
    let hidden = format!("GET /admin HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = pair.raw(&format!("{}{hidden}", upgrade("websocket", ""))).await;
    let (first, second) = answer.split_once("HTTP/1.1 403 ").expect("a second answer");
    assert!(first.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(second.contains("countersign-decision"), "{answer}");
    assert_eq!(app.heads().len(), 1);
}

#[tokio::test]
async fn attack_sends_a_body_with_an_upgrade() {
    let app = RawApp::echo_after_upgrade().await;
    let pair = Pair::start(app.address).await;
    for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        let body = if framing.starts_with('C') { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" };
        let close = format!("Connection: close\r\n{framing}");
        let answer = pair.raw(&format!("{}{body}", upgrade("websocket", &close))).await;
        refused(&pair.web, &client::parse_raw(&answer), "request_malformed").await;
    }
    // Bytes that do not wait for the answer are neither a head nor part of a tunnel.
    let text = format!("{}\x01\x02 early\n", upgrade("websocket", ""));
    let answer = pair.raw(&text).await;
    assert!(!answer.contains(" 101 ") && !answer.contains("early"), "{answer}");
}
