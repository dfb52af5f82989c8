//! The trail as an auditor meets it: lines in a file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use countersign_ctxtoken::{Custody, Redacted};
use serde_json::Value;

use super::sink::lock;
use super::*;
use crate::clock::Now;
use crate::inbound::custody;
use crate::telemetry::{Direction, Lookup, Verdict};

const WAIT: Duration = Duration::from_secs(20);

fn at(ms: u64) -> Now {
    Now::from_micros(1_795_000_000_000_000 + ms * 1_000)
}

fn config(path: &Path) -> AuditConfig {
    let target = Target::File(path.to_owned());
    let id = "spiffe://prod.example.com/ns/shop/sa/orders".parse().unwrap();
    AuditConfig::new(target, Personal::Clear, id)
}

fn decision(ms: u64) -> Record {
    Record {
        id: Some(DecisionId::new(at(ms), 7, ms)),
        direction: Some(Direction::Inbound),
        verdict: Some(Verdict::Allow),
        ..Record::new(RecordKind::Decision, at(ms))
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn kinds(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_chain_verifies_and_an_edit_shows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let (sink, writer) = AuditSink::start(config(&path), at(0), [1; 16]).unwrap();
    let threads: Vec<_> = (0..4_u64)
        .map(|worker| {
            let sink = sink.for_worker();
            std::thread::spawn(move || (0..500).for_each(|n| sink.record(decision(worker + n))))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    writer.stop();
    let text = std::fs::read(&path).unwrap();
    assert_eq!(chain::verify(&text), Ok(2_000 + 2), "start and stop are records too");
    assert_eq!(sink.stats().written(), 2_002);
    assert_eq!(sink.stats().lost(), 0);

    let text = String::from_utf8(text).unwrap();
    let edited = text.replacen("\"allow\"", "\"deny\"", 1);
    let broken = chain::verify(edited.as_bytes());
    assert_eq!(broken, Err(chain::ChainError::Broken { line: 3, what: "prev" }));
    let deleted: Vec<_> = text.lines().enumerate().filter(|(n, _)| *n != 9).collect();
    let deleted: String = deleted.iter().map(|(_, line)| format!("{line}\n")).collect();
    let broken = chain::verify(deleted.as_bytes());
    assert_eq!(broken, Err(chain::ChainError::Broken { line: 10, what: "seq" }));
}

#[test]
fn a_restart_starts_a_new_chain_and_a_crash_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let (sink, writer) = AuditSink::start(config(&path), at(0), [1; 16]).unwrap();
    sink.record(decision(1));
    writer.stop();
    let (_sink, writer) = AuditSink::start(config(&path), at(10), [2; 16]).unwrap();
    writer.stop();
    assert_eq!(kinds(&path), ["start", "decision", "control", "start", "control"]);
    assert_ne!(lines(&path)[0]["chain"], lines(&path)[3]["chain"]);

    let text = std::fs::read(&path).unwrap();
    let last_line = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    std::fs::write(&path, &text[..=last_line]).unwrap();
    let (_sink, writer) = AuditSink::start(config(&path), at(20), [3; 16]).unwrap();
    writer.stop();
    assert_eq!(kinds(&path)[4..], ["start", "gap", "control"]);
    assert_eq!(lines(&path)[5]["why"], "previous_process_not_stopped");
    assert!(chain::verify(&std::fs::read(&path).unwrap()).is_ok());
}

/// A trail whose writer has ended, so that nothing leaves the queue.
fn full_sink(on_full: OnFull, room: usize) -> (AuditSink, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let config = AuditConfig { on_full, queue_records_max: room, ..config(&path) };
    let (sink, writer) = AuditSink::start(config, at(0), [1; 16]).unwrap();
    // Nobody takes anything any more.
    writer.stop();
    (sink, folder)
}

#[test]
fn a_full_queue_refuses_if_it_is_told_to() {
    let (sink, _folder) = full_sink(OnFull::Refuse, 3);
    let slot = sink.reserve().unwrap();
    assert_eq!(sink.try_record(decision(1)), Ok(()));
    assert_eq!(sink.try_record(decision(2)), Ok(()));
    assert_eq!(sink.try_record(decision(3)), Err(AuditUnavailable), "one place is promised");
    slot.record(decision(4));
    assert_eq!(sink.stats().lost(), 0);
    assert!(sink.reserve().is_err());
    assert_eq!(sink.stats().refused.load(Relaxed), 2);
}

#[test]
fn an_unused_promise_is_given_back() {
    let (sink, _folder) = full_sink(OnFull::Refuse, 1);
    drop(sink.reserve().unwrap());
    assert_eq!(sink.try_record(decision(1)), Ok(()));
}

#[test]
fn gap_counted() {
    let (sink, _folder) = full_sink(OnFull::Gap, 3);
    for ms in 0..10 {
        assert_eq!(sink.try_record(decision(ms)), Ok(()));
    }
    assert_eq!(sink.stats().lost(), 7);
}

#[test]
fn lost_records_become_one_gap_record_that_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let config = AuditConfig { queue_records_max: 4, ..config(&path) };
    let (sink, writer) = AuditSink::start(config, at(0), [1; 16]).unwrap();
    // More at once than there is room for, whatever the writer does meanwhile.
    for ms in 0..20_000 {
        sink.record(decision(ms));
    }
    writer.stop();
    let lost = sink.stats().lost();
    assert!(lost > 0);
    let lines = lines(&path);
    let decisions = lines.iter().filter(|line| line["kind"] == "decision").count();
    let gaps = lines.iter().filter(|line| line["kind"] == "gap");
    let missing: u64 = gaps.clone().map(|gap| gap["n"].as_u64().unwrap()).sum();
    assert_eq!(missing, lost);
    assert_eq!(u64::try_from(decisions).unwrap() + missing, 20_000);
    assert!(gaps.clone().all(|gap| gap["why"] == "queue_full"));
    let counted: u64 = lock(&sink.stats().gaps).iter().map(|(_, count)| count).sum();
    assert_eq!(usize::try_from(counted).unwrap(), gaps.count());
    assert!(chain::verify(&std::fs::read(&path).unwrap()).is_ok());
}

#[test]
fn a_flush_waits_until_the_line_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let (sink, writer) = AuditSink::start(config(&path), at(0), [1; 16]).unwrap();
    for ms in 1..=3 {
        sink.record(decision(ms));
        assert!(sink.flush(WAIT));
        assert_eq!(u64::try_from(lines(&path).len()).unwrap(), ms + 1);
    }
    writer.stop();
}

#[tokio::test]
async fn a_synced_record_is_in_the_file_when_the_wait_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let (sink, writer) = AuditSink::start(config(&path), at(0), [1; 16]).unwrap();
    for ms in 1..=20 {
        sink.record_synced(decision(ms)).unwrap().done(WAIT).await.unwrap();
        assert_eq!(u64::try_from(lines(&path).len()).unwrap(), ms + 1);
    }
    writer.stop();
    assert!(sink.record_synced(decision(99)).is_err());
}

