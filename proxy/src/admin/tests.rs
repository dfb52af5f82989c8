//! The pages and the ring, as a reader meets them.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::*;
use crate::audit::{DecisionId, Personal, PseudonymKey, Reason};
use crate::clock::Now;
use crate::telemetry::{Direction, Metrics, Verdict};

fn now() -> Now {
    Now::from_micros(1_795_000_000_000_000)
}

fn pages(personal: Personal) -> Pages {
    Pages {
        ring: WhyRing::new(),
        readiness: Readiness::new(),
        metrics: Metrics::new(now()),
        personal,
        status: Box::new(|| json!({"identity": "spiffe://prod.example.com/ns/shop/sa/orders"})),
    }
}

fn entry(number: u64, verdict: Verdict) -> WhyEntry {
    let at = Now::from_micros(now().micros() + number * 1_000);
    let reason = Reason { code: "policy_denied", detail: Some("no_match") };
    WhyEntry {
        id: DecisionId::new(at, 1, number),
        at,
        direction: Direction::Inbound,
        verdict,
        status: Some(if verdict == Verdict::Allow { 200 } else { 403 }),
        reason: (verdict == Verdict::Deny).then_some(reason),
        rule: Some("shop/orders/read".to_owned()),
        caller: Ok("spiffe://prod.example.com/ns/shop/sa/cart".parse().unwrap()),
        method: Some(Method::GET),
        host: "orders.shop".to_owned(),
        route: Some("/v1/users/{user}".into()),
        path: Some("/v1/users/<alice>".to_owned()),
        txn: None,
        explain: Arc::new(StageRefusal {
            direction: Direction::Inbound,
            stage: "context",
            reason: "token_expired",
            means: "The token ended.",
            seen: Some("exp was 94 s ago by this clock".to_owned()),
        }),
    }
}

fn get(target: &str) -> Request<()> {
    Request::get(target).header("host", "localhost:15000").body(()).unwrap()
}

fn body(answer: Response<Full<bytes::Bytes>>) -> String {
    let body = futures_util::FutureExt::now_or_never(answer.into_body().collect());
    String::from_utf8(body.unwrap().unwrap().to_bytes().to_vec()).unwrap()
}

fn body_json(answer: Response<Full<bytes::Bytes>>) -> Value {
    serde_json::from_str(&body(answer)).unwrap()
}

#[test]
fn attack_rebinds_dns_to_the_admin_pages() {
    let pages = pages(Personal::Clear);
    for host in ["attacker.example", "localhost.attacker.example", "10.0.0.7:15000", "", "127.1"] {
        let request = Request::get("/api/v1/status").header("host", host).body(()).unwrap();
        assert_eq!(pages.admin(&request, now()).status(), StatusCode::FORBIDDEN, "{host}");
    }
    for host in ["localhost", "LOCALHOST:15000", "127.0.0.1:15000", "[::1]:15000", "[::1]"] {
        let request = Request::get("/api/v1/status").header("host", host).body(()).unwrap();
        assert_eq!(pages.admin(&request, now()).status(), StatusCode::OK, "{host}");
    }
    let none = Request::get("/").body(()).unwrap();
    assert_eq!(pages.admin(&none, now()).status(), StatusCode::FORBIDDEN);
    let builder = Request::get("/").header("host", "localhost").header("host", "localhost");
    let two = builder.body(()).unwrap();
    assert_eq!(pages.admin(&two, now()).status(), StatusCode::FORBIDDEN);
    let absolute = get("http://attacker.example/");
    assert_eq!(pages.admin(&absolute, now()).status(), StatusCode::FORBIDDEN);
}

#[test]
fn attack_changes_something_through_the_admin_pages() {
    let pages = pages(Personal::Clear);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
        for target in ["/", "/api/v1/status", "/metrics", "/ready"] {
            let builder = Request::builder().method(method).uri(target);
            let request = builder.header("host", "localhost").body(()).unwrap();
            for answer in [pages.admin(&request, now()), pages.metrics(&request, now())] {
                assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
                assert_eq!(answer.headers()["allow"], "GET, HEAD");
            }
        }
    }
}

