//! What attackers do to tokens. Each bad token is signed properly wherever the attack has a key,
//! so that what refuses it is the rule it breaks.
use serde_json::{Value, json};

use super::{hops_world::*, world::*};
use crate::*;

// ── Algorithm confusion ──────────────────────────────────────────────────────────────────────

#[test]
fn attack_sets_alg_none() {
    let world = World::new();
    for alg in ["none", "None", "NONE", "nOnE", "noNE", ""] {
        let mut header = world.kid_header();
        header["alg"] = json!(alg);
        world.refuses(&world.headed(&header), "token_malformed");
        let unsigned = world.headed(&header);
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        world.refuses(&unsigned, "token_malformed");
    }
}

#[test]
fn attack_signs_hmac_with_public_key() {
    use aws_lc_rs::hmac;
    let world = World::new();
    let public = world.gateway.verifying_key().to_jwk();
    for alg in ["HS256", "HS384", "HS512", "ES256"] {
        let mut header = world.kid_header();
        header["alg"] = json!(alg);
        let token = world.headed(&header);
        let (input, _) = token.rsplit_once('.').unwrap();
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, public.as_bytes()), input.as_bytes());
        let forged = format!("{input}.{}", jws::encode(tag.as_ref()));
        let reason = if alg == "ES256" { "signature_invalid" } else { "token_malformed" };
        world.refuses(&forged, reason);
    }
}

#[test]
fn attack_sends_rs256_context_token() {
    let world = World::new();
    for alg in ["RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "Ed448", "es256", "ES256 "] {
        let mut header = world.kid_header();
        header["alg"] = json!(alg);
        world.refuses(&world.headed(&header), "token_malformed");
    }
}

#[test]
fn attack_names_another_alg_for_the_key() {
    let world = World::new();
    let mut header = world.kid_header();
    header["alg"] = json!("Ed25519");
    let error = world.refuses(&world.headed(&header), "key_unknown");
    assert!(matches!(error, VerifyError::KeyUnknown(KeyProblem::AlgorithmMismatch { .. })));
    let mut header = x5c_header("gateway");
    header["alg"] = json!("Ed25519");
    world.refuses(&world.headed(&header), "key_unknown");
}

#[test]
fn attack_sends_wrong_length_signature() {
    let world = World::new();
    let token = world.token(&base_claims());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let bytes = jws::decode(signature.as_bytes()).unwrap();
    for bad in [&bytes[..63], &bytes[..1], &[&bytes[..], &[0]].concat(), &[0; 64]] {
        let token = format!("{input}.{}", jws::encode(bad));
        world.refuses(&token, "signature_invalid");
    }
}

#[test]
fn attack_sends_der_signature() {
    // What X.509 tools write instead of `r‖s`.
    let world = World::new();
    let token = world.token(&base_claims());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let fixed = jws::decode(signature.as_bytes()).unwrap();
    let integer = |bytes: &[u8]| [&[0x02, 33, 0][..], bytes].concat();
    let body = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
    let der = [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat();
    world.refuses(&format!("{input}.{}", jws::encode(&der)), "signature_invalid");
}

#[test]
fn attack_changes_one_character() {
    let world = World::new();
    let token = world.token(&base_claims());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(world.verify(&changed).is_err(), "position {at}");
    }
}

// ── Forged issuer, key confusion ─────────────────────────────────────────────────────────────

#[test]
fn attack_workload_signs_its_own_token() {
    let mut world = World::new();
    let pod = p256();
    world.certify("pod", POD, &pod);
    let mut claims = base_claims();
    claims["iss"] = json!(POD);
    let token = signed(&x5c_header("pod").to_string(), &claims.to_string(), &pod);
    world.refuses(&token, "issuer_not_allowed");
}

#[test]
fn attack_claims_iss_of_the_gateway() {
    let mut world = World::new();
    let pod = p256();
    world.certify("pod", POD, &pod);
    let token = signed(&x5c_header("pod").to_string(), &base_claims().to_string(), &pod);
    let error = world.refuses(&token, "claim_invalid");
    assert_eq!(
        error,
        VerifyError::ClaimInvalid { claim: "iss", problem: ClaimProblem::NotKeyOwner }
    );
}

