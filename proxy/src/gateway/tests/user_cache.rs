//! What a remembered user saves, and what it never skips.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::issuer::{NOW_S, Signer, alice, key_set, now, provider, source};
use crate::clock::Now;
use crate::gateway::identify::{EndUser, IdentifyError, UserVerifier};
use crate::gateway::provider_keys::KeysSnapshot;
use crate::gateway::user_cache::UserCache;

struct World {
    cache: UserCache,
    verifier: UserVerifier,
    keys: KeysSnapshot,
    headers: HeaderMap,
}

impl World {
    fn new() -> World {
        let signer = Signer::es256("k1");
        let value = format!("Bearer {}", signer.token(&alice()));
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(&value).unwrap());
        World {
            cache: UserCache::default(),
            verifier: UserVerifier::new([Arc::new(provider())]),
            keys: KeysSnapshot::fixed([("corp", key_set(&[&signer]))]),
            headers,
        }
    }

    fn identify(&mut self, now: Now) -> Result<Arc<EndUser>, IdentifyError> {
        let user = self.cache.identify(&self.verifier, &self.headers, &self.keys, now);
        user.map(|found| found.unwrap().user)
    }
}

fn at(secs: u64) -> Now {
    Now::from_micros(secs * 1_000_000)
}

#[test]
fn the_second_request_finds_the_user_of_the_first() {
    let mut world = World::new();
    let first = world.identify(now()).unwrap();
    let second = world.identify(now()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn a_remembered_token_ends_all_the_same() {
    let mut world = World::new();
    world.identify(now()).unwrap();
    let ended = world.identify(at(NOW_S + 300 + 31)).unwrap_err();
    assert_eq!(ended, IdentifyError::Expired { by_secs: 31 });
    let early = world.identify(at(NOW_S - 10 - 31)).unwrap_err();
    assert_eq!(early, IdentifyError::NotYetValid { ahead_secs: 31 });
}

#[test]
fn other_keys_are_asked_again() {
    let mut world = World::new();
    world.identify(now()).unwrap();
    world.keys = KeysSnapshot::fixed([("corp", key_set(&[&Signer::es256("k1")]))]);
    assert_eq!(world.identify(now()).unwrap_err(), IdentifyError::SignatureInvalid);
    world.keys = KeysSnapshot::default();
    assert_eq!(world.identify(now()).unwrap_err().reason(), "user_keys_unavailable");
}

#[test]
fn another_configuration_decides_anew() {
    let mut world = World::new();
    world.identify(now()).unwrap();
    let mut changed = provider();
    changed.spec.audiences = vec!["https://elsewhere".into()];
    world.verifier = UserVerifier::new([Arc::new(changed)]);
    assert_eq!(world.identify(now()).unwrap_err(), IdentifyError::AudienceWrong);

    let mut moved = provider();
    moved.spec.from = vec![source("x-assertion", None)];
    world.verifier = UserVerifier::new([Arc::new(moved)]);
    let nobody = world.cache.identify(&world.verifier, &world.headers, &world.keys, now());
    assert!(nobody.unwrap().is_none());
}

#[test]
fn a_refusal_is_not_remembered() {
    let mut world = World::new();
    let keys = std::mem::take(&mut world.keys);
    assert_eq!(world.identify(now()).unwrap_err().reason(), "user_keys_unavailable");
    world.keys = keys;
    world.identify(now()).unwrap();
}
