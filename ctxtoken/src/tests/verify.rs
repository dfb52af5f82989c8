//! The order of the steps, key forms, and times, at their exact limits.
use serde_json::json;

use super::world::*;
use crate::*;

#[test]
fn a_sound_token_verifies_in_every_key_form() {
    let mut world = World::new();
    for header in [world.kid_header(), x5c_header("gateway")] {
        for typ in ["txntoken+jwt", "application/txntoken+jwt"] {
            let mut header = header.clone();
            header["typ"] = json!(typ);
            let verified = world.verify(&world.headed(&header)).unwrap();
            assert_eq!(verified.sub.to_string(), "user:alice");
            assert_eq!(verified.rctx.to.as_str(), ORDERS);
            assert_eq!(verified.get().scope, ["orders.read"]);
        }
    }
    let key = ed25519();
    world.list(KeyForms::Either, Some(key_set(&[&key])));
    let header = json!({"alg": "Ed25519", "typ": "txntoken+jwt", "kid": key.verifying_key().kid()});
    let token = signed(&header.to_string(), &base_claims().to_string(), &key);
    assert!(world.verify(&token).is_ok());
}

#[test]
fn each_step_comes_before_the_next() {
    // A token that breaks every rule from some step on is refused for the first of them.
    let mut world = World::new();
    let stranger = p256();
    let mut claims = base_claims();
    let mut header = world.kid_header();
    header["kid"] = json!("AAAAAAAAAAAAAAAA");
    claims["scope"] = json!("admin");
    claims["sub"] = json!("nobody");
    claims["exp"] = json!(NOW.0 - 1000);
    claims["aud"] = json!("test.example.com");
    claims["iss"] = json!(POD);
    let make = |header: &serde_json::Value, claims: &serde_json::Value, key: &LocalSigner| {
        signed(&header.to_string(), &claims.to_string(), key)
    };
    world.refuses(&make(&header, &claims, &stranger), "token_expired");
    claims["exp"] = json!(NOW.0 + 50);
    world.refuses(&make(&header, &claims, &stranger), "audience_wrong");
    claims["aud"] = json!("prod.example.com");
    world.refuses(&make(&header, &claims, &stranger), "issuer_not_allowed");
    claims["iss"] = json!(GATEWAY);
    world.refuses(&make(&header, &claims, &stranger), "key_unknown");
    header = world.kid_header();
    world.refuses(&make(&header, &claims, &stranger), "signature_invalid");
    let gateway = world.gateway.clone();
    world.refuses(&make(&header, &claims, &gateway), "claim_invalid");
    claims["sub"] = json!("user:alice");
    world.refuses(&make(&header, &claims, &gateway), "constraint_violated");
    claims["scope"] = json!("orders.read");
    assert!(world.verify(&make(&header, &claims, &gateway)).is_ok());
    world.list(KeyForms::Either, None);
    world.refuses(&make(&header, &claims, &stranger), "keys_unavailable");
}

#[test]
fn types_of_claims_are_judged_after_the_signature() {
    let world = World::new();
    for (name, value) in [("exp", json!("soon")), ("aud", json!(["x"])), ("sub", json!(7))] {
        let mut claims = base_claims();
        claims[name] = value;
        let forged = signed(&world.kid_header().to_string(), &claims.to_string(), &p256());
        world.refuses(&forged, "signature_invalid");
        world.refuses(&world.token(&claims), "claim_invalid");
    }
}

#[test]
fn times_are_exact() {
    let mut world = World::new();
    let token = world.token(&base_claims());
    for (now, accepted) in [
        (NOW.0 - 41, false),
        (NOW.0 - 40, true),
        (NOW.0, true),
        (NOW.0 + 79, true),
        (NOW.0 + 80, false),
    ] {
        world.now = UnixTime(now);
        assert_eq!(world.verify(&token).is_ok(), accepted, "{now}");
    }
    world.now = UnixTime(u64::MAX);
    world.refuses(&token, "token_expired");
    world.now = NOW;
    let backwards = world.changed(|claims| claims["exp"] = json!(NOW.0 - 10));
    world.refuses(&backwards, "claim_invalid");
}