#[test]
fn every_answer_carries_the_protecting_headers() {
    let pages = pages(Personal::Clear);
    for target in ["/", "/style.css", "/api/v1/decisions", "/api/v1/why/x", "/nowhere"] {
        let answer = pages.admin(&get(target), now());
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'"), "{target}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
}

#[test]
fn why_explains_a_remembered_decision() {
    let pages = pages(Personal::Clear);
    let denied = entry(1, Verdict::Deny);
    let id = denied.id;
    pages.ring.push(denied);
    let answer = pages.admin(&get(&format!("/api/v1/why/{id}")), now());
    assert_eq!(answer.status(), StatusCode::OK);
    let found = body_json(answer);
    assert_eq!(found["reason"], "policy_denied/no_match");
    assert_eq!(found["explanation"]["reason"], "token_expired");
    let shown = body(pages.admin(&get(&format!("/api/v1/why/{id}?format=text")), now()));
    assert!(shown.starts_with("DENY 403 policy_denied/no_match   GET orders.shop/v1/users/"));
    assert!(shown.contains("exp was 94 s ago"));
    let other = DecisionId::new(now(), 9, 9);
    let missing = pages.admin(&get(&format!("/api/v1/why/{other}")), now());
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let bad = pages.admin(&get("/api/v1/why/../../etc/passwd"), now());
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn lists_decisions_newest_first() {
    let pages = pages(Personal::Clear);
    for number in 0..6 {
        let verdict = if number % 2 == 0 { Verdict::Allow } else { Verdict::Deny };
        pages.ring.push(entry(number, verdict));
    }
    let all = body_json(pages.admin(&get("/api/v1/decisions?limit=4"), now()));
    let times: Vec<&str> =
        all["decisions"].as_array().unwrap().iter().map(|d| d["ts"].as_str().unwrap()).collect();
    assert_eq!(times.len(), 4);
    assert!(times.is_sorted_by(|newer, older| newer > older));
    let denied = body_json(pages.admin(&get("/api/v1/decisions?verdict=deny&limit=1"), now()));
    assert_eq!(denied["decisions"][0]["decision"], "deny");
    let bad = pages.admin(&get("/api/v1/decisions?verdict=maybe"), now());
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn attack_puts_markup_into_the_page() {
    let pages = pages(Personal::Clear);
    pages.ring.push(entry(1, Verdict::Deny));
    let page = body(pages.admin(&get("/"), now()));
    assert!(page.contains("/v1/users/&lt;alice&gt;") && !page.contains("<alice>"));
}

#[test]
fn paths_are_not_shown_to_readers_who_may_not_see_persons() {
    let pages = pages(Personal::Pseudonyms(PseudonymKey::new(b"key")));
    let denied = entry(1, Verdict::Deny);
    let id = denied.id;
    pages.ring.push(denied);
    for target in ["/", "/api/v1/decisions", &format!("/api/v1/why/{id}")] {
        let page = body(pages.admin(&get(target), now()));
        assert!(!page.contains("alice"), "{target}: {page}");
        assert!(page.contains("/v1/users/{user}"), "{target}");
    }
}

#[test]
fn ready_names_what_is_missing() {
    let pages = pages(Personal::Clear);
    pages.readiness.missing(Condition::Identity, "unix:/run/spire.sock: connection refused");
    let answer = pages.metrics(&get("/ready"), now());
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let ready = body_json(answer);
    assert_eq!(ready["missing"][0]["condition"], "identity");
    assert_eq!(ready["missing"][0]["why"], "unix:/run/spire.sock: connection refused");
    for condition in Condition::ALL {
        pages.readiness.met(*condition);
    }
    assert_eq!(pages.metrics(&get("/ready"), now()).status(), StatusCode::OK);
    let worker = pages.metrics.worker(0);
    worker.beat(now());
    let later = Now::from_micros(now().micros() + 60_000_000);
    for target in ["/ready", "/live"] {
        assert_eq!(pages.metrics(&get(target), now()).status(), StatusCode::OK);
        let answer = pages.metrics(&get(target), later);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "a worker is stuck");
    }
}

#[test]
fn the_ring_keeps_denials_and_forgets_the_oldest() {
    let ring = WhyRing::new();
    let first = entry(0, Verdict::Deny).id;
    for number in 0..ring::DENIED_MAX as u64 {
        ring.push(entry(number, Verdict::Deny));
        ring.push(entry(number, Verdict::Allow));
    }
    assert!(ring.find(first).is_some());
    ring.push(entry(9_999_999, Verdict::Deny));
    assert!(ring.find(first).is_none());
    assert_eq!(ring.recent(Some(Verdict::Allow), 10_000).len(), ring::PERMITTED_MAX);
    assert_eq!(ring.recent(Some(Verdict::Deny), 10_000).len(), ring::DENIED_MAX);
}

struct Large;

impl Explain for Large {
    fn explain(&self, _personal: &Personal) -> Explained {
        Explained::default()
    }

    fn bytes(&self) -> usize {
        16 * 1024
    }
}

#[test]
fn large_inputs_do_not_fill_memory() {
    let ring = WhyRing::new();
    for number in 0..1_000 {
        ring.push(WhyEntry { explain: Arc::new(Large), ..entry(number, Verdict::Deny) });
    }
    let kept = ring.recent(None, 10_000).len();
    assert_eq!(kept, ring::RING_BYTES_MAX / (16 * 1024));
}

#[test]
fn permitted_requests_are_sampled_at_a_bounded_rate() {
    let ring = WhyRing::new();
    let at = |ms: u64| Now::from_micros(now().micros() + ms * 1_000);
    let burst = (0..1_000).filter(|_| ring.samples(at(0))).count();
    assert!((64..=66).contains(&burst), "{burst}");
    let later = (0..1_000).filter(|ms| ring.samples(at(1_000 + ms))).count();
    assert!((35..=45).contains(&later), "{later}");
}

#[tokio::test]
async fn answers_over_a_socket_and_stops() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = AdminServer::new(pages(Personal::Clear));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.serve_admin(listener, async {
        _ = stopped.await;
    });
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            b"GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        stop.send(()).unwrap();
        answer
    };
    let (outcome, answer) = tokio::join!(serving, asking);
    outcome.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("spiffe://prod.example.com/ns/shop/sa/orders"));
}

#[tokio::test]
async fn attack_reads_admin_from_another_pod() {
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let server = AdminServer::new(pages(Personal::Clear));
    let refused = server.serve_admin(listener, std::future::pending()).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
