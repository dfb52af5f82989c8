//! Where a body ends: lengths, codings, chunks, line ends, folded lines.

use super::House;

/// What a smuggler wants to have read as a request of its own.
const HIDDEN: &str = "GET /v1/users/alice/hidden HTTP/1.1\r\n^Connection: close\r\n\r\n";

/// A POST with these field lines in front of a body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /v1/users/alice/orders HTTP/1.1\r\n^{fields}\r\n\r\n{body}{HIDDEN}")
}

#[tokio::test]
async fn attack_smuggles_with_two_lengths() {
    let house = House::start().await;
    for fields in [
        "Content-Length: 4\r\nContent-Length: 40",
        "Content-Length: 40\r\ncontent-length: 4",
        "Content-Length: 4, 40",
        "Content-Length: 4\r\nContent_Length: 40",
    ] {
        house.refuses(post(fields, "body")).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_repeats_equal_content_length() {
    let house = House::start().await;
    for fields in
        ["Content-Length: 4\r\nContent-Length: 4", "Content-Length: 4, 4", "Content-Length: 4,"]
    {
        house.refuses(post(fields, "body")).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_spells_a_length_oddly() {
    let house = House::start().await;
    for length in ["+4", "-4", "0x4", "4 0", "4\u{a0}", "\"4\"", "4;x", "", "4.0", "1e1", "٤"] {
        house.refuses(post(&format!("Content-Length: {length}"), "body")).await;
    }
    house.refuses(post("Content-Length: 18446744073709551616", "")).await;
    house.still_serves().await;
}

#[tokio::test]
async fn attack_smuggles_with_length_and_chunked() {
    let house = House::start().await;
    let chunks = "0\r\n\r\n";
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nX: y\r\nContent-Length: 0",
        "content-LENGTH: 4\r\ntransfer-ENCODING: CHUNKED",
    ] {
        house.refuses(post(fields, chunks)).await;
    }
    house.still_serves().await;
}

/// Each spelling that some server takes for `chunked` and another does not.
#[tokio::test]
async fn attack_varies_the_transfer_encoding() {
    let house = House::start().await;
    for fields in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chun\tked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding: chunked\rX: y",
        "Transfer-Encoding: chunKed\u{ff}",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer_Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
    ] {
        house.refuses(post(fields, "0\r\n\r\n")).await;
    }
    house
        .refuses(format!(
            "POST /v1/users/alice/orders HTTP/1.0\r\n^Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
        ))
        .await;
    house.still_serves().await;
}

#[tokio::test]
async fn attack_smuggles_with_bare_line_feed() {
    let house = House::start().await;
    for text in [
        "GET /v1/users/alice/orders HTTP/1.1\n^\r\n".to_owned(),
        "GET /v1/users/alice/orders HTTP/1.1\r\n^X: y\n\r\n".to_owned(),
        "GET /v1/users/alice/orders HTTP/1.1\r\n^\n".to_owned(),
        format!("GET /v1/users/alice/orders HTTP/1.1\r\n^X: y\n\n{HIDDEN}"),
        "\nGET /v1/users/alice/orders HTTP/1.1\r\n^\r\n".to_owned(),
        "GET /v1/users/alice/orders HTTP/1.1\r^X: y\r\r\n\r\n".to_owned(),
    ] {
        house.refuses(text).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_folds_a_line() {
    let house = House::start().await;
    for fields in ["X: a\r\n b", "X: a\r\n\tb", "X: a\r\n Content-Length: 40", "X:\r\n \r\n b"] {
        house.refuses(post(fields, "")).await;
    }
    house.refuses("GET /v1/users/alice/orders HTTP/1.1\r\n X: a\r\n^\r\n").await;
    house.still_serves().await;
}

/// A bad chunk line comes when the head is already with the app: its connection must break there,
/// and nothing behind the bad line may ever count as a request.
#[tokio::test]
async fn attack_plays_tricks_with_chunks() {
    let house = House::start().await;
    let long = "x".repeat(1_100);
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 ;a=b\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nContent-Length: 90\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: admin.shop\r\n\r\n",
        "0\r\n folded: yes\r\n\r\n",
        "0\r\nX: y\n\r\n",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("5;{long}\r\nhello\r\n0\r\n\r\n")])
    {
        let text = post("Transfer-Encoding: chunked", &body);
        for door in super::DOORS {
            let answer = house.send(door, text.as_bytes()).await;
            assert!(!answer.contains("HTTP/1.1 200"), "{door:?} {body:?}: {answer}");
            assert!(answer.matches("HTTP/1.").count() <= 1, "{door:?} {body:?}: {answer}");
        }
    }
    let hidden = |seen: &countersign_integration::Seen| seen.target.contains("hidden");
    assert!(!house.app.seen().iter().any(hidden));
}

/// What an honest client may send, so that the refusals above are not for everything.
#[tokio::test]
async fn honest_framing_passes_at_every_door() {
    let house = House::start().await;
    for (fields, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "5;name=\"value\"\r\nhello\r\n0\r\n\r\n"),
        ("transfer-encoding: Chunked", "005\r\nhello\r\n000\r\nX-Sum: 5\r\n\r\n"),
        ("Content-Length: 0", ""),
    ] {
        for door in super::DOORS {
            let text = format!(
                "POST /v1/users/alice/echo HTTP/1.1\r\n^{fields}\r\nConnection: close\r\n\r\n{body}"
            );
            let answer = house.send(door, text.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{door:?} {fields}: {answer}");
            assert_eq!(answer.contains("hello"), !body.is_empty(), "{door:?} {fields}: {answer}");
        }
    }
}