/// Two holders, the gateway first.
fn full_path() -> custody::Path {
    custody::Path {
        custody: Custody {
            proven: true,
            holders: vec![
                "spiffe://prod.acme/ns/edge/sa/gateway".parse().unwrap(),
                "spiffe://prod.acme/ns/shop/sa/cart".parse().unwrap(),
            ],
            scope: vec!["orders:read".to_owned()],
            may_pass_on: true,
        },
        hops: None,
        minted: None,
        theirs: None,
        signers: Arc::default(),
    }
}

fn full_record() -> Record {
    let cart = "spiffe://prod.example.com/ns/shop/sa/cart".parse().unwrap();
    let context = ContextFields {
        origin: Some("user".into()),
        entry: Some("spiffe://prod.example.com/ns/edge/sa/gateway".parse().unwrap()),
        txn: Some("01a1f9e6".into()),
        jti: Some("j1".into()),
        token_sha256: Some([0xab; 32]),
        user: Some(UserFields {
            provider: "corp".into(),
            id: "alice".into(),
            account: Some("42-4242".into()),
            groups_from: None,
        }),
        service: None,
        scope: vec!["orders:read".to_owned()],
        source: Some(SourceFields {
            ip: "198.51.100.7".parse().unwrap(),
            via: Some("xff:1".into()),
        }),
        device: Some(DeviceFields {
            id: Some("laptop-9".into()),
            tier: Some("gold".into()),
            managed: Some(true),
            source: Some("inventory".into()),
        }),
        justification: Some(JustificationFields {
            kind: "ticket".into(),
            reference: "SUP-1234".into(),
            by: Some("tickets".into()),
            checked: true,
        }),
    };
    Record {
        direction: Some(Direction::Inbound),
        verdict: Some(Verdict::Deny),
        reason: Some(Reason { code: "policy_denied", detail: Some("no_match") }),
        stage: Some("decide"),
        snapshot: Some(Arc::from("7c1e09a4")),
        peer: Some(Peer::Mesh { id: cart, leaf_sha256: Some([0x01; 32]) }),
        callee: Some(Box::new(Callee {
            expected: None,
            presented: None,
            host: "orders.shop".into(),
            port: 8443,
        })),
        context: Some(context.into()),
        path: Some(Arc::new(full_path())),
        request: Some(RequestFacts {
            protocol: "http2",
            method: Some(http::Method::GET),
            host: "orders.shop".into(),
            route: Some("/v1/users/{user}".into()),
            path: Some("/v1/users/alice".into()),
            port: 8080,
        }),
        response: ResponseFacts { status: Some(403), ..ResponseFacts::default() },
        timing: Timing { total_us: 310, wait_us: 0, eval_ns: 4_100 },
        lookup: Some(Lookup::Handle),
        trace: Some(Trace { id: [0x11; 16], span: [0x22; 8] }),
        ..decision(38)
    }
}

fn one_line(personal: Personal, record: Record) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let place = Place { pod: Some("orders-1".to_owned()), ..Place::default() };
    let config = AuditConfig { personal, place, ..config(&path) };
    let (sink, writer) = AuditSink::start(config, at(0), [1; 16]).unwrap();
    sink.record(record);
    writer.stop();
    std::fs::read_to_string(path).unwrap().lines().nth(1).unwrap().to_owned()
}