#[test]
fn key_forms_are_what_the_entry_says() {
    let mut world = World::new();
    let by_kid = world.token(&base_claims());
    let by_chain = world.headed(&x5c_header("gateway"));
    let jwks = key_set(&[&world.gateway]);
    for (form, kid, x5c) in [
        (KeyForms::Either, true, true),
        (KeyForms::Jwks, true, false),
        (KeyForms::X5c, false, true),
    ] {
        world.list(form, Some(jwks.clone()));
        assert_eq!(world.verify(&by_kid).is_ok(), kid, "{form:?}");
        assert_eq!(world.verify(&by_chain).is_ok(), x5c, "{form:?}");
    }
    let error = world.refuses(&by_kid, "key_unknown");
    assert_eq!(error, VerifyError::KeyUnknown(KeyProblem::FormNotAllowed));
}

#[test]
fn a_stale_key_set_is_unavailable() {
    let mut world = World::new();
    let jwks = key_set(&[&world.gateway]);
    let token = world.token(&base_claims());
    world.list(KeyForms::Jwks, Some(jwks.clone().usable_until(NOW.plus(1))));
    assert!(world.verify(&token).is_ok());
    world.list(KeyForms::Jwks, Some(jwks.usable_until(NOW)));
    world.refuses(&token, "keys_unavailable");
}

#[test]
fn keys_have_their_own_times() {
    let mut world = World::new();
    let token = world.token(&base_claims());
    for (times, valid) in [
        (format!(r#""nbf":{}"#, NOW.0 + 30), true),
        (format!(r#""nbf":{}"#, NOW.0 + 31), false),
        (format!(r#""exp":{}"#, NOW.0 - 29), true),
        (format!(r#""exp":{}"#, NOW.0 - 30), false),
    ] {
        let jwk = world.gateway.verifying_key().to_jwk();
        let set = format!(r#"{{"keys":[{},{times}}}]}}"#, jwk.strip_suffix('}').unwrap());
        world.list(KeyForms::Jwks, Some(KeySet::from_jwks_json(set.as_bytes()).unwrap()));
        assert_eq!(world.verify(&token).is_ok(), valid, "{times}");
    }
}

#[test]
fn exp_may_equal_the_end_of_the_leaf() {
    let mut world = World::new();
    world.chains.known.get_mut(&certificate("gateway")).unwrap().not_after = NOW.plus(50);
    assert!(world.verify(&world.headed(&x5c_header("gateway"))).is_ok());
}

#[test]
fn issuers_are_listed_once() {
    let entry =
        || Issuer { id: id(GATEWAY), keys: KeyForms::X5c, allow: user_constraints(), jwks: None };
    let twice = IssuerSet::new(vec![entry(), entry()]).unwrap_err();
    assert_eq!(twice, IssuersError::Duplicate(id(GATEWAY)));
    let set = IssuerSet::new(vec![entry()]).unwrap();
    assert!(!set.is_empty() && set.iter().count() == 1);
}

#[test]
fn unverified_shows_what_verify_would_parse() {
    let world = World::new();
    let token = world.headed(&x5c_header("gateway"));
    let shown = Unverified::parse(token.as_bytes(), &world.limits).unwrap();
    assert_eq!(shown.algorithm(), Algorithm::Es256);
    assert_eq!(shown.key_name(), &KeyName::X5c(vec![certificate("gateway")]));
    assert_eq!(shown.payload_json(), base_claims().to_string());
    assert_eq!(shown.claims(&trust_domain()).unwrap().sub.to_string(), "user:alice");
    assert!(shown.header_json().contains("txntoken+jwt"));
}

#[test]
fn unknown_claims_are_accepted_and_invisible() {
    let world = World::new();
    let token = world.changed(|claims| {
        claims["purp"] = json!("x");
        claims["rctx"]["future"] = json!({"a": [1, null, 1.5, true]});
    });
    let plain = world.verify(&world.token(&base_claims())).unwrap();
    assert_eq!(world.verify(&token).unwrap().get(), plain.get());
}
