//! Published key sets: what is written is what is read, and sets that are fetched end.
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::world;
use crate::*;

const ISSUER: &str = "spiffe://prod.example.com/ns/edge/sa/gateway";

/// The same two keys in every test.
static PAIR: LazyLock<[Arc<LocalSigner>; 2]> = LazyLock::new(|| [world::p256(), world::ed25519()]);

fn p256() -> &'static LocalSigner {
    &PAIR[0]
}

fn ed25519() -> &'static LocalSigner {
    &PAIR[1]
}

fn keys() -> Vec<PublishedKey> {
    let plain =
        |key: &VerifyingKey| PublishedKey { key: key.clone(), not_before: None, expires: None };
    let mut retired = plain(ed25519().verifying_key());
    retired.expires = Some(UnixTime(2_000));
    vec![plain(p256().verifying_key()), retired]
}

fn written(sequence: u64) -> String {
    issuer_jwks(&ISSUER.parse().unwrap(), &keys(), sequence, 300)
}

#[test]
fn a_published_set_is_read_back_whole() {
    let set = KeySet::from_jwks_json(written(9).as_bytes()).unwrap();
    assert_eq!((set.sequence(), set.refresh_hint_s()), (9, Some(300)));
    assert_eq!(set.published().collect::<Vec<_>>(), keys());
    let none = issuer_jwks(&ISSUER.parse().unwrap(), &[], 1, 300);
    assert!(KeySet::from_jwks_json(none.as_bytes()).unwrap().is_empty());
}

/// Another `use` and nothing private: our own loader refuses the view for others.
#[test]
fn the_plain_view_is_plain() {
    let text = plain_jwks(&keys());
    let value: Value = serde_json::from_str(&text).unwrap();
    for key in value["keys"].as_array().unwrap() {
        assert_eq!(key["use"], "sig");
        let known = ["alg", "crv", "exp", "kid", "kty", "use", "x", "y"];
        assert!(
            key.as_object().unwrap().keys().all(|name| known.contains(&name.as_str())),
            "{key}"
        );
    }
    assert!(KeySet::from_jwks_json(text.as_bytes()).unwrap_err().to_string().contains("csign-ctx"));
}

#[test]
fn a_fetched_set_counts_from_its_first_confirmation_to_its_end() {
    let upkeep = Arc::new(Upkeep::default());
    let set = KeySet::from_jwks_json(written(1).as_bytes()).unwrap().kept_by(&upkeep);
    let kid = p256().verifying_key().kid();
    let now = UnixTime(1_000);
    assert!(!set.is_usable(now), "nobody confirmed it");
    upkeep.confirm(UnixTime(1_500));
    assert!(set.is_usable(now));
    assert_eq!(set.find(&kid, now, 30), Ok(p256().verifying_key()));
    assert!(!set.is_usable(UnixTime(1_500)));
}

#[test]
fn an_unknown_name_asks_for_another_fetch() {
    let (one, two) = (Arc::new(Upkeep::default()), Arc::new(Upkeep::default()));
    let set = |upkeep| KeySet::from_jwks_json(written(1).as_bytes()).unwrap().kept_by(upkeep);
    let all = KeySet::union([set(&one), set(&two)]);
    one.confirm(UnixTime(2_000));
    let known = p256().verifying_key().kid();
    assert!(all.find(&known, UnixTime(1_000), 30).is_ok());
    assert!(!one.is_wanted() && !two.is_wanted());
    assert_eq!(all.find("AAAAAAAAAAAAAAAA", UnixTime(1_000), 30), Err(KeyProblem::NoSuchKid));
    assert!(one.is_wanted() && two.is_wanted());
    one.fetching();
    assert!(!one.is_wanted() && two.is_wanted());
}

/// Two replicas hold one key: it counts as long as one of them confirms it. A key of its own goes
/// stale with its replica, and nobody else's does.
#[test]
fn replicas_go_stale_one_by_one() {
    let (one, two) = (Arc::new(Upkeep::default()), Arc::new(Upkeep::default()));
    let only = |key: &VerifyingKey, upkeep| {
        let key = PublishedKey { key: key.clone(), not_before: None, expires: None };
        let text = issuer_jwks(&ISSUER.parse().unwrap(), &[key], 1, 300);
        KeySet::from_jwks_json(text.as_bytes()).unwrap().kept_by(upkeep)
    };
    let (p256, ed25519) = (p256(), ed25519());
    let (shared, own) = (p256.verifying_key(), ed25519.verifying_key());
    let all = KeySet::union([only(shared, &one), only(own, &one), only(shared, &two)]);
    one.confirm(UnixTime(1_000));
    two.confirm(UnixTime(5_000));
    let late = UnixTime(2_000);
    assert!(all.is_usable(late));
    assert_eq!(all.find(&shared.kid(), late, 30), Ok(shared));
    assert_eq!(all.find(&own.kid(), late, 30), Err(KeyProblem::NotValidNow));
    assert!(!all.is_usable(UnixTime(5_000)));
}

#[test]
fn who_confirms_a_set_is_no_part_of_it() {
    let set = || KeySet::from_jwks_json(written(1).as_bytes()).unwrap();
    assert!(set().has_same_keys(&set().kept_by(&Arc::new(Upkeep::default()))));
    let fewer = issuer_jwks(&ISSUER.parse().unwrap(), &keys()[..1], 1, 300);
    assert!(!set().has_same_keys(&KeySet::from_jwks_json(fewer.as_bytes()).unwrap()));
    let mut other = keys();
    other[1].expires = Some(UnixTime(3_000));
    let other = issuer_jwks(&ISSUER.parse().unwrap(), &other, 1, 300);
    assert!(!set().has_same_keys(&KeySet::from_jwks_json(other.as_bytes()).unwrap()));
}
