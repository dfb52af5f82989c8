//! SPIFFE bundle documents (B-1 to B-7) and what is held of them over time (B-2, B-3, F-6).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::authority::{NOW, TestCa, domain, pem};
use crate::{
    BundleDoc, bundle_map,
    federation::{Held, Pace, Took},
};

/// An entry for an authority, with what is not looked at.
pub(super) fn authority(ca: &TestCa) -> Value {
    json!({"use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(&ca.certificate)], "x": "-"})
}

fn doc(value: &Value) -> BundleDoc {
    BundleDoc::parse(value.to_string().as_bytes()).unwrap()
}

fn refused(text: &str, part: &str) {
    let error = BundleDoc::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(part), "{error:?} does not say {part:?}");
}

#[test]
fn b1_keys_are_required_and_none_is_nobody() {
    refused("{}", "missing field `keys`");
    refused(r#"{"keys": {}}"#, "expected a sequence");
    refused("[]", "invalid");
    refused("", "EOF");
    let nobody = doc(&json!({"keys": [], "spiffe_sequence": 4}));
    assert_eq!((nobody.authorities, nobody.sequence), (None, Some(4)));
}

#[test]
fn b2_and_b3_are_read_as_whole_numbers() {
    let read = doc(&json!({"keys": [], "spiffe_sequence": u64::MAX, "spiffe_refresh_hint": 7}));
    assert_eq!((read.sequence, read.refresh_hint_s), (Some(u64::MAX), Some(7)));
    for wrong in ["-1", "1.5", "\"7\"", "18446744073709551616"] {
        refused(&format!(r#"{{"keys": [], "spiffe_sequence": {wrong}}}"#), "invalid");
    }
    refused(r#"{"keys": [], "spiffe_sequence": 1, "spiffe_sequence": 2}"#, "duplicate field");
}

#[test]
fn b4_entries_of_unknown_kind_are_skipped() {
    let ca = TestCa::new("demo.test");
    let other = |change: fn(&mut Value)| {
        let mut key = json!({"use": "x509-svid", "kty": "EC", "x5c": 7, "kid": "?"});
        change(&mut key);
        key
    };
    let read = doc(&json!({"keys": [
        other(|key| key["use"] = json!("wit-svid")),
        other(|key| key["use"] = json!(7)),
        other(|key| drop(key.as_object_mut().unwrap().remove("use"))),
        other(|key| key["kty"] = json!("future")),
        other(|key| drop(key.as_object_mut().unwrap().remove("kty"))),
        authority(&ca),
    ]}));
    assert_eq!(read.authorities, Some(ca.bundle()));
}

#[test]
fn b5_an_authority_is_the_first_certificate_without_a_name() {
    let (ca, second) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let mut two = authority(&ca);
    two["x5c"].as_array_mut().unwrap().push(json!(STANDARD.encode(&second.certificate)));
    assert_eq!(doc(&json!({"keys": [two]})).authorities, Some(ca.bundle()));
    let leaf = ca.leaf("spiffe://demo.test/x", |_| {});
    for (change, part) in [
        (json!({"kid": "1"}), "kid"),
        (json!({"x5c": null}), "no x5c"),
        (json!({"x5c": []}), "empty x5c"),
        (json!({"x5c": "text"}), "empty x5c"),
        (json!({"x5c": [7]}), "not text"),
        (json!({"x5c": ["%"]}), "base64"),
        (json!({"x5c": ["AAAA"]}), "certificate 2"),
        (json!({"x5c": [STANDARD.encode(&leaf.certificate)]}), "not a certificate authority"),
    ] {
        let mut key = authority(&ca);
        key.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        // One faulty authority, and the sound one beside it is not taken either.
        refused(&json!({"keys": [authority(&ca), key]}).to_string(), part);
    }
}

#[test]
fn b6_unknown_members_are_no_error_and_ours_are_not_served() {
    let ca = TestCa::new("demo.test");
    let read = doc(&json!({
        "keys": [authority(&ca)], "spiffe_sequence": 1, "something": {"new": true},
    }));
    assert_eq!(read.authorities, Some(ca.bundle()));
    let served = BundleDoc::render(std::slice::from_ref(&ca.certificate), 9, 60).unwrap();
    let served: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(
        (&served["spiffe_sequence"], &served["spiffe_refresh_hint"]),
        (&json!(9), &json!(60))
    );
    let members: Vec<&String> = served["keys"][0].as_object().unwrap().keys().collect();
    assert_eq!(members, ["crv", "kty", "use", "x", "x5c", "y"]);
    assert_eq!(doc(&served).authorities, Some(ca.bundle()));
    // Keys for tokens are kept apart.
    let token =
        json!({"use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "a", "x": "AA", "y": "AA"});
    let read = doc(&json!({"keys": [token, authority(&ca)]}));
    assert_eq!(read.authorities, Some(ca.bundle()));
    assert_eq!(read.jwt_keys.unwrap().kids(), ["a"]);
}

#[test]
fn b7_a_bundle_map_gives_one_domain_and_keeps_its_own_pace() {
    let (a, b) = (TestCa::new("a.test"), TestCa::new("b.test"));
    let map = json!({"trust_domains": {
        "a.test": {"keys": [authority(&a)], "spiffe_refresh_hint": 5},
        "b.test": {"keys": [authority(&b)]},
    }})
    .to_string();
    let read = BundleDoc::of_file(map.as_bytes(), &domain("a.test")).unwrap();
    assert_eq!((read.authorities, read.refresh_hint_s), (Some(a.bundle()), None));
    let error = BundleDoc::of_file(map.as_bytes(), &domain("c.test")).unwrap_err().to_string();
    assert!(error.contains("does not speak of \"c.test\""), "{error}");
    let twice = map.replace("b.test", "a.test");
    let error = bundle_map::parse(twice.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("named twice"), "{error}");
    // One faulty domain, and none of the map is taken.
    let faulty = map.replacen("x509-svid\"", "x509-svid\",\"kid\":\"1\"", 1);
    assert!(bundle_map::parse(faulty.as_bytes()).is_err());
    let pem = BundleDoc::of_file(pem(&b.certificate).as_bytes(), &domain("b.test")).unwrap();
    assert_eq!(pem.authorities, Some(b.bundle()));
}

const PACE: Pace = Pace { least_s: 30, most_s: 3600 };
const DAY_S: u64 = 24 * 3600;

fn numbered(ca: &TestCa, sequence: u64) -> BundleDoc {
    doc(&json!({"keys": [authority(ca)], "spiffe_sequence": sequence}))
}

#[test]
fn b2_an_older_bundle_never_replaces_a_newer_one() {
    let (old, new) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let mut held = Held::default();
    assert_eq!(held.take(numbered(&old, 7), NOW), Took::Changed);
    assert_eq!(held.take(numbered(&new, 8), NOW + 1), Took::Changed);
    assert_eq!(held.take(numbered(&old, 7), NOW + 2), Took::Regression { held: 8, came: 7 });
    assert_eq!(held.in_force(NOW + 2, DAY_S), Some(&numbered(&new, 8)));
    assert_eq!(held.confirmed_at(), Some(NOW + 1), "an older bundle confirms nothing");
    assert_eq!(held.take(numbered(&new, 8), NOW + 3), Took::Unchanged);
    // An endpoint that does not count is believed, and does not reset the count.
    let uncounted = doc(&json!({"keys": [authority(&old)]}));
    assert_eq!(held.take(uncounted, NOW + 4), Took::Changed);
    assert_eq!(held.take(numbered(&new, 7), NOW + 5), Took::Regression { held: 8, came: 7 });
    // Nobody vouches any more: that is a state, not an error.
    assert_eq!(held.take(doc(&json!({"keys": [], "spiffe_sequence": 9})), NOW + 6), Took::Changed);
    assert_eq!(held.in_force(NOW + 6, DAY_S).unwrap().authorities, None);
}

#[test]
fn b3_the_pace_is_the_endpoints_within_bounds() {
    let hinted = |hint: Value| {
        let mut held = Held::default();
        held.take(doc(&json!({"keys": [], "spiffe_refresh_hint": hint})), NOW);
        held.interval(PACE)
    };
    assert_eq!(Held::default().interval(PACE), Duration::from_secs(300));
    assert_eq!(hinted(Value::Null), Duration::from_secs(300));
    assert_eq!(hinted(json!(0)), Duration::from_secs(30));
    assert_eq!(hinted(json!(90)), Duration::from_secs(90));
    assert_eq!(hinted(json!(u64::MAX)), Duration::from_secs(3600));
}

#[test]
fn what_nobody_confirms_is_dropped_after_a_day() {
    let ca = TestCa::new("demo.test");
    let mut held = Held::starting_from(numbered(&ca, 1), NOW);
    assert!(held.in_force(NOW + DAY_S, DAY_S).is_some());
    assert!(held.in_force(NOW + DAY_S + 1, DAY_S).is_none());
    assert!(held.latest().is_some(), "its endpoint is still authenticated with it");
    assert_eq!(held.take(numbered(&ca, 1), NOW + 2 * DAY_S), Took::Unchanged);
    assert!(held.in_force(NOW + 2 * DAY_S, DAY_S).is_some());
}

/// What fuzzing found, and one of each kind: read or refused, never a panic.
#[test]
fn the_corpus_of_bundles_replays() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/bundle");
    let (mut read, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        let _ = BundleDoc::of_file(&text, &domain("prod.example.com"));
        match BundleDoc::parse(&text) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read >= 3 && refused >= 4, "{read} read, {refused} refused");
}
