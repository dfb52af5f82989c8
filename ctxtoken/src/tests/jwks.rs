//! What the key set loader takes and refuses.
use serde_json::{Value, json};

use super::world::*;
use crate::*;

fn jwk() -> Value {
    serde_json::from_str(&p256().verifying_key().to_jwk()).unwrap()
}

fn load(keys: Value) -> Result<KeySet, JwksError> {
    KeySet::from_jwks_json(json!({"keys": keys}).to_string().as_bytes())
}

#[test]
fn sound_sets_load() {
    let ed: Value = serde_json::from_str(&ed25519().verifying_key().to_jwk()).unwrap();
    assert_eq!(load(json!([jwk(), ed])).unwrap().len(), 2);
    assert!(load(json!([])).unwrap().is_empty());
    let set = json!({"keys": [jwk()], "csign_sequence": 9, "csign_refresh_hint": 300, "x": {}});
    let set = KeySet::from_jwks_json(set.to_string().as_bytes()).unwrap();
    assert_eq!((set.sequence(), set.refresh_hint_s()), (9, Some(300)));
}

#[test]
fn one_bad_key_refuses_the_set() {
    for (member, value, part) in [
        ("kid", None, "no `kid`"),
        ("kid", Some(json!("k7")), "16 characters"),
        ("kid", Some(json!("AAAAAAAAAAAAAAA=")), "16 characters"),
        ("use", None, "csign-ctx"),
        ("use", Some(json!("sig")), "csign-ctx"),
        ("use", Some(json!("x509-svid")), "csign-ctx"),
        ("d", Some(json!("AAAA")), "private"),
        ("k", Some(json!("AAAA")), "private"),
        ("oth", Some(json!([])), "private"),
        ("crv", Some(json!("P-384")), "only EC/P-256"),
        ("crv", Some(json!("secp256k1")), "only EC/P-256"),
        ("kty", Some(json!("RSA")), "only EC/P-256"),
        ("kty", Some(json!("oct")), "only EC/P-256"),
        ("kty", Some(json!("OKP")), "only EC/P-256"),
        ("alg", None, "no `alg`"),
        ("alg", Some(json!("ES384")), "does not fit"),
        ("alg", Some(json!("Ed25519")), "does not fit"),
        ("alg", Some(json!("none")), "does not fit"),
        ("x", Some(json!("AAAA")), "32 bytes"),
        ("y", None, "32 bytes"),
        ("y", Some(json!("A".repeat(43))), "point of its curve"),
    ] {
        let mut key = jwk();
        match value.clone() {
            Some(value) => key[member] = value,
            None => drop(key.as_object_mut().unwrap().remove(member)),
        }
        let error = load(json!([jwk(), key])).unwrap_err();
        assert!(matches!(error, JwksError::BadKey { index: 1, .. }), "{member}: {error}");
        assert!(error.to_string().contains(part), "{member}: {error}");
    }
}

#[test]
fn a_set_is_bounded_and_its_names_are_unique() {
    let one = jwk();
    assert!(load(json!([one, one])).unwrap_err().to_string().contains("used before"));
    let named = |n: usize| {
        let mut key = one.clone();
        key["kid"] = json!(format!("{n:A>16}"));
        key
    };
    assert_eq!(load((0..64).map(named).collect()).unwrap().len(), 64);
    let error = load((0..65).map(named).collect()).unwrap_err();
    assert_eq!(error, JwksError::TooManyKeys { limit: 64 });
    let padded = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(256 * 1024));
    let error = KeySet::from_jwks_json(padded.as_bytes()).unwrap_err();
    assert_eq!(error, JwksError::TooLarge { limit: 256 * 1024 });
}

#[test]
fn things_that_are_no_sets_are_refused() {
    for bad in [
        r#"{}"#,
        r#"[]"#,
        r#"{"keys":{}}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[[]]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[{"kid":7}]}"#,
        r#"{"keys":null}"#,
        "",
        r#"{"keys":[],"csign_sequence":"7"}"#,
    ] {
        let error = KeySet::from_jwks_json(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, JwksError::Malformed(_)), "{bad}: {error}");
    }
}

#[test]
fn key_names_are_thumbprints() {
    // RFC 8037 appendix A.3 gives the thumbprint of this key.
    let key = VerifyingKey::from_jwk(
        br#"{"kty":"OKP","crv":"Ed25519","alg":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    );
    assert_eq!(key.unwrap().kid(), "kPrK_qmxVWaYVA9w"); // of kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k
}

#[test]
fn keys_of_certificates_are_p256_or_ed25519() {
    let key = p256();
    let raw = jws::decode(
        serde_json::from_str::<Value>(&key.verifying_key().to_jwk()).unwrap()["x"]
            .as_str()
            .unwrap()
            .as_bytes(),
    );
    assert_eq!(raw.unwrap().len(), 32);
    let rsa_prefix = [0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09];
    assert_eq!(VerifyingKey::from_spki_der(&rsa_prefix), Err(SignerError::Unsupported));
    assert_eq!(VerifyingKey::from_spki_der(&[]), Err(SignerError::Unsupported));
    assert!(LocalSigner::from_pkcs8_der(&[0x30, 0x00]).is_err());
}

#[test]
fn spki_and_jwk_give_the_same_key() {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pkcs8 = pkcs8.unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let signer = LocalSigner::from_pkcs8_der(pkcs8.as_ref()).unwrap();
    assert_eq!(&VerifyingKey::from_spki_der(spki.as_ref()).unwrap(), signer.verifying_key());

    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let signer = LocalSigner::from_pkcs8_der(pkcs8.as_ref()).unwrap();
    assert_eq!(&VerifyingKey::from_spki_der(spki.as_ref()).unwrap(), signer.verifying_key());
    assert_eq!(
        VerifyingKey::from_jwk(signer.verifying_key().to_jwk().as_bytes()).as_ref(),
        Ok(signer.verifying_key())
    );
}
