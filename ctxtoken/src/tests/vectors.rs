//! Tokens made by JOSE libraries that are not ours (`tests/vectors/make_vectors.py`): sound ones
//! must verify, the others must be refused for the written reason.
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::world::*;
use crate::*;

const VECTORS: &str = include_str!("../../tests/vectors/vectors.json");

fn vectors() -> (World, Vec<Value>) {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    let der = |name: &str| STANDARD.decode(file[name].as_str().unwrap()).unwrap();
    let mut world = World::new();
    world.now = UnixTime(file["now"].as_u64().unwrap());
    let jwks = KeySet::from_jwks_json(file["jwks"].to_string().as_bytes()).unwrap();
    world.list(KeyForms::Either, Some(jwks));
    let leaf = ChainKey {
        id: id(GATEWAY),
        key: VerifyingKey::from_spki_der(&der("leaf_spki")).unwrap(),
        not_after: UnixTime(file["leaf_not_after"].as_u64().unwrap()),
    };
    world.chains.known = [(der("leaf"), leaf)].into();
    let tokens = file["tokens"].as_array().unwrap().clone();
    (world, tokens)
}

#[test]
fn tokens_of_other_libraries_verify_or_are_refused_as_written() {
    let (world, tokens) = vectors();
    let mut sound = 0;
    for vector in &tokens {
        let token = vector["token"].as_str().unwrap();
        let refused = world.verify(token).err().map(|error| error.reason());
        assert_eq!(refused, vector["refused"].as_str(), "{}", vector["name"]);
        sound += usize::from(refused.is_none());
    }
    assert!(sound >= 6 && tokens.len() - sound >= 12, "the file lost vectors");
}

#[test]
fn their_claims_are_read_as_they_were_written() {
    let (world, tokens) = vectors();
    let verified = world.verify(tokens[0]["token"].as_str().unwrap()).unwrap();
    assert_eq!(verified.sub.to_string(), "user:alice");
    assert_eq!(verified.rctx.ip_src, Some(IpSource::XForwardedFor(1)));
    assert_eq!(verified.rctx.just.as_ref().map(|just| just.checked), Some(true));
    assert_eq!(verified.tctx.p.as_deref(), Some("/v1/users/{user}/orders"));
    let unicode = tokens.iter().find(|v| v["name"].as_str().unwrap().contains("non-ASCII"));
    let verified = world.verify(unicode.unwrap()["token"].as_str().unwrap()).unwrap();
    assert_eq!(verified.sub.to_string(), "user:jos\u{e9}/\u{1f600}");
}
