//! HTTP/1.0 and HTTP/1.1 as real programs speak them, through both sidecars.

use countersign_integration::raw_app::field;
use countersign_integration::{App, RawApp, client, wait};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{HOST, Pair, Setting, head};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// HTTP/1.0 has neither chunks nor kept connections, unless asked for.
#[tokio::test]
async fn http10_with_and_without_keep_alive() {
    let app = RawApp::serving(|mut caller| async move {
        while let Some(head) = caller.head().await {
            if head.contains("/chunks") {
                caller.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                caller.write("3\r\none\r\n4;x=y\r\n two\r\n0\r\n\r\n").await;
            } else {
                caller.write(OK).await;
            }
        }
    })
    .await;
    let pair = Pair::start(app.address).await;
    let answer = pair.raw(&format!("GET /chunks HTTP/1.0\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
    assert!(answer.ends_with("\r\n\r\none two"), "{answer}");
    // Between the sidecars and towards the app it is HTTP/1.1.
    let seen = app.heads().pop().unwrap();
    assert!(seen.starts_with("GET /chunks HTTP/1.1\r\n"), "{seen}");

    let mut stream = pair.dial().await;
    for _ in 0..3 {
        let text = format!("GET /kept HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = wait::ends("the answer", head(&mut stream)).await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert_eq!(field(&answer, "connection"), Some("keep-alive"), "{answer}");
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.unwrap();
    }
    let text = format!("POST /up HTTP/1.0\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    assert!(pair.raw(&text).await.ends_with("\r\n\r\nok"));
    assert_eq!(field(&app.heads().pop().unwrap(), "content-length"), Some("3"));
}

/// Requests sent before the answers are read come back in their order, whatever each one takes.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = App::serving(|request| {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            if path == "/1" {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Ok(http::Response::new(client::full(format!("[{path}]"))))
        })
    });
    let pair = Pair::start(app.address).await;
    let mut text = String::new();
    for number in 1..=5 {
        let close = if number == 5 { "Connection: close\r\n" } else { "" };
        let body = if number == 3 { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
        let method = if number == 3 { "POST" } else { "GET" };
        text += &format!("{method} /{number} HTTP/1.1\r\nHost: {HOST}\r\n{close}{body}");
    }
    let answer = pair.raw(&text).await;
    let order: Vec<&str> = answer.split('[').skip(1).map(|rest| &rest[..2]).collect();
    assert_eq!(order, ["/1", "/2", "/3", "/4", "/5"], "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 5, "{answer}");
}

#[tokio::test]
async fn chunks_and_trailers_both_ways() {
    let app = App::mirror();
    let pair = Pair::start(app.address).await;
    let text = format!(
        "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: close, TE\r\n\
         Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5;ext=\"a b\"\r\nhello\r\n006\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"
    );
    let answer = pair.raw(&text).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(unchunked(body), ("hello world".to_owned(), true), "{answer}");
    // A client that did not ask for trailers gets none.
    let quiet = text.replace("TE: trailers\r\n", "").replace(", TE", "");
    let answer = pair.raw(&quiet).await;
    assert!(!answer.to_lowercase().contains("x-sum: 11"), "{answer}");
}

/// The data of a chunked body, and whether its end came.
fn unchunked(mut body: &str) -> (String, bool) {
    let mut data = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        if size == 0 {
            return (data, true);
        }
        data += &rest[..size.min(rest.len())];
        body = rest.get(size + 2..).unwrap_or_default();
    }
    (data, false)
}

