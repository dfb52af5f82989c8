//! JWT-SVIDs against the rules of the specification, J-1 to J-9. Signed here with keys of every
//! permitted kind; SPIRE's own are checked end to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use countersign_certs_client::{JwksForm, JwtBundle};
use serde_json::{Value, json};

use super::issuer::{Key, NOW_S, Signer, b64, now};
use crate::gateway::callers::jwt_svid::{JwtSvids, SvidKeys};
use crate::gateway::callers::{CallerError, CallerKind, CallerRules, ServiceCaller, Verdict};
use crate::gateway::identify::UserVerifier;
use crate::gateway::provider_keys::KeysSnapshot;
use crate::gateway::user_token;

const AUDIENCE: &str = "countersign.dev/prod.example.com";
const BATCH: &str = "spiffe://prod.example.com/ns/jobs/sa/batch";

fn svid() -> Value {
    json!({"sub": BATCH, "aud": ["elsewhere", AUDIENCE], "iat": NOW_S - 5, "exp": NOW_S + 300})
}

/// A bundle with one key per signer, as a SPIFFE bundle says it.
fn bundle(jwks: impl IntoIterator<Item = Value>) -> JwtBundle {
    let keys: Vec<Value> = jwks
        .into_iter()
        .map(|mut jwk| {
            if jwk["use"] == "sig" {
                jwk["use"] = json!("jwt-svid");
            }
            jwk
        })
        .collect();
    let text = json!({"keys": keys, "spiffe_sequence": 1}).to_string();
    JwtBundle::parse(text.as_bytes(), JwksForm::SpiffeBundle).unwrap()
}

fn rules(bundles: &[(&str, Option<&JwtBundle>)]) -> CallerRules {
    let keys: BTreeMap<_, _> = bundles
        .iter()
        .map(|(domain, bundle)| {
            (domain.parse().unwrap(), bundle.map(|bundle| Arc::new(SvidKeys::of(bundle))))
        })
        .collect();
    let jwt_svid =
        JwtSvids { audience: AUDIENCE.to_owned(), keys, grants: vec!["orders.read".to_owned()] };
    CallerRules {
        domain: "prod.example.com".parse().unwrap(),
        service_account: None,
        jwt_svid: Some(jwt_svid),
    }
}

fn verify(token: &str, rules: &CallerRules) -> Result<ServiceCaller, CallerError> {
    let token = user_token::parse(token).map_err(|_| CallerError::Malformed("parse"))?;
    match rules.verify(&token, CallerKind::JwtSvid, &KeysSnapshot::default(), now())? {
        Verdict::Proven(caller) => Ok(caller),
        Verdict::ToReview(..) => panic!("nobody is asked about a JWT-SVID"),
    }
}

/// One signer of the mesh's own domain, and rules that know it.
struct World {
    signer: Signer,
    rules: CallerRules,
}

impl World {
    fn new() -> World {
        let signer = Signer::es256("k1");
        let rules = rules(&[("prod.example.com", Some(&bundle([signer.jwk()])))]);
        World { signer, rules }
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": "k1", "typ": "JWT"})
    }

    fn sub(&self, token: &str) -> &'static str {
        verify(token, &self.rules).unwrap_err().sub()
    }

    /// The sub-reason for a token whose claims were changed.
    fn claims(&self, change: impl FnOnce(&mut Value)) -> Result<ServiceCaller, CallerError> {
        let mut claims = svid();
        change(&mut claims);
        verify(&self.signer.sign_with(&self.header(), &claims), &self.rules)
    }
}

#[test]
fn a_jwt_svid_proves_a_service() {
    let world = World::new();
    let caller = world.claims(|_| {}).unwrap();
    assert_eq!(caller.subject().to_string(), format!("svc:{BATCH}"));
    assert_eq!(caller.kind().no_peer().reason(), "jwt_svid");
    assert_eq!((caller.idp(), caller.pod()), (None, None), "nobody but its bundle vouches for it");
    assert_eq!(caller.granted_scopes(), ["orders.read"]);
    let token = user_token::parse("e30.e30.e30");
    assert!(token.is_err(), "no algorithm is named");
}