#[test]
fn attack_signs_with_foreign_domain_certificate() {
    let mut world = World::new();
    let foreign = p256();
    world.certify("foreign", FOREIGN, &foreign);
    let token = signed(&x5c_header("foreign").to_string(), &base_claims().to_string(), &foreign);
    let error = world.refuses(&token, "key_unknown");
    assert!(error.to_string().contains("another trust domain"), "{error}");
}

#[test]
fn attack_embeds_own_key() {
    let world = World::new();
    let own = p256();
    let jwk: Value = serde_json::from_str(&own.verifying_key().to_jwk()).unwrap();
    let header = json!({"alg": "ES256", "typ": "txntoken+jwt", "jwk": jwk});
    let token = signed(&header.to_string(), &base_claims().to_string(), &own);
    world.refuses(&token, "token_malformed");
    let mut header = world.kid_header();
    header["jwk"] = jwk;
    let token = signed(&header.to_string(), &base_claims().to_string(), &own);
    world.refuses(&token, "token_malformed");
}

#[test]
fn attack_points_to_key_url() {
    let world = World::new();
    for member in ["jku", "x5u"] {
        let mut header = world.kid_header();
        header[member] = json!("https://attacker.example/keys.json");
        world.refuses(&world.headed(&header), "token_malformed");
    }
}

#[test]
fn attack_uses_kid_of_another_issuer() {
    // The job issuer's key is perfectly good, for the job issuer.
    let mut world = World::new();
    let jobs_key = p256();
    let jobs = "spiffe://prod.example.com/ns/jobs/sa/issuer";
    let entry = |name, key: &LocalSigner| Issuer {
        id: id(name),
        keys: KeyForms::Jwks,
        allow: user_constraints(),
        jwks: Some(key_set(&[key])),
    };
    world.issuers =
        IssuerSet::new(vec![entry(GATEWAY, &world.gateway), entry(jobs, &jobs_key)]).unwrap();
    let header = json!({
        "alg": "ES256", "typ": "txntoken+jwt", "kid": jobs_key.verifying_key().kid()
    });
    let token = signed(&header.to_string(), &base_claims().to_string(), &jobs_key);
    let error = world.refuses(&token, "key_unknown");
    assert_eq!(error, VerifyError::KeyUnknown(KeyProblem::NoSuchKid));
}

