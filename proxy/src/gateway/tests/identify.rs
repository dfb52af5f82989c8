//! Bearer tokens good and bad, and what an attacker tries with them.

use std::sync::Arc;

use aws_lc_rs::hmac;
use countersign_policy::doc::{ClaimRole, ClaimType};
use expect_test::{Expect, expect};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::issuer::{
    AUDIENCE, ISSUER, NOW_S, Signer, alice, b64, claim, key_set, named, now, provider, source,
};
use crate::clock::Now;
use crate::gateway::identify::{EndUser, IdentifyError, UserVerifier, verify_bearer};
use crate::gateway::provider_keys::{KeysSnapshot, Provider};

fn headers(value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value).unwrap();
    [(http::header::AUTHORIZATION, value)].into_iter().collect()
}

fn identify_by(
    provider: Provider,
    signer: &Signer,
    headers: &HeaderMap,
    now: Now,
) -> Result<Option<EndUser>, IdentifyError> {
    let keys = KeysSnapshot::fixed([(provider.name.as_str(), key_set(&[signer]))]);
    verify_bearer(headers, &[Arc::new(provider)], &keys, now)
}

fn identify(signer: &Signer, token: &str) -> Result<EndUser, IdentifyError> {
    let headers = headers(&format!("Bearer {token}"));
    identify_by(provider(), signer, &headers, now()).map(Option::unwrap)
}