#[test]
fn jwt_svids_come_in_the_compact_form_only() {
    let world = World::new();
    let sound = world.signer.sign_with(&world.header(), &svid());
    assert!(verify(&sound, &world.rules).is_ok());
    let parts: Vec<&str> = sound.split('.').collect();
    let json_form = json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]});
    let general = json!({"payload": parts[1], "signatures": [{"protected": parts[0], "signature": parts[2]}]});
    for other in [
        json_form.to_string(),
        general.to_string(),
        format!("{sound}.{}", parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{sound}="),
        sound.replace('.', ".."),
    ] {
        assert_eq!(world.sub(&other), "malformed", "{other}");
    }
}

#[test]
fn attack_context_token_or_other_header_passes_for_a_jwt_svid() {
    let world = World::new();
    for typ in ["txntoken+jwt", "at+jwt", "jwt", "application/JWT", "wit+jwt", ""] {
        let header = json!({"alg": "ES256", "kid": "k1", "typ": typ});
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "header", "{typ}");
    }
    for (name, value) in [
        ("jwk", json!({})),
        ("jku", json!("https://attacker.example.com")),
        ("x5c", json!(["AAAA"])),
        ("x5u", json!("https://attacker.example.com")),
        ("cty", json!("JWT")),
        ("note", json!(1)),
    ] {
        let mut header = world.header();
        header[name] = value;
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "header", "{name}");
    }
    for (name, value) in [("crit", json!(["b64"])), ("b64", json!(false)), ("zip", json!("DEF"))] {
        let mut header = world.header();
        header[name] = value;
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "malformed", "{name}");
    }
    for header in
        [json!({"alg": "ES256", "kid": "k1"}), json!({"alg": "ES256", "kid": "k1", "typ": "JOSE"})]
    {
        assert!(verify(&world.signer.sign_with(&header, &svid()), &world.rules).is_ok());
    }
}

fn ec(kid: &str, algorithm: &'static EcdsaSigningAlgorithm, crv: &str) -> (EcdsaKeyPair, Value) {
    let key = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = key.public_key().as_ref();
    let half = point.len() / 2;
    let jwk = json!({"kty": "EC", "crv": crv, "kid": kid, "use": "jwt-svid",
        "x": b64(&point[1..=half]), "y": b64(&point[half + 1..])});
    (key, jwk)
}

/// Tokens of all nine algorithms, and the bundle that vouches for them.
fn every_algorithm() -> (Vec<(&'static str, String)>, JwtBundle) {
    let random = SystemRandom::new();
    let head = |alg: &str, kid: &str| {
        let header = json!({"alg": alg, "kid": kid, "typ": "JWT"}).to_string();
        format!("{}.{}", b64(header), b64(svid().to_string()))
    };
    let (mut tokens, mut jwks) = (Vec::new(), Vec::new());
    for (alg, algorithm, crv) in [
        ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
    ] {
        let (key, jwk) = ec(alg, algorithm, crv);
        let signed = head(alg, alg);
        let signature = key.sign(&random, signed.as_bytes()).unwrap();
        tokens.push((alg, format!("{signed}.{}", b64(signature))));
        jwks.push(jwk);
    }
    let key = Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let rsa = Signer { kid: "rsa", key: Key::Rs256(key) };
    let Key::Rs256(key) = &rsa.key else { unreachable!() };
    let encodings: [(&'static str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    for (alg, encoding) in encodings {
        let signed = head(alg, "rsa");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &random, signed.as_bytes(), &mut signature).unwrap();
        tokens.push((alg, format!("{signed}.{}", b64(signature))));
    }
    jwks.push(rsa.jwk());
    (tokens, bundle(jwks))
}

#[test]
fn the_nine_algorithms_of_jwt_svids_verify() {
    let (tokens, bundle) = every_algorithm();
    let rules = rules(&[("prod.example.com", Some(&bundle))]);
    assert_eq!(tokens.len(), 9);
    for (alg, token) in &tokens {
        assert!(verify(token, &rules).is_ok(), "{alg}");
        let broken = format!("{}A{}", &token[..token.len() - 8], &token[token.len() - 7..]);
        if broken != *token {
            let sub = verify(&broken, &rules).unwrap_err().sub();
            assert_eq!(sub, "signature", "{alg}");
        }
    }
}

#[test]
fn attack_algorithm_of_a_jwt_svid_is_changed() {
    let world = World::new();
    let hmac = {
        use aws_lc_rs::hmac;
        let header = json!({"alg": "HS256", "kid": "k1", "typ": "JWT"}).to_string();
        let signed = format!("{}.{}", b64(header), b64(svid().to_string()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &world.signer.public_bytes());
        format!("{signed}.{}", b64(hmac::sign(&key, signed.as_bytes())))
    };
    assert_eq!(world.sub(&hmac), "algorithm", "the public key taken for a shared secret");
    for alg in ["none", "None", "HS384", "HS512", "EdDSA", "Ed25519", "es256", "ES256K", "RS1"] {
        let header = json!({"alg": alg, "kid": "k1", "typ": "JWT"});
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "algorithm", "{alg}");
    }
    // A key is for the algorithms of its own type and curve.
    for alg in ["RS256", "PS256", "ES384", "ES512"] {
        let header = json!({"alg": alg, "kid": "k1", "typ": "JWT"});
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "algorithm", "{alg}");
    }
    let unsigned = format!("{}.{}.", b64(world.header().to_string()), b64(svid().to_string()));
    assert_eq!(world.sub(&unsigned), "signature");
}

