//! What is done to the bytes and fields of a request around the decision: detection of the
//! protocol, the check of a raw head, hygiene, translation. hyper and h2 are not among it.

use std::hint::black_box;

use countersign_proxy::http::head::{HeadCheck, HeadLimits};
use countersign_proxy::http::hygiene::{self, Field, Sender};
use countersign_proxy::http::translate::{AppSpeaks, from_h2, to_h2};
use countersign_proxy::intercept::detect::{Detected, detect};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, Version};

use super::Steps;

const TURNS: usize = 16;
const TARGET: &str = "/v1/users/u-1/orders?limit=20&after=2026-11-01";
const HOST: &str = "orders.shop";
/// What a browser sends.
const FIELDS: [(&str, &str); 12] = [
    ("host", HOST),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://shop.example/orders"),
    ("cookie", "session=3f9a1c7be1d24c1f8f3f7b0f6a1b9d55; theme=dark; seen=1,4,7"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-request-id", "a3f1b2c4-9f0e-4d6b-8f58-6f0c1d2e3a4b"),
];

pub(super) fn run(steps: &Steps<'_>) {
    detection(steps);
    let head = raw_head();
    let mut check = HeadCheck::new(HeadLimits::default());
    steps.step("head/check", TURNS, || check.feed(black_box(&head)).expect("a proper head"));
    hygiene(steps);
    translation(steps);
}

fn detection(steps: &Steps<'_>) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let opaque = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n".to_vec();
    for (name, bytes, expected) in [
        ("detect/h1", raw_head(), Detected::Http1),
        ("detect/h2", preface, Detected::Http2),
        ("detect/hello_300_bytes", hello(300), Detected::Tls),
        ("detect/hello_1800_bytes", hello(1800), Detected::Tls),
        ("detect/opaque", opaque, Detected::Opaque),
    ] {
        steps.step(name, TURNS, || assert_eq!(detect(black_box(&bytes)), expected));
    }
}

fn hygiene(steps: &Steps<'_>) {
    let outside = || request(&[]);
    steps.step_with("hygiene/gateway", outside, |mut parts| {
        black_box(hygiene::gateway_request(black_box(&mut parts)).expect("a proper request"));
    });
    let token = format!("eyJ.{}.c2ln", "a".repeat(1_400));
    let peer = || request(&[("txn-token", &token), ("countersign-http1", "1.1")]);
    steps.step_with("hygiene/inbound", peer, |mut parts| {
        let clean = hygiene::inbound_request(black_box(&mut parts), Sender::Mesh);
        black_box(clean.expect("a proper request"));
    });
}

fn translation(steps: &Steps<'_>) {
    let authority = Authority::from_static(HOST);
    steps.step_with(
        "translate/to_h2",
        || request(&[]),
        |mut parts| {
            to_h2(black_box(&mut parts), &authority, AppSpeaks::AsClient).expect("translatable");
        },
    );
    let over_h2 = || {
        let mut parts = request(&[]);
        to_h2(&mut parts, &authority, AppSpeaks::AsClient).expect("translatable");
        parts
    };
    let mark = Field::One(HeaderValue::from_static("1.1"));
    steps.step_with("translate/from_h2", over_h2, |mut parts| {
        from_h2(black_box(&mut parts), &authority, &mark).expect("translatable");
    });
}

fn raw_head() -> Vec<u8> {
    let mut head = format!("GET {TARGET} HTTP/1.1\r\n");
    for (name, value) in FIELDS {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn request(more: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::new(());
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = http::Uri::from_static(TARGET);
    for (name, value) in FIELDS.iter().chain(more) {
        let value = HeaderValue::from_str(value).expect("a value");
        request.headers_mut().append(HeaderName::from_static(name), value);
    }
    request.into_parts().0
}

/// The record and handshake headers of a ClientHello, and as many bytes as it says.
fn hello(bytes: usize) -> Vec<u8> {
    let length = |of: usize| [(of >> 8) as u8, of as u8];
    let mut hello = vec![0x16, 3, 1];
    hello.extend(length(bytes - 5));
    hello.extend([1, 0]);
    hello.extend(length(bytes - 9));
    hello.extend([3, 3]);
    hello.resize(bytes, 7);
    hello
}