/// Alice's claims with some replaced; `null` removes one.
fn alice_but(changes: Value) -> Value {
    let mut claims = alice();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Checks the refusal of alice's token with some claims replaced.
fn refused(changes: Value, expected: Expect) {
    let signer = Signer::es256("k1");
    let error = identify(&signer, &signer.token(&alice_but(changes))).unwrap_err();
    expected.assert_eq(&format!("{}: {error}", error.reason()));
}

/// Checks the refusal of a token that is already made.
fn token_refused(signer: &Signer, token: &str, expected: Expect) {
    let error = identify(signer, token).unwrap_err();
    expected.assert_eq(&format!("{}: {error}", error.reason()));
}

#[test]
fn a_user_has_the_declared_facts_and_no_others() {
    for signer in [Signer::es256("k1"), Signer::rs256("k2")] {
        let user = identify(&signer, &signer.token(&alice())).unwrap();
        assert_eq!(user.provider(), "corp");
        assert_eq!(user.id(), "alice");
        assert_eq!(user.subject().to_string(), "user:alice");
        assert_eq!(user.account(), Some("42"));
        assert_eq!(user.groups(), ["support"], "only groups the document keeps");
        assert_eq!(user.auth_time(), Some(NOW_S - 812));
        assert_eq!((user.acr(), user.client_id()), (Some("2"), Some("webshop")));
        assert_eq!(user.amr(), ["pwd", "otp"]);
        assert_eq!(user.granted_scopes().unwrap(), ["orders.read", "profile"]);
        assert_eq!(Value::Object(user.claims().clone()), json!({"tenant": "acme"}));
        assert_eq!(user.expires_at(), NOW_S + 300);
    }
}

#[test]
fn a_token_of_another_library_verifies() {
    let signer = Signer::es256("k1");
    let super::issuer::Key::Es256(key) = &signer.key else { unreachable!() };
    let pkcs8 = key.to_pkcs8v1().unwrap();
    let header = jsonwebtoken::Header {
        typ: Some("at+jwt".into()),
        kid: Some("k1".into()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let key = jsonwebtoken::EncodingKey::from_ec_der(pkcs8.as_ref());
    let token = jsonwebtoken::encode(&header, &alice(), &key).unwrap();
    assert_eq!(identify(&signer, &token).unwrap().subject().to_string(), "user:alice");
}

#[test]
fn a_request_without_bearer_token_has_no_user() {
    let signer = Signer::es256("k1");
    for headers in [HeaderMap::new(), headers("Basic YTpi")] {
        assert!(identify_by(provider(), &signer, &headers, now()).unwrap().is_none());
    }
}

#[test]
fn the_scheme_is_compared_without_case() {
    let signer = Signer::es256("k1");
    for scheme in ["bearer", "BEARER", "Bearer "] {
        let headers = headers(&format!("{scheme} {}", signer.token(&alice())));
        assert!(identify_by(provider(), &signer, &headers, now()).unwrap().is_some());
    }
}

#[test]
fn subjects_of_a_prefixed_provider_name_it_and_ids_cannot_escape() {
    let signer = Signer::es256("k1");
    let mut prefixed = provider();
    prefixed.spec.subject_prefix = Some("corp".into());
    for (id, plain, with_prefix) in [
        ("alice", "user:alice", "user:corp/alice"),
        ("corp/alice", "user:corp%2Falice", "user:corp/corp%2Falice"),
        ("a%2Fb\n", "user:a%252Fb%0A", "user:corp/a%252Fb%0A"),
        ("zoë", "user:zoë", "user:corp/zoë"),
    ] {
        let token = signer.token(&alice_but(json!({"sub": id})));
        assert_eq!(identify(&signer, &token).unwrap().subject().to_string(), plain);
        let headers = headers(&format!("Bearer {token}"));
        let user = identify_by(prefixed.clone(), &signer, &headers, now()).unwrap().unwrap();
        assert_eq!(user.subject().to_string(), with_prefix);
    }
}

#[test]
fn times_are_compared_with_the_injected_clock() {
    refused(
        json!({"exp": NOW_S - 94}),
        expect!["user_token_expired: the user token ended 94 s ago; if it is new, a clock is off"],
    );
    refused(
        json!({"exp": null}),
        expect![
            "user_claim_invalid: claim `exp` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"exp": "tomorrow"}),
        expect![
            "user_claim_invalid: claim `exp` of the user token is missing, of another type than declared, or too large"
        ],
    );
    let signer = Signer::es256("k1");
    for within_skew in [
        json!({"exp": NOW_S - 29}),
        json!({"nbf": NOW_S + 30}),
        json!({"iat": NOW_S + 30}),
        json!({"exp": f64::from(1_795_194_010_u32) + 0.5}),
    ] {
        let _ = identify(&signer, &signer.token(&alice_but(within_skew))).unwrap();
    }
}

#[test]
fn attack_sends_user_token_from_the_future() {
    refused(
        json!({"nbf": NOW_S + 94}),
        expect![
            "user_token_invalid: the user token begins 94 s from now; its issuer's clock is ahead"
        ],
    );
    refused(
        json!({"iat": NOW_S + 94}),
        expect![
            "user_token_invalid: the user token begins 94 s from now; its issuer's clock is ahead"
        ],
    );
    refused(
        json!({"iat": -1}),
        expect![
            "user_claim_invalid: claim `iat` of the user token is missing, of another type than declared, or too large"
        ],
    );
}

#[test]
fn attack_sends_user_token_for_another_audience() {
    refused(
        json!({"aud": "https://other.example.com"}),
        expect!["user_token_invalid: the user token is not addressed to this gateway (`aud`)"],
    );
    refused(
        json!({"aud": null}),
        expect!["user_token_invalid: the user token is not addressed to this gateway (`aud`)"],
    );
    refused(
        json!({"aud": [AUDIENCE, 7]}),
        expect!["user_token_invalid: the user token is not addressed to this gateway (`aud`)"],
    );
    let signer = Signer::es256("k1");
    let _ = identify(&signer, &signer.token(&alice_but(json!({"aud": ["x", AUDIENCE]})))).unwrap();
}

#[test]
fn attack_sends_user_token_of_another_issuer() {
    // One slash less is another issuer.
    refused(
        json!({"iss": ISSUER.trim_end_matches('/')}),
        expect![
            "user_token_invalid: no configured identity provider has the issuer of the user token"
        ],
    );
    refused(
        json!({"iss": null}),
        expect![
            "user_token_invalid: no configured identity provider has the issuer of the user token"
        ],
    );
}

#[test]
fn attack_sends_id_token_where_access_tokens_are_asked_for() {
    let signer = Signer::es256("k1");
    let with_typ = |typ: Value| {
        let mut header = signer.header();
        header["typ"] = typ;
        signer.sign_with(&header, &alice())
    };
    let token_types = vec!["at+jwt".to_owned()];
    let mut strict = provider();
    strict.spec.token_types = token_types;
    for (typ, accepted) in [
        (json!("at+jwt"), true),
        (json!("application/AT+JWT"), true),
        (json!("JWT"), false),
        (json!("txntoken+jwt"), false),
    ] {
        let headers = headers(&format!("Bearer {}", with_typ(typ)));
        let outcome = identify_by(strict.clone(), &signer, &headers, now());
        assert_eq!(outcome.is_ok(), accepted);
    }
    token_refused(
        &signer,
        &with_typ(json!("txntoken+jwt")),
        expect![
            "user_token_invalid: the user token is of a type its issuer's document does not list (`typ`)"
        ],
    );
}

#[test]
fn attack_user_token_with_alg_none() {
    let signer = Signer::es256("k1");
    for alg in ["none", "None", "nOnE", ""] {
        let header = json!({"alg": alg, "typ": "JWT"}).to_string();
        let token = format!("{}.{}.", b64(header), b64(alice().to_string()));
        token_refused(
            &signer,
            &token,
            expect![
                "user_token_invalid: the signature algorithm of the user token is not permitted for its issuer"
            ],
        );
    }
}

#[test]
fn attack_signs_user_token_with_the_public_key_as_hmac_secret() {
    for signer in [Signer::es256("k1"), Signer::rs256("k1")] {
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}).to_string();
        let signed = format!("{}.{}", b64(header), b64(alice().to_string()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &signer.public_bytes());
        let token = format!("{signed}.{}", b64(hmac::sign(&secret, signed.as_bytes())));
        token_refused(
            &signer,
            &token,
            expect![
                "user_token_invalid: the signature algorithm of the user token is not permitted for its issuer"
            ],
        );
    }
}

#[test]
fn attack_names_an_algorithm_that_is_not_the_keys() {
    let signer = Signer::es256("k1");
    let mut header = signer.header();
    header["alg"] = json!("RS256");
    token_refused(
        &signer,
        &signer.sign_with(&header, &alice()),
        expect![
            "user_token_invalid: the signature algorithm of the user token is not permitted for its issuer"
        ],
    );
    // Permitted by the standard, not by the document.
    header["alg"] = json!("PS256");
    token_refused(
        &signer,
        &signer.sign_with(&header, &alice()),
        expect![
            "user_token_invalid: the signature algorithm of the user token is not permitted for its issuer"
        ],
    );
}

#[test]
fn attack_brings_its_own_key() {
    let (real, own) = (Signer::es256("k1"), Signer::es256("k1"));
    for (name, value) in [
        ("jwk", own.jwk()),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
    ] {
        let mut header = own.header();
        header[name] = value;
        token_refused(
            &real,
            &own.sign_with(&header, &alice()),
            expect!["user_token_invalid: the signature of the user token is wrong"],
        );
    }
}

#[test]
fn attack_changes_claims_or_signature() {
    let signer = Signer::es256("k1");
    let token = signer.token(&alice());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let header = signed.split('.').next().unwrap();
    let mallory = b64(alice_but(json!({"sub": "mallory"})).to_string());
    token_refused(
        &signer,
        &format!("{header}.{mallory}.{signature}"),
        expect!["user_token_invalid: the signature of the user token is wrong"],
    );
    token_refused(
        &signer,
        &format!("{signed}."),
        expect!["user_token_invalid: the signature of the user token is wrong"],
    );
    token_refused(
        &signer,
        &format!("{signed}.{}", b64([0; 64])),
        expect!["user_token_invalid: the signature of the user token is wrong"],
    );
    token_refused(
        &signer,
        &format!("{signed}.{}", b64([1; 63])),
        expect!["user_token_invalid: the signature of the user token is wrong"],
    );
}

#[test]
fn attack_asks_for_extensions_by_crit() {
    let signer = Signer::es256("k1");
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
    ] {
        let mut header = signer.header();
        header[name] = value;
        token_refused(
            &signer,
            &signer.sign_with(&header, &alice()),
            expect!["user_token_malformed: the header of the token asks for an extension"],
        );
    }
}

#[test]
fn attack_repeats_a_claim() {
    let signer = Signer::es256("k1");
    let payload = alice().to_string();
    let twice = payload.replacen('{', r#"{"sub":"mallory","#, 1);
    token_refused(
        &signer,
        &signer.sign_raw(&signer.header().to_string(), &twice),
        expect!["user_token_malformed: a part of the token is not strict JSON"],
    );
    let header = signer.header().to_string().replacen('{', r#"{"alg":"none","#, 1);
    token_refused(
        &signer,
        &signer.sign_raw(&header, &payload),
        expect!["user_token_malformed: a part of the token is not strict JSON"],
    );
    // Escaped, it is the same name.
    let escaped = payload.replacen('{', r#"{"\u0073ub":"mallory","#, 1);
    token_refused(
        &signer,
        &signer.sign_raw(&signer.header().to_string(), &escaped),
        expect!["user_token_malformed: a part of the token is not strict JSON"],
    );
}

#[test]
fn attack_sends_oversized_or_deep_user_token() {
    let signer = Signer::es256("k1");
    let big = signer.token(&alice_but(json!({"pad": "x".repeat(8 * 1024)})));
    token_refused(&signer, &big, expect!["user_token_malformed: the token is too large"]);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(3_000), "]".repeat(3_000));
    let deep = signer.sign_raw(&signer.header().to_string(), &deep);
    token_refused(
        &signer,
        &deep,
        expect!["user_token_malformed: a part of the token is not strict JSON"],
    );
}

#[test]
fn attack_sends_tokens_of_other_forms() {
    let signer = Signer::es256("k1");
    let good = signer.token(&alice());
    for token in [
        "opaque",
        "a.b",
        "..",
        &format!("{good}.x"),
        &format!("{good}="),
        &format!("{good},{good}"),
        &good.replace('.', "%2E"),
        r#"{"payload":"e30","signatures":[]}"#,
        "e30.W10.AA",
        "e30.e30.AA",
    ] {
        assert_eq!(
            identify(&signer, token).unwrap_err().reason(),
            "user_token_malformed",
            "{token}"
        );
    }
}

#[test]
fn attack_sends_two_credentials() {
    let signer = Signer::es256("k1");
    let bearer = headers(&format!("Bearer {}", signer.token(&alice())));
    for second in [format!("Bearer {}", signer.token(&alice())), "Basic YTpi".to_owned()] {
        let mut headers = bearer.clone();
        headers.append(http::header::AUTHORIZATION, HeaderValue::from_str(&second).unwrap());
        let error = identify_by(provider(), &signer, &headers, now()).unwrap_err();
        assert_eq!(error, IdentifyError::Malformed("the request carries two credentials"));
        assert_eq!(error.status(), StatusCode::UNAUTHORIZED);
    }
    let empty = identify_by(provider(), &signer, &headers("Bearer"), now()).unwrap_err();
    assert_eq!(empty.reason(), "user_token_malformed");
}

#[test]
fn a_declared_claim_of_another_type_refuses_and_is_named() {
    refused(
        json!({"sub": 7}),
        expect![
            "user_claim_invalid: claim `sub` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"sub": null}),
        expect![
            "user_claim_invalid: claim `sub` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"sub": ""}),
        expect![
            "user_claim_invalid: claim `sub` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"sub": "x".repeat(300)}),
        expect![
            "user_claim_invalid: claim `sub` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"groups": {"support": true}}),
        expect![
            "user_claim_invalid: claim `groups` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"level": "9"}),
        expect![
            "user_claim_invalid: claim `level` of the user token is missing, of another type than declared, or too large"
        ],
    );
    refused(
        json!({"uid": "x".repeat(65)}),
        expect![
            "user_claim_invalid: claim `uid` of the user token is missing, of another type than declared, or too large"
        ],
    );
}

#[test]
fn too_many_groups_refuse_instead_of_being_cut() {
    let signer = Signer::es256("k1");
    let mut open = provider();
    open.spec.claims.insert("groups".into(), claim(ClaimType::StringList, Some(ClaimRole::Groups)));
    let groups: Vec<String> = (0..17).map(|n| format!("g{n}")).collect();
    let token = signer.token(&alice_but(json!({"groups": groups})));
    let headers = headers(&format!("Bearer {token}"));
    let error = identify_by(open, &signer, &headers, now()).unwrap_err();
    assert_eq!(error, IdentifyError::ClaimInvalid { claim: "groups".into() });
    // With `keep`, the others do not count.
    assert!(identify(&signer, &token).unwrap().groups().is_empty());
}

#[test]
fn without_keys_only_this_provider_s_users_wait() {
    let signer = Signer::es256("k1");
    let mut other = named("other", provider().spec);
    other.spec.issuer = "https://other/".into();
    let keys = KeysSnapshot::fixed([("other", key_set(&[&signer]))]);
    let providers = [Arc::new(provider()), Arc::new(other)];
    let down = headers(&format!("Bearer {}", signer.token(&alice())));
    let error = verify_bearer(&down, &providers, &keys, now()).unwrap_err();
    assert_eq!(error.reason(), "user_keys_unavailable");
    assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    let token = signer.token(&alice_but(json!({"iss": "https://other/"})));
    let up = headers(&format!("Bearer {token}"));
    assert_eq!(verify_bearer(&up, &providers, &keys, now()).unwrap().unwrap().provider(), "other");
}

#[test]
fn a_key_id_nobody_knows_is_refused_at_once() {
    let (signer, other) = (Signer::es256("k1"), Signer::es256("k2"));
    token_refused(
        &signer,
        &other.token(&alice()),
        expect![
            "user_token_invalid: identity provider `corp` has no key with the id the user token names"
        ],
    );
}

#[test]
fn a_token_without_key_id_needs_an_unambiguous_key() {
    let (one, two) = (Signer::es256("k1"), Signer::es256("k2"));
    let token = one.sign_with(&json!({"alg": "ES256", "typ": "JWT"}), &alice());
    let _ = identify(&one, &token).unwrap();
    let keys = KeysSnapshot::fixed([("corp", key_set(&[&one, &two]))]);
    let headers = headers(&format!("Bearer {token}"));
    let error = verify_bearer(&headers, &[Arc::new(provider())], &keys, now()).unwrap_err();
    assert_eq!(error.reason(), "user_token_invalid");
}

#[test]
fn a_credential_counts_only_where_its_provider_lists_it() {
    let signer = Signer::es256("k1");
    let token = signer.token(&alice());
    let mut assertion = provider();
    assertion.spec.from = vec![source("x-assertion", None)];
    let at = |header: &'static str, value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header, HeaderValue::from_str(value).unwrap());
        headers
    };
    let outcome = |headers: &HeaderMap| identify_by(assertion.clone(), &signer, headers, now());
    assert!(outcome(&at("x-assertion", &token)).unwrap().is_some());
    assert!(outcome(&headers(&format!("Bearer {token}"))).unwrap().is_none());

    // Two providers with a place each: a token in the other's place, and one in both.
    let mut other = named("other", provider().spec);
    other.spec.issuer = "https://other/".into();
    let providers = [Arc::new(assertion.clone()), Arc::new(other)];
    let keys = KeysSnapshot::fixed([("corp", key_set(&[&signer]))]);
    let mut both = headers(&format!("Bearer {token}"));
    let misplaced = verify_bearer(&both, &providers, &keys, now()).unwrap_err();
    assert_eq!(misplaced, IdentifyError::IssuerUnknown);
    both.insert("x-assertion", HeaderValue::from_str(&token).unwrap());
    let doubled = verify_bearer(&both, &providers, &keys, now()).unwrap_err();
    assert_eq!(doubled, IdentifyError::Malformed("the request carries two credentials"));
}

#[test]
fn grants_come_from_the_token_or_else_from_the_document() {
    let signer = Signer::es256("k1");
    let silent = headers(&format!("Bearer {}", signer.token(&alice_but(json!({"scope": null})))));
    let none = identify_by(provider(), &signer, &silent, now()).unwrap().unwrap();
    assert_eq!(none.granted_scopes(), None);
    let mut granting = provider();
    granting.spec.grants = Some(vec!["orders.read".into()]);
    let some = identify_by(granting, &signer, &silent, now()).unwrap().unwrap();
    assert_eq!(some.granted_scopes().unwrap(), ["orders.read"]);
}

#[test]
fn credentials_do_not_go_on() {
    let mut other = named("other", provider().spec);
    other.spec.from = vec![source("x-assertion", None)];
    let verifier = UserVerifier::new([Arc::new(provider()), Arc::new(other)]);
    let mut all = headers("bearer abc");
    all.insert("x-assertion", HeaderValue::from_static("abc"));
    all.insert("x-other", HeaderValue::from_static("stays"));
    verifier.remove_credentials(&mut all);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["x-other"]);
    let mut basic = headers("Basic YTpi");
    verifier.remove_credentials(&mut basic);
    assert_eq!(basic.len(), 1, "not a user credential of ours");
}