#[test]
fn the_subject_of_a_jwt_svid_is_a_spiffe_id() {
    let world = World::new();
    for sub in [
        json!("system:serviceaccount:jobs:batch"),
        json!("spiffe://prod.example.com"),
        json!("spiffe://prod.example.com/"),
        json!("spiffe://prod.example.com/ns/../sa/batch"),
        json!("spiffe://prod.example.com/ns/%6aobs"),
        json!("SPIFFE://prod.example.com/ns/jobs"),
        json!(format!("spiffe://prod.example.com/{}", "a".repeat(2100))),
    ] {
        let error = world.claims(|claims| claims["sub"] = sub.clone()).unwrap_err();
        assert_eq!(error.sub(), "subject", "{sub}");
    }
    for sub in [json!(null), json!(7), json!(""), json!([BATCH])] {
        let error = world.claims(|claims| claims["sub"] = sub.clone()).unwrap_err();
        assert_eq!(error.sub(), "claim", "{sub}");
    }
    // It fits a SPIFFE ID, and no context token.
    let long = format!("spiffe://prod.example.com/{}", "a".repeat(240));
    let error = world.claims(|claims| claims["sub"] = json!(long)).unwrap_err();
    assert_eq!(error.sub(), "subject");
}

#[test]
fn attack_jwt_svid_of_another_audience() {
    let world = World::new();
    for aud in [
        json!(null),
        json!([]),
        json!("countersign.dev"),
        json!("countersign.dev/prod.example.com/"),
        json!("countersign.dev/other.example.com"),
        json!(["elsewhere"]),
        json!([AUDIENCE, 7]),
        json!({AUDIENCE: true}),
    ] {
        let error = world.claims(|claims| claims["aud"] = aud.clone()).unwrap_err();
        assert_eq!(error.sub(), "audience", "{aud}");
    }
    assert!(world.claims(|claims| claims["aud"] = json!(AUDIENCE)).is_ok(), "a single text");
    let missing = world.claims(|claims| {
        claims.as_object_mut().unwrap().remove("aud");
    });
    assert_eq!(missing.unwrap_err().sub(), "audience");
}

#[test]
fn a_jwt_svid_ends_and_says_when() {
    let world = World::new();
    let with_exp = |exp: Value| world.claims(move |claims| claims["exp"] = exp);
    assert!(with_exp(json!(NOW_S - 29)).is_ok(), "clocks differ");
    assert_eq!(with_exp(json!(NOW_S - 30)).unwrap_err(), CallerError::Expired { by_s: 30 });
    for exp in [json!(null), json!("1795194300"), json!(-1), json!(1e300), json!([NOW_S])] {
        assert_eq!(with_exp(exp.clone()).unwrap_err().sub(), "claim", "{exp}");
    }
    let missing = world.claims(|claims| {
        claims.as_object_mut().unwrap().remove("exp");
    });
    assert_eq!(missing.unwrap_err().sub(), "claim");
    for name in ["nbf", "iat"] {
        let error = world.claims(|claims| claims[name] = json!(NOW_S + 31)).unwrap_err();
        assert_eq!(error.sub(), "not_yet_valid", "{name}");
    }
}

