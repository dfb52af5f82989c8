//! The issuer without a socket: users, grants, rotation.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Algorithm, DEV_GRANT, Issuer, KeyRing, User};

const NOW_S: u64 = 1_795_194_000;

fn issuer(algorithm: Algorithm) -> Issuer {
    let users = ["alice", "ann:uid=7,groups=support,groups=sre,level:=3"];
    Issuer {
        base: "http://127.0.0.1:1".into(),
        audiences: vec!["https://api.example.com".into(), "https://other".into()],
        users: users.iter().map(|user| user.parse().unwrap()).collect(),
        token_ttl_s: 300,
        keys: Mutex::new(KeyRing::new(algorithm, 600, NOW_S).unwrap()),
    }
}

fn ask(issuer: &Issuer, form: &str, now_s: u64) -> (StatusCode, Value) {
    issuer.answer(&Method::POST, "/token", form.as_bytes(), now_s)
}

/// The header and the claims of a token for `user`.
fn token(issuer: &Issuer, user: &str, now_s: u64) -> (Value, Value) {
    let form = format!("grant_type={DEV_GRANT}&username={user}");
    let (status, answer) = ask(issuer, &form, now_s);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut json = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (json(), json())
}

fn published(issuer: &Issuer, now_s: u64) -> Vec<String> {
    let (_, set) = issuer.answer(&Method::GET, "/keys", b"", now_s);
    let id = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    set["keys"].as_array().unwrap().iter().map(id).collect()
}

#[test]
fn tokens_carry_the_claims_of_their_user() {
    for (algorithm, alg) in [(Algorithm::Es256, "ES256"), (Algorithm::Rs256, "RS256")] {
        let (header, claims) = token(&issuer(algorithm), "ann", NOW_S);
        assert_eq!((&header["alg"], &header["typ"]), (&json!(alg), &json!("at+jwt")));
        assert_eq!(claims["sub"], "ann");
        assert_eq!(claims["aud"], "https://api.example.com");
        assert_eq!(claims["exp"], NOW_S + 300);
        assert_eq!(claims["uid"], "7");
        assert_eq!(claims["groups"], json!(["support", "sre"]));
        assert_eq!(claims["level"], 3);
    }
    let (_, claims) = token(&issuer(Algorithm::Es256), "alice", NOW_S);
    assert_eq!((&claims["uid"], &claims["groups"]), (&json!("alice"), &Value::Null));
}

#[test]
fn a_key_is_known_before_it_signs_and_until_its_last_token_ends() {
    let issuer = issuer(Algorithm::Es256);
    let mut known = published(&issuer, NOW_S);
    let mut signed = Vec::new();
    for second in (0..3_600).step_by(10) {
        let now_s = NOW_S + second;
        let (header, claims) = token(&issuer, "alice", now_s);
        let kid = header["kid"].as_str().unwrap().to_owned();
        assert!(known.contains(&kid), "a verifier that looked 10 s ago knows the key");
        signed.push((kid, claims["exp"].as_u64().unwrap()));
        issuer.advance(now_s).unwrap();
        known = published(&issuer, now_s);
        for (kid, _) in signed.iter().filter(|(_, expires_at)| *expires_at > now_s) {
            assert!(known.contains(kid), "a token that lives can be verified");
        }
        assert!(known.len() <= 4, "and nothing is published for ever: {known:?}");
    }
    signed.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(signed.len(), 6, "an hour of ten-minute rotations");
}

#[test]
fn refusals_say_what_is_known() {
    let issuer = issuer(Algorithm::Es256);
    let error = |form: &str| {
        let (status, answer) = ask(&issuer, form, NOW_S);
        assert_eq!(status, StatusCode::BAD_REQUEST);
        format!(
            "{}: {}",
            answer["error"].as_str().unwrap(),
            answer["error_description"].as_str().unwrap()
        )
    };
    let grant = format!("grant_type={DEV_GRANT}");
    assert_eq!(
        error("username=alice"),
        format!("unsupported_grant_type: grant_type must be {DEV_GRANT}")
    );
    assert_eq!(error(&grant), "invalid_grant: no user ``; known: alice, ann");
    assert_eq!(
        error(&format!("{grant}&username=%61lice&username=ann")),
        "invalid_request: not a form"
    );
    assert_eq!(error(&format!("{grant}&username=%6")), "invalid_request: not a form");
    assert_eq!(
        error(&format!("{grant}&username=alice&audience=x")),
        "invalid_target: no audience `x`; known: https://api.example.com, https://other"
    );
    for wrong in ["301", "soon", "-86401"] {
        assert_eq!(
            error(&format!("{grant}&username=alice&expires_in={wrong}")),
            "invalid_request: expires_in must be -86400 to 300 seconds"
        );
    }
}

#[test]
fn an_ended_token_can_be_had_for_tests() {
    let issuer = issuer(Algorithm::Es256);
    let form = format!("grant_type={DEV_GRANT}&username=alice&expires_in=-120&scope=a+b");
    let (status, answer) = ask(&issuer, &form, NOW_S);
    assert_eq!((status, &answer["expires_in"]), (StatusCode::OK, &json!(-120)));
}

#[test]
fn users_are_written_as_name_and_claims() {
    let claims = |text: &str| Value::Object(text.parse::<User>().unwrap().claims);
    assert_eq!(claims("ann"), json!({"uid": "ann"}));
    assert_eq!(claims("ann:groups=one"), json!({"uid": "ann", "groups": ["one"]}));
    assert_eq!(claims("ann:role=a,role=b"), json!({"uid": "ann", "role": ["a", "b"]}));
    assert_eq!(claims("ann:ok:=true,uid=a=b"), json!({"uid": "a=b", "ok": true}));
    assert_eq!(claims(r#"ann:groups:=["x"]"#), json!({"uid": "ann", "groups": ["x"]}));
    for wrong in ["", ":a=b", "ann:", "ann:x", "ann:sub=bob", "ann:n:=x"] {
        assert!(wrong.parse::<User>().is_err(), "{wrong}");
    }
}
