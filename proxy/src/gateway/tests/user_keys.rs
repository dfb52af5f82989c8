//! JWK sets good and bad.

use countersign_policy::doc::UserAlgorithm;
use serde_json::{Value, json};

use super::issuer::{Signer, jwks};
use crate::gateway::user_keys::{KeySetError, UserKeySet};

const BOTH: [UserAlgorithm; 2] = [UserAlgorithm::RS256, UserAlgorithm::ES256];

fn load(keys: Value) -> Result<usize, KeySetError> {
    let json = json!({ "keys": keys }).to_string();
    UserKeySet::from_jwks_json(json.as_bytes(), &BOTH).map(|set| set.len())
}

fn with(signer: &Signer, name: &str, value: Value) -> Value {
    let mut jwk = signer.jwk();
    jwk[name] = value;
    jwk
}

#[test]
fn keys_that_do_not_fit_the_document_are_skipped() {
    let (ec, rsa) = (Signer::es256("k1"), Signer::rs256("k2"));
    let foreign = [
        with(&ec, "use", json!("enc")),
        with(&ec, "alg", json!("ES512")),
        with(&ec, "crv", json!("secp256k1")),
        with(&rsa, "alg", json!("PS256")),
        with(&rsa, "key_ops", json!(["encrypt"])),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "new-kind"}),
    ];
    for jwk in foreign {
        assert_eq!(load(json!([jwk])), Err(KeySetError::Empty));
        assert_eq!(load(json!([jwk, ec.jwk(), rsa.jwk()])), Ok(2));
    }
}

#[test]
fn only_permitted_algorithms_are_taken() {
    let (ec, rsa) = (Signer::es256("k1"), Signer::rs256("k2"));
    let set = UserKeySet::from_jwks_json(jwks(&[&ec, &rsa]).as_bytes(), &[UserAlgorithm::RS256]);
    assert_eq!(set.unwrap().len(), 1);
}

#[test]
fn private_and_shared_keys_refuse_the_set() {
    let ec = Signer::es256("k1");
    assert_eq!(load(json!([with(&ec, "d", json!("AA"))])), Err(KeySetError::PrivateKey));
    assert_eq!(load(json!([{"kty": "oct", "k": "AA"}])), Err(KeySetError::PrivateKey));
}

#[test]
fn one_key_id_is_one_key() {
    let (a, b) = (Signer::es256("k1"), Signer::es256("k1"));
    let doubled = Err(KeySetError::DuplicateKeyId("k1".into()));
    assert_eq!(load(json!([a.jwk(), b.jwk()])), doubled);
}

#[test]
fn points_off_the_curve_and_odd_lengths_are_refused() {
    let ec = Signer::es256("k1");
    let short = super::issuer::b64([1; 31]);
    let wrong = super::issuer::b64([1; 32]);
    for value in [json!(short), json!(wrong), json!("+/="), json!(7)] {
        assert!(matches!(load(json!([with(&ec, "x", value)])), Err(KeySetError::Malformed(_))));
    }
}

#[test]
fn the_set_is_bounded_and_strict() {
    let many: Vec<Value> = (0..65).map(|_| json!({"kty": "x"})).collect();
    assert_eq!(load(json!(many)), Err(KeySetError::TooMany));
    for json in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[7]}"#, r#"{"keys":[],"keys":[]}"#] {
        let outcome = UserKeySet::from_jwks_json(json.as_bytes(), &BOTH);
        assert!(matches!(outcome, Err(KeySetError::Malformed(_))), "{json}");
    }
}