#[test]
fn attack_trust_domain_vouches_for_another() {
    let (own, partner) = (Signer::es256("k"), Signer::es256("k"));
    let (own_bundle, partner_bundle) = (bundle([own.jwk()]), bundle([partner.jwk()]));
    let both =
        rules(&[("prod.example.com", Some(&own_bundle)), ("partner.test", Some(&partner_bundle))]);
    let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
    let of = |sub: &str| {
        let mut claims = svid();
        claims["sub"] = json!(sub);
        claims
    };
    let foreign = "spiffe://partner.test/ns/jobs/sa/batch";
    assert!(verify(&own.sign_with(&header, &of(BATCH)), &both).is_ok());
    assert!(verify(&partner.sign_with(&header, &of(foreign)), &both).is_ok());
    let sub = |token: String, rules: &CallerRules| verify(&token, rules).unwrap_err().sub();
    assert_eq!(sub(partner.sign_with(&header, &of(BATCH)), &both), "signature");
    assert_eq!(sub(own.sign_with(&header, &of(foreign)), &both), "signature");
    let alone = rules(&[("prod.example.com", Some(&own_bundle))]);
    assert_eq!(sub(partner.sign_with(&header, &of(foreign)), &alone), "subject");
    let waiting = rules(&[("prod.example.com", Some(&own_bundle)), ("partner.test", None)]);
    assert_eq!(sub(partner.sign_with(&header, &of(foreign)), &waiting), "unverifiable");
    assert!(verify(&own.sign_with(&header, &of(BATCH)), &waiting).is_ok(), "only its own callers");
}

#[test]
fn a_jwt_svid_names_a_token_key_of_its_bundle() {
    let signer = Signer::es256("k1");
    let with = |member: &str, value: Value| {
        let mut jwk = signer.jwk();
        jwk[member] = value;
        let other = Signer::es256("other").jwk();
        let both = [jwk, other];
        rules(&[("prod.example.com", Some(&bundle(both)))])
    };
    let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
    let token = signer.sign_with(&header, &svid());
    let sub = |token: &str, rules: &CallerRules| verify(token, rules).unwrap_err().sub();
    assert!(verify(&token, &with("alg", json!("ES256"))).is_ok());
    assert_eq!(sub(&token, &with("use", json!("x509-svid"))), "key_unknown");
    assert_eq!(sub(&token, &with("use", json!("wit-svid"))), "key_unknown");
    assert_eq!(sub(&token, &with("use", json!(null))), "key_unknown");
    assert_eq!(sub(&token, &with("alg", json!("ES384"))), "key_unknown", "it is for another one");
    assert_eq!(sub(&token, &with("kid", json!("k2"))), "key_unknown");
    let world = World::new();
    for header in [
        json!({"alg": "ES256", "typ": "JWT"}),
        json!({"alg": "ES256", "kid": "", "typ": "JWT"}),
        json!({"alg": "ES256", "kid": 1, "typ": "JWT"}),
    ] {
        assert_eq!(world.sub(&world.signer.sign_with(&header, &svid())), "malformed", "{header}");
    }
    // One key: without a name it would still not be used.
    let only = rules(&[("prod.example.com", Some(&bundle([signer.jwk()])))]);
    let nameless = json!({"alg": "ES256", "typ": "JWT"});
    assert_eq!(sub(&signer.sign_with(&nameless, &svid()), &only), "malformed");
}

#[test]
fn a_token_is_a_jwt_svid_by_its_subject_and_no_users_issuer() {
    let world = World::new();
    let users = UserVerifier::new([Arc::new(super::issuer::provider())]);
    let kind = |claims: Value| world.rules.kind(claims.as_object().unwrap(), &users);
    assert_eq!(kind(svid()), Some(CallerKind::JwtSvid));
    let mut of_spire = svid();
    of_spire["iss"] = json!("https://spire.example.com");
    assert_eq!(kind(of_spire.clone()), Some(CallerKind::JwtSvid));
    of_spire["iss"] = json!(super::issuer::ISSUER);
    assert_eq!(kind(of_spire), None, "who verifies users verifies all tokens of that issuer");
    assert_eq!(kind(super::issuer::alice()), None);
}
