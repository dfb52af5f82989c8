//! Replays what the fuzzer has kept through the parsers of peer bytes.
use std::{fs, path::Path};

use super::world::*;
use crate::*;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap();
    let inputs: Vec<_> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!inputs.is_empty(), "the corpus of {target} is missing");
    inputs
}

#[test]
fn token_corpus_replays() {
    let world = World::new();
    for input in corpus("token") {
        let _ = verify(&input, &world.with());
        let _ = Unverified::parse(&input, &world.limits);
    }
}

#[test]
fn claims_corpus_replays() {
    let world = World::new();
    for input in corpus("claims") {
        let token = signed_bytes(world.kid_header().to_string().as_bytes(), &input, &world.gateway);
        let _ = world.verify(&token);
    }
}

#[test]
fn header_corpus_replays() {
    let world = World::new();
    for input in corpus("header") {
        let _ = verify(signed_bytes(&input, b"{}", &world.gateway).as_bytes(), &world.with());
    }
}

#[test]
fn hops_corpus_replays() {
    let mut read = 0;
    for input in corpus("hops") {
        if let Ok(list) = HopList::parse(&input, &Limits::default()) {
            let again = HopList::parse(list.text().as_bytes(), &Limits::default());
            assert_eq!(again.as_ref(), Ok(&list));
            read += 1;
        }
    }
    assert!(read >= 5, "the corpus has lists that are read");
}

#[test]
fn hop_record_corpus_replays() {
    let mut read = 0;
    for input in corpus("hop_record") {
        let mut parts = input.splitn(2, |byte| *byte == 0);
        let (header, payload) = (parts.next().unwrap(), parts.next().unwrap());
        let field = signed_bytes(header, payload, &ed25519());
        read += usize::from(HopList::parse(field.as_bytes(), &Limits::default()).is_ok());
    }
    assert!(read >= 2, "the corpus has records that are read");
}

#[test]
fn jwks_corpus_replays() {
    for input in corpus("jwks") {
        let _ = KeySet::from_jwks_json(&input);
        let _ = VerifyingKey::from_jwk(&input);
    }
}

#[test]
fn grant_corpus_replays() {
    let (world, issuer) = (World::new(), id(GATEWAY));
    let key = world.gateway.verifying_key().clone();
    let keys = [GrantKey { kid: key.kid(), key }];
    let with = GrantWith {
        issuer: &issuer,
        keys: &keys,
        chains: &world.chains,
        now: NOW,
        skew_s: 30,
        limits: &world.limits,
    };
    let header = format!(r#"{{"alg":"ES256","typ":"csign-deferred+jwt","kid":"{}"}}"#, keys[0].kid);
    let mut sound = 0;
    for input in corpus("grant") {
        let _ = (grant_scope(&input), verify_grant(&input, &with));
        let text = signed_bytes(header.as_bytes(), &input, &world.gateway);
        sound += usize::from(verify_grant(text.as_bytes(), &with).is_ok());
    }
    assert_eq!(sound, 1, "one input of the corpus is a grant");
}