/// A client that waits for 100 gets it once the way to the app is open, and only then.
#[tokio::test]
async fn an_upload_waits_for_100() {
    let app = App::mirror();
    let rules = json!([{"name": "echo", "effect": "allow", "context": "optional", "match": {
        "caller": {"anyInMesh": true}, "http": {"paths": [{"exact": "/echo"}]}}}]);
    for port in [json!({"protocol": "http"}), json!({"protocol": "http", "preserveHttp1": true})] {
        let setting = Setting { rules: rules.clone(), port, ..Setting::default() };
        let pair = Pair::with(app.address, setting).await;
        let expects = |host: &str, path: &str, length: u64| {
            format!(
                "PUT {path} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n"
            )
        };
        let mut stream = pair.dial().await;
        stream.write_all(expects(HOST, "/echo", 5).as_bytes()).await.unwrap();
        let interim = wait::ends("the interim answer", head(&mut stream)).await;
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        wait::ends("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
        // The expectation was met here; the app never hears of it.
        assert_eq!(app.last().header("expect"), None);

        // Nobody is asked for a body that has nowhere to go.
        let answer = pair.raw(&expects("nowhere.shop", "/echo", 5)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = pair.raw_as_peer(&expects(HOST, "/secret", 5)).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

/// A refused upload costs no more than the windows on the way, however much was promised.
#[tokio::test]
async fn a_refused_upload_is_not_pulled_in() {
    let app = App::mirror();
    let rules = json!([{"name": "reads", "effect": "allow", "context": "optional", "match": {
        "caller": {"anyInMesh": true}, "http": {"methods": ["GET"]}}}]);
    let pair = Pair::with(app.address, Setting { rules, ..Setting::default() }).await;
    let mut stream = pair.dial().await;
    let length = 64 << 20;
    let head = format!("PUT /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = tokio::spawn(async move {
        let mut sent = 0;
        while sent < length && write.write_all(&[0; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        sent
    });
    let mut answer = Vec::new();
    let _ = wait::ends("the answer", read.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let sent = wait::ends("the upload", sent).await.unwrap();
    // Socket buffers of the machine, and our windows; not the body.
    assert!(sent < length / 2, "{sent} bytes were taken");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn absolute_form_and_the_asterisk() {
    let app = RawApp::answering(OK).await;
    let pair = Pair::start(app.address).await;
    let text =
        format!("GET http://{HOST}/a?b HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    assert!(pair.raw(&text).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let text = format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    assert!(pair.raw(&text).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let seen = app.heads();
    assert!(seen[0].starts_with(&format!("GET http://{HOST}/a?b HTTP/1.1\r\n")), "{}", seen[0]);
    assert!(seen[1].starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", seen[1]);
    for seen in seen {
        assert_eq!(seen.to_lowercase().matches("\r\nhost:").count(), 1, "{seen}");
    }
}

/// Old programs compare header names by case; for them HTTP/1 is kept all the way.
#[tokio::test]
async fn header_case_survives_with_preserve_http1() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-ReplY-Case: 1\r\n\r\nok";
    let app = RawApp::answering(answer).await;
    let text =
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-CustOM-Case: 1\r\nConnection: close\r\n\r\n");
    for preserved in [true, false] {
        let setting = Setting {
            port: json!({"protocol": "http", "preserveHttp1": preserved}),
            ..Setting::default()
        };
        let pair = Pair::with(app.address, setting).await;
        let got = pair.raw(&text).await;
        assert_eq!(got.contains("\r\nX-ReplY-Case: 1\r\n"), preserved, "{got}");
        let seen = app.heads().pop().unwrap();
        assert_eq!(seen.contains("\r\nX-CustOM-Case: 1\r\n"), preserved, "{seen}");
        // Ours are written by us, whatever the case of the sender's.
        assert_eq!(seen.matches("countersign-caller: ").count(), 1, "{seen}");
    }
}

/// What belongs to one HTTP/1.1 connection never gets onto HTTP/2, in either direction.
#[tokio::test]
async fn h2_has_no_hop_by_hop() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-mine\r\n\
                  Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Mine: 1\r\n\
                  Upgrade: h2c\r\nX-Kept: 1\r\n\r\nok";
    let app = RawApp::answering(answer).await;
    let pair = Pair::start(app.address).await;
    let mut peer = pair.lab.peer(&pair.orders, pair.lab.gateway.leaf()).await;
    let call = client::Call::get(HOST, "/").header("countersign-http1", "1.1");
    let reply = peer.send(call).await.unwrap();
    assert_eq!(reply.header("x-kept"), Some("1"));
    for name in ["connection", "keep-alive", "proxy-connection", "upgrade", "x-mine"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    let text = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, x-mine\r\nX-Mine: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authorization: x\r\nTE: gzip\r\n\r\n"
    );
    assert!(pair.raw(&text).await.starts_with("HTTP/1.1 200 "));
    let seen = app.heads().pop().unwrap();
    for name in ["x-mine", "keep-alive", "proxy-authorization", "te"] {
        assert_eq!(field(&seen, name), None, "{seen}");
    }
}

/// An app that breaks off in the middle of its answer: the client sees that it is not whole.
#[tokio::test]
async fn attack_truncates_a_body_to_look_complete() {
    for (answer, kept) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of", false),
    ] {
        let app = RawApp::serving(move |mut caller| async move {
            caller.head().await;
            caller.write(answer).await;
        })
        .await;
        let port = json!({"protocol": "http", "preserveHttp1": !kept});
        let pair = Pair::with(app.address, Setting { port, ..Setting::default() }).await;
        let mut h2 = pair.lab.peer(&pair.orders, pair.lab.gateway.leaf()).await;
        let call = client::Call::get(HOST, "/").header("countersign-http1", "1.1");
        let text = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let got = pair.raw(&text).await;
        // Where not even the head had left, the connection just ends.
        if let Some((head, body)) = got.split_once("\r\n\r\n") {
            match field(head, "content-length") {
                Some(length) => assert!(body.len() < length.parse().unwrap(), "{got}"),
                None => assert!(!unchunked(body).1, "{got}"),
            }
        }
        if kept {
            assert!(h2.send(call).await.is_err(), "a cut body looks whole over HTTP/2");
        }
    }
}