#[test]
fn attack_uses_kid_of_another_issuer_in_a_common_file() {
    let mut world = World::new();
    let other = p256();
    let bound = other
        .verifying_key()
        .to_jwk()
        .replace(r#""use""#, r#""iss":"spiffe://prod.example.com/ns/jobs/sa/issuer","use""#);
    let file = format!(r#"{{"keys":[{},{bound}]}}"#, world.gateway.verifying_key().to_jwk());
    world.list(KeyForms::Jwks, Some(KeySet::from_jwks_json(file.as_bytes()).unwrap()));
    let header = json!({"alg": "ES256", "typ": "txntoken+jwt", "kid": other.verifying_key().kid()});
    let token = signed(&header.to_string(), &base_claims().to_string(), &other);
    world.refuses(&token, "key_unknown");
    assert!(world.verify(&world.token(&base_claims())).is_ok());
}

#[test]
fn attack_sends_jwt_svid_as_context() {
    let world = World::new();
    for typ in ["JWT", "JOSE", "at+jwt", "dpop+jwt", "txntoken+JWT", "TXNTOKEN+jwt", "txntoken"] {
        let mut header = world.kid_header();
        header["typ"] = json!(typ);
        world.refuses(&world.headed(&header), "token_malformed");
    }
    let header = json!({"alg": "ES256", "kid": world.gateway.verifying_key().kid()});
    world.refuses(&world.headed(&header), "token_malformed");
}

#[test]
fn attack_sends_receipt_as_context() {
    let world = World::new();
    for typ in ["csign-receipt+jwt", "csign-deferred+jwt", "csign-hop+jwt"] {
        let mut header = world.kid_header();
        header["typ"] = json!(typ);
        world.refuses(&world.headed(&header), "token_malformed");
    }
}

#[test]
fn attack_uses_ca_certificate_as_signer() {
    // The validator refuses signing certificates as leaves; its word is final here.
    let world = World::new();
    let error = world.refuses(&world.headed(&x5c_header("some-ca")), "key_unknown");
    assert!(matches!(error, VerifyError::KeyUnknown(KeyProblem::ChainInvalid(_))));
}

#[test]
fn attack_issuer_mints_outside_constraints() {
    let world = World::new();
    for change in [
        (|claims| claims["sub"] = json!("svc:spiffe://prod.example.com/ns/shop/sa/orders"))
            as fn(&mut Value),
        |claims| claims["scope"] = json!("billing.write"),
        |claims| claims["scope"] = json!("orders.read billing.write"),
        |claims| claims["rctx"]["origin"] = json!("batch"),
        |claims| claims["exp"] = json!(NOW.0 + 51),
    ] {
        world.refuses(&world.changed(change), "constraint_violated");
    }
}

// ── Clocks ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn attack_sends_token_from_the_future() {
    let world = World::new();
    let token = |ahead: u64| {
        world.changed(|claims| {
            claims["iat"] = json!(NOW.0 + ahead);
            claims["exp"] = json!(NOW.0 + ahead + 60);
        })
    };
    assert!(world.verify(&token(30)).is_ok());
    let error = world.refuses(&token(94), "claim_invalid");
    assert_eq!(
        error.to_string(),
        "claim `iat` lies in the future: the issuer's clock is ahead by 94 s"
    );
    let early = world.changed(|claims| claims["nbf"] = json!(NOW.0 + 31));
    world.refuses(&early, "claim_invalid");
}

#[test]
fn attack_sends_token_with_long_life() {
    let mut world = World::new();
    let mut allow = user_constraints();
    allow.max_ttl_s = 86_400;
    let jwks = Some(key_set(&[&world.gateway]));
    let entry = Issuer { id: id(GATEWAY), keys: KeyForms::Either, allow, jwks };
    world.issuers = IssuerSet::new(vec![entry]).unwrap();
    let token = |life: u64| world.changed(|claims| claims["exp"] = json!(NOW.0 - 10 + life));
    assert!(world.verify(&token(300)).is_ok());
    world.refuses(&token(301), "claim_invalid");
    world.refuses(&token(31_536_000), "claim_invalid");
    let endless = world.changed(|claims| claims["exp"] = json!(1_u64 << 53));
    world.refuses(&endless, "claim_invalid");
}

#[test]
fn attack_sets_clock_back() {
    // A verifier whose clock was set back refuses fresh tokens instead of reviving old ones.
    let mut world = World::new();
    world.now = UnixTime(NOW.0 - 3600);
    world.refuses(&world.token(&base_claims()), "claim_invalid");
}

#[test]
fn attack_replays_token_after_expiry() {
    let mut world = World::new();
    let token = world.token(&base_claims());
    let mut cache = TokenCache::new(&world.limits);
    assert!(cache.verify(token.as_bytes(), 1, &world.with()).is_ok());
    for (later, accepted) in [(0, true), (79, true), (80, false), (1000, false)] {
        world.now = NOW.plus(later);
        let fresh = world.verify(&token);
        let cached = cache.verify(token.as_bytes(), 1, &world.with());
        assert_eq!((fresh.is_ok(), cached.is_ok()), (accepted, accepted), "{later} s later");
        if let Err(error) = cached {
            assert_eq!(error, VerifyError::TokenExpired { by_secs: later - 50 });
        }
    }
}

#[test]
fn attack_uses_token_outliving_its_signer() {
    let mut world = World::new();
    let leaf = world.chains.known.get_mut(&certificate("gateway")).unwrap();
    leaf.not_after = NOW.plus(49);
    let error = world.refuses(&world.headed(&x5c_header("gateway")), "claim_invalid");
    assert!(error.to_string().contains("1 s later than the end of the signer's"), "{error}");
}

// ── Size and parser abuse ────────────────────────────────────────────────────────────────────

#[test]
fn attack_sends_token_over_the_limit() {
    let world = World::new();
    let token =
        |padding: usize| world.changed(|claims| claims["padding"] = json!("x".repeat(padding)));
    let fits = (0..4096).rev().map(token).find(|token| token.len() <= 4096).unwrap();
    assert!(world.verify(&fits).is_ok() && fits.len() > 4090);
    world.refuses(&token(4096), "token_too_large");
    // Size comes before anything else, so garbage costs nothing.
    world.refuses(&",".repeat(1 << 20), "token_too_large");
}

#[test]
fn attack_nests_json_too_deep() {
    let world = World::new();
    let nested = |depth: usize| {
        let value = "[".repeat(depth) + &"]".repeat(depth);
        let claims = base_claims().to_string();
        let claims = format!(r#"{},"x":{value}}}"#, claims.strip_suffix('}').unwrap());
        signed(&world.kid_header().to_string(), &claims, &world.gateway)
    };
    assert!(world.verify(&nested(7)).is_ok());
    for depth in [8, 9, 128, 1000] {
        world.refuses(&nested(depth), "token_malformed");
    }
}

#[test]
fn attack_repeats_json_names() {
    let world = World::new();
    let payload = base_claims().to_string();
    for extra in [
        r#""sub":"user:root""#,
        // The same name in other spellings.
        r#""\u0073ub":"user:root""#,
        r#""su\u0062":"user:root""#,
        r#""x":{"a":1,"a":2}"#,
        r#""x":[{"a":1,"\u0061":2}]"#,
    ] {
        let payload = format!("{},{extra}}}", payload.strip_suffix('}').unwrap());
        let token = signed(&world.kid_header().to_string(), &payload, &world.gateway);
        world.refuses(&token, "token_malformed");
    }
    let header = world.kid_header().to_string();
    let header = format!(r#"{},"alg":"ES256"}}"#, header.strip_suffix('}').unwrap());
    world.refuses(&signed(&header, &payload, &world.gateway), "token_malformed");
    let inner = payload.replace(r#""v":1"#, r#""v":1,"v":1"#);
    let token = signed(&world.kid_header().to_string(), &inner, &world.gateway);
    world.refuses(&token, "token_malformed");
}

#[test]
fn attack_uses_noncanonical_base64() {
    let world = World::new();
    let token = world.token(&base_claims());
    assert!(world.verify(&token).is_ok());
    let last = token.chars().last().unwrap();
    // The last character of 64 bytes has four unused bits, which must be zero.
    for other in ('A'..='Z').chain('a'..='z').chain('0'..='9') {
        let changed = format!("{}{other}", &token[..token.len() - 1]);
        if other != last {
            let expected =
                if "AQgw".contains(other) { "signature_invalid" } else { "token_malformed" };
            world.refuses(&changed, expected);
        }
    }
    for padded in [format!("{token}="), format!("{token}=="), token.replacen('.', "=.", 1)] {
        world.refuses(&padded, "token_malformed");
    }
    for (from, to) in [("_", "/"), ("-", "+")] {
        if token.contains(from) {
            world.refuses(&token.replace(from, to), "token_malformed");
        }
    }
    for space in [" ", "\n", "\t", "\0", "\u{a0}"] {
        world.refuses(&format!("{token}{space}"), "token_malformed");
        world.refuses(&format!("{space}{token}"), "token_malformed");
    }
}

#[test]
fn attack_sends_encrypted_token() {
    let world = World::new();
    world.refuses("eyJhbGciOiJkaXIifQ..aXY.Y3Q.dGFn", "token_malformed");
    let mut header = world.kid_header();
    header["enc"] = json!("A128GCM");
    world.refuses(&world.headed(&header), "token_malformed");
    let token = world.token(&base_claims());
    world.refuses(&format!("{token}.a.b"), "token_malformed");
    world.refuses(&format!("{token}."), "token_malformed");
    world.refuses(token.rsplit_once('.').unwrap().0, "token_malformed");
}

#[test]
fn attack_sends_json_serialisation() {
    let world = World::new();
    let token = world.token(&base_claims());
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next(), parts.next(), parts.next());
    let general = json!({"payload": payload, "protected": header, "signature": signature});
    world.refuses(&general.to_string(), "token_duplicated");
    world.refuses("{}", "token_malformed");
}

#[test]
fn attack_adds_critical_header_member() {
    let world = World::new();
    for (member, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
        ("nonce", json!("1")),
        ("x", json!(null)),
    ] {
        let mut header = world.kid_header();
        header[member] = value;
        world.refuses(&world.headed(&header), "token_malformed");
    }
}

#[test]
fn attack_sends_oversized_x5c() {
    let world = World::new();
    let entry = jws::encode_certificate(b"x");
    for count in [0, 4, 64, 65, 300] {
        let header =
            json!({"alg": "ES256", "typ": "txntoken+jwt", "x5c": vec![entry.clone(); count]});
        world.refuses(&world.headed(&header), "token_malformed");
    }
    let fat = jws::encode_certificate(&[0; 1600]);
    let header = json!({"alg": "ES256", "typ": "txntoken+jwt", "x5c": [fat]});
    world.refuses(&world.headed(&header), "token_malformed");
    assert_eq!(world.chains.asked.get(), 0, "nothing of it reached the chain validator");
}

#[test]
fn attack_sends_two_txn_tokens() {
    let world = World::new();
    let token = world.token(&base_claims());
    assert_eq!(
        world.refuses(&format!("{token},{token}"), "token_duplicated"),
        VerifyError::TokenDuplicated
    );
}

#[test]
fn attack_sends_invalid_utf8() {
    let world = World::new();
    let payload = base_claims().to_string().replace("alice", "al\u{7}ce");
    let mut bytes = payload.into_bytes();
    for byte in &mut bytes {
        if *byte == 7 {
            *byte = 0xff;
        }
    }
    let header = world.kid_header().to_string();
    let token = signed_bytes(header.as_bytes(), &bytes, &world.gateway);
    world.refuses(&token, "token_malformed");
    let bom = [&b"\xef\xbb\xbf"[..], base_claims().to_string().as_bytes()].concat();
    world.refuses(&signed_bytes(header.as_bytes(), &bom, &world.gateway), "token_malformed");
}

// ── Other trust domains, unknown versions, other proofs ──────────────────────────────────────

#[test]
fn attack_presents_token_of_other_domain() {
    let world = World::new();
    for aud in [json!("test.example.com"), json!("PROD.example.com"), json!("prod.example.com.")] {
        let token = world.changed(|claims| claims["aud"] = aud);
        world.refuses(&token, "audience_wrong");
    }
    for aud in [json!(["prod.example.com"]), json!(null), json!(7)] {
        let token = world.changed(|claims| claims["aud"] = aud);
        world.refuses(&token, "claim_invalid");
    }
}

#[test]
fn attack_foreign_issuer_mints_local_user() {
    let mut world = World::new();
    let foreign = p256();
    world.certify("foreign", FOREIGN, &foreign);
    let mut claims = base_claims();
    claims["iss"] = json!(FOREIGN);
    let token = signed(&x5c_header("foreign").to_string(), &claims.to_string(), &foreign);
    world.refuses(&token, "issuer_not_allowed");
}

#[test]
fn attack_sends_unknown_profile_version() {
    let world = World::new();
    for v in [json!(0), json!(2), json!(1.0), json!("1"), json!(null)] {
        let token = world.changed(|claims| claims["rctx"]["v"] = v);
        world.refuses(&token, "claim_invalid");
    }
}

#[test]
fn attack_asks_for_proof_we_cannot_check() {
    let world = World::new();
    let token = world.changed(|claims| claims["cnf"] = json!({"jkt": "abc"}));
    let error = world.refuses(&token, "claim_invalid");
    assert_eq!(error, VerifyError::ClaimInvalid { claim: "cnf", problem: ClaimProblem::Forbidden });
}

// ── Replay and theft ─────────────────────────────────────────────────────────────────────────

#[test]
fn attack_replays_with_malleated_signature() {
    // (r, n - s) is a valid signature of the same bytes. The token is accepted as the other string
    // it is; what identifies it is `jti`, and custody and time hold for both.
    let world = World::new();
    let token = world.token(&base_claims());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = jws::decode(signature.as_bytes()).unwrap();
    let flipped = subtract_from_order(bytes[32..].try_into().unwrap());
    bytes[32..].copy_from_slice(&flipped);
    let twin = format!("{input}.{}", jws::encode(&bytes));
    let (one, two) = (world.verify(&token).unwrap(), world.verify(&twin).unwrap());
    assert_eq!(one.jti, two.jti);
    assert_ne!(one.token_sha256(), two.token_sha256());
}

#[test]
fn attack_pod_with_key_uses_stolen_token() {
    let world = World::new();
    let context = world.verify(&world.token(&base_claims())).unwrap();
    let billing = "spiffe://prod.example.com/ns/shop/sa/billing";
    let error = custody(&context, POD, billing, None).unwrap_err();
    assert_eq!(error.reason(), "custody_broken");
    assert!(error.to_string().contains(POD) && error.to_string().contains(ORDERS));
}

#[test]
fn attack_uses_token_issued_to_another_first_holder() {
    // The issuer, or somebody with its certificate, hands the token to a workload it does not name.
    let world = World::new();
    let context = world.verify(&world.token(&base_claims())).unwrap();
    let error = custody(&context, GATEWAY, POD, None).unwrap_err();
    assert_eq!(
        error,
        VerifyError::CustodyBroken(CustodyProblem::MadeForAnother { to: id(ORDERS) })
    );
}

#[test]
fn attack_sends_token_without_first_holder() {
    let world = World::new();
    let token = world.changed(|claims| {
        claims["rctx"].as_object_mut().unwrap().remove("to");
    });
    world.refuses(&token, "claim_invalid");
    let foreign = world.changed(|claims| claims["rctx"]["to"] = json!(FOREIGN));
    world.refuses(&foreign, "claim_invalid");
}

#[test]
fn attack_presents_token_as_unlisted_peer() {
    let presenters = Presenters::only(vec![Presenter {
        peer: "spiffe://prod.example.com/ns/shop/**".parse().unwrap(),
        to: PathPattern::parse("/v1/orders/**").unwrap(),
    }]);
    let ours = trust_domain();
    let check = |peer: &str, path| check_presenter(&presenters, &ours, &id(peer), path);
    assert_eq!(check(ORDERS, "/v1/orders/7"), Ok(()));
    for (peer, path) in [(ORDERS, "/v1/orders-admin"), (GATEWAY, "/v1/orders/7"), (ORDERS, "/")] {
        assert_eq!(check(peer, path), Err(VerifyError::PresenterRefused), "{peer} {path}");
    }
    let foreign = check_presenter(&Presenters::any(), &ours, &id(FOREIGN), "/v1/orders");
    assert_eq!(foreign, Err(VerifyError::PresenterRefused));
}

#[test]
fn attack_uses_key_removed_from_the_set() {
    let mut world = World::new();
    let token = world.token(&base_claims());
    let mut cache = TokenCache::new(&world.limits);
    assert!(cache.verify(token.as_bytes(), 1, &world.with()).is_ok());
    world.list(KeyForms::Either, Some(key_set(&[&p256()])));
    let error = cache.verify(token.as_bytes(), 2, &world.with()).unwrap_err();
    assert_eq!(error, VerifyError::KeyUnknown(KeyProblem::NoSuchKid));
}

#[test]
fn attack_removed_issuer_keeps_minting() {
    let mut world = World::new();
    let token = world.token(&base_claims());
    let mut cache = TokenCache::new(&world.limits);
    assert!(cache.verify(token.as_bytes(), 1, &world.with()).is_ok());
    world.issuers = IssuerSet::default();
    for generation in [1, 2] {
        let error = cache.verify(token.as_bytes(), generation, &world.with()).unwrap_err();
        assert_eq!(error, VerifyError::IssuerNotAllowed);
    }
}

/// `n - s` for the order of P-256.
fn subtract_from_order(s: [u8; 32]) -> [u8; 32] {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
        0x25, 0x51,
    ];
    let mut result = [0; 32];
    let mut borrow = 0_i16;
    for at in (0..32).rev() {
        let digit = i16::from(ORDER[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(digit < 0);
        result[at] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    result
}