#[test]
fn a_record_has_the_fields_of_the_design() {
    let line = one_line(Personal::Clear, full_record());
    expect_test::expect![[r#"
        {"v":1,
        "kind":"decision",
        "ts":"2026-11-18T11:06:40.038000Z",
        "id":"01M7Q5CQH6003G000000000016",
        "chain":"7e2df7c002ea5174",
        "seq":1,
        "prev":"rG2eLTTlkRLqOt8nLLnxIhMKiQ81uQfO6Wwkb0NgYtc=",
        "dir":"inbound",
        "decision":"deny",
        "reason":"policy_denied/no_match",
        "stage":"decide",
        "snapshot":"7c1e09a4",
        "self":"spiffe://prod.example.com/ns/shop/sa/orders",
        "peer":{"id":"spiffe://prod.example.com/ns/shop/sa/cart",
        "cert":"010101010101"},
        "callee":{"host":"orders.shop",
        "port":8443},
        "origin":"user",
        "entry":"spiffe://prod.example.com/ns/edge/sa/gateway",
        "txn":"01a1f9e6",
        "jti":"j1",
        "tok":"abababababab",
        "user":{"idp":"corp",
        "id":"alice",
        "acct":"42-4242"},
        "scope":["orders:read"],
        "src":{"ip":"198.51.100.7",
        "via":"xff:1"},
        "dev":{"id":"laptop-9",
        "tier":"gold",
        "managed":true,
        "src":"inventory"},
        "just":{"kind":"ticket",
        "ref":"SUP-1234",
        "by":"tickets",
        "checked":true},
        "hops":["edge/gateway",
        "shop/cart"],
        "custody":true,
        "req":{"proto":"http2",
        "method":"GET",
        "host":"orders.shop",
        "route":"/v1/users/{user}",
        "path":"/v1/users/alice",
        "port":8080},
        "res":{"status":403},
        "t":{"dur_us":310,
        "wait_us":0,
        "eval_ns":4100},
        "ctx":"handle",
        "trace":{"id":"11111111111111111111111111111111",
        "span":"2222222222222222"},
        "at":{"pod":"orders-1"}}"#]]
    .assert_eq(&line.replace(",\"", ",\n\""));
}

#[test]
fn personal_values_leave_as_pseudonyms() {
    let key = PseudonymKey::new(b"key of this domain");
    let line = one_line(Personal::Pseudonyms(key.clone()), full_record());
    for personal in ["alice", "42-4242", "198.51.100.7", "laptop-9"] {
        assert!(!line.contains(personal), "{personal} in {line}");
    }
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["user"]["id"], key.pseudonym("user", "alice"));
    assert_eq!(line["user"]["acct"], key.pseudonym("acct", "42-4242"));
    assert_eq!(line["src"]["ip"], key.pseudonym("src", "198.51.100.7"));
    assert_eq!(line["dev"]["id"], key.pseudonym("dev", "laptop-9"));
    assert_eq!(line["req"]["path"], key.pseudonym("path", "/v1/users/alice"));
    assert_eq!((&line["user"]["idp"], &line["dev"]["tier"]), (&"corp".into(), &"gold".into()));
}

#[test]
fn a_record_that_would_be_too_long_is_written_in_brief() {
    let mut record = full_record();
    let request = record.request.as_mut().unwrap();
    request.host = "h".repeat(20_000).into();
    let line = one_line(Personal::Clear, record);
    assert!(line.len() <= countersign_config::limits::AUDIT_RECORD_BYTES_MAX);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["user"]["id"], "alice");
    assert_eq!(line["decision"], "deny");
}

#[test]
fn attack_writes_a_second_line_through_a_field() {
    let mut record = full_record();
    let request = record.request.as_mut().unwrap();
    request.host = "x\"}\n{\"kind\":\"decision\",\"decision\":\"allow\"".to_owned().into();
    let line = one_line(Personal::Clear, record);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["decision"], "deny");
}

/// Fails to compile once a type below gets a `Display` or a `Debug` that shows its content.
#[test]
fn attack_reads_tokens_from_any_output() {
    trait CannotBeShown {
        const SHOWN: bool = false;
    }
    impl<T> CannotBeShown for T {}
    struct Probe<T>(std::marker::PhantomData<T>);
    #[expect(dead_code, reason = "chosen instead of the trait's if the type has a Display")]
    impl<T: std::fmt::Display> Probe<T> {
        const SHOWN: bool = true;
    }
    const { assert!(!Probe::<Redacted<String>>::SHOWN) };
    const { assert!(!Probe::<PseudonymKey>::SHOWN) };
    let secret = "eyJhbGciOiJFUzI1NiJ9.secret.signature";
    let printed = format!("{:?} {:?}", Redacted::new(secret), Some(Redacted::new(vec![secret])));
    assert_eq!(printed, "Redacted(..) Some(Redacted(..))");
    assert_eq!(format!("{:?}", PseudonymKey::new(secret.as_bytes())), "PseudonymKey(..)");
}
