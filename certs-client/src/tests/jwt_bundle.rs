//! JWT bundles as the Workload API and bundle endpoints give them.

use serde_json::{Value, json};

use crate::{JwksForm, JwtBundle, JwtBundleError};

fn key(change: impl FnOnce(&mut Value)) -> Value {
    let mut key = json!({
        "kty": "EC", "crv": "P-256", "kid": "k1", "use": "jwt-svid", "x": "AA", "y": "BB",
    });
    change(&mut key);
    key
}

fn parse(keys: &[Value], form: JwksForm) -> Result<JwtBundle, JwtBundleError> {
    JwtBundle::parse(json!({ "keys": keys }).to_string().as_bytes(), form)
}

#[test]
fn j8_w12_only_token_keys_are_taken() {
    let unnamed = |use_: &str| key(|key| key["use"] = json!(use_));
    let keys = [
        key(|_| {}),
        unnamed("x509-svid"),
        unnamed("wit-svid"),
        unnamed("sig"),
        key(|key| key["kty"] = json!("oct")),
        key(|key| drop(key.as_object_mut().unwrap().remove("kty"))),
        key(|key| key["use"] = json!(7)),
    ];
    for form in [JwksForm::WorkloadApi, JwksForm::SpiffeBundle] {
        let bundle = parse(&keys, form).unwrap();
        assert_eq!(bundle.kids(), ["k1"], "{form:?}");
        let set: Value = serde_json::from_slice(bundle.jwks()).unwrap();
        let wanted = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": "AA", "y": "BB"});
        assert_eq!(set, json!({ "keys": [wanted] }));
    }
}

/// SPIRE sends token keys without `use`; in a SPIFFE bundle that member is what names them.
#[test]
fn w13_without_use_a_key_counts_only_where_nothing_else_is_sent() {
    let bare = key(|key| drop(key.as_object_mut().unwrap().remove("use")));
    assert_eq!(parse(std::slice::from_ref(&bare), JwksForm::WorkloadApi).unwrap().kids(), ["k1"]);
    assert!(parse(&[bare], JwksForm::SpiffeBundle).unwrap().kids().is_empty());
}

#[test]
fn j8_a_broken_token_key_refuses_the_whole_bundle() {
    for (bad, said) in [
        (key(|key| key["kid"] = json!("")), "key 2 of the JWT bundle has no kid"),
        (key(|key| key["kid"] = json!(5)), "has no kid"),
        (key(|key| drop(key.as_object_mut().unwrap().remove("kid"))), "has no kid"),
        (key(|_| {}), "has a kid that was used before"),
        (key(|key| key["d"] = json!("secret")), "shows its private half"),
    ] {
        let error = parse(&[key(|_| {}), bad], JwksForm::WorkloadApi).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn what_is_no_jwk_set_is_refused() {
    for bad in ["", "[]", "{}", r#"{"keys":7}"#, r#"{"keys":["x"]}"#, r#"{"keys":[],"keys":[]}"#] {
        let error = JwtBundle::parse(bad.as_bytes(), JwksForm::WorkloadApi).unwrap_err();
        assert!(matches!(error, JwtBundleError::Malformed(_)), "{bad}: {error}");
    }
    let many: Vec<Value> = (0..65).map(|n| key(|key| key["kid"] = json!(n.to_string()))).collect();
    let error = parse(&many, JwksForm::WorkloadApi).unwrap_err();
    assert!(matches!(error, JwtBundleError::TooLarge(_)), "{error}");
    let long = format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(256 * 1024));
    let error = JwtBundle::parse(long.as_bytes(), JwksForm::WorkloadApi).unwrap_err();
    assert!(matches!(error, JwtBundleError::TooLarge(_)), "{error}");
}

/// B-1: an empty set is a statement, not a mistake: nothing of this domain is valid.
#[test]
fn an_empty_set_trusts_nobody() {
    assert!(parse(&[], JwksForm::SpiffeBundle).unwrap().kids().is_empty());
}
