//! Tokens bound to a key or a certificate, and what whoever stole one tries with it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ctxtoken::SenderConstraint;
use countersign_policy::doc::{
    BearerTokens, Demand, Nonce, ProofRules, SenderRules, UserAlgorithm,
};
use countersign_policy::path::CanonicalOptions;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::issuer::{NOW_S, Signer, alice, b64, key_set, now, provider, source};
use crate::clock::Now;
use crate::gateway::identify::UserVerifier;
use crate::gateway::proofs::target::{Schemes, Target};
use crate::gateway::proofs::{ProofError, Proofs, ProvenUser, Shown, dpop, prove};
use crate::gateway::provider_keys::KeysSnapshot;
use crate::gateway::user_cache::{UserCache, sha256};

const URL: &str = "https://api.example.com/v1/users/alice/orders";

/// A provider, a client with a key, and the token bound to it.
struct World {
    idp: Signer,
    client: Signer,
    token: String,
    rules: SenderRules,
    proofs: Proofs,
}

/// What the gateway saw.
struct Seen {
    method: &'static str,
    authority: &'static str,
    path: &'static str,
    schemes: Schemes,
    scheme: &'static str,
    certificate: Option<[u8; 32]>,
    now: Now,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen {
            method: "GET",
            authority: "api.example.com",
            path: "/v1/users/alice/orders",
            schemes: Schemes::Https,
            scheme: "DPoP",
            certificate: None,
            now: now(),
        }
    }
}

fn jkt(signer: &Signer) -> String {
    let Value::Object(jwk) = signer.jwk() else { panic!("an object") };
    let names: &[&str] =
        if jwk["kty"] == "RSA" { &["e", "kty", "n"] } else { &["crv", "kty", "x", "y"] };
    let members: Vec<String> =
        names.iter().map(|name| format!("\"{name}\":{}", jwk[*name])).collect();
    b64(sha256(format!("{{{}}}", members.join(",")).as_bytes()))
}

impl World {
    fn new() -> World {
        World::with(Signer::es256("client"), |_| {})
    }

    fn with(client: Signer, change: impl FnOnce(&mut Value)) -> World {
        let idp = Signer::es256("k1");
        let mut claims = alice();
        claims["cnf"] = json!({"jkt": jkt(&client)});
        change(&mut claims);
        let rules =
            SenderRules { dpop: Demand::Optional, mtls: Demand::Optional, ..Default::default() };
        let proofs = Proofs::new(&[7; 32]);
        World { token: idp.token(&claims), idp, client, rules, proofs }
    }

    fn header(&self) -> Value {
        let mut jwk = self.client.jwk();
        jwk.as_object_mut()
            .unwrap()
            .retain(|name, _| ["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()));
        json!({"typ": "dpop+jwt", "alg": self.client.alg(), "jwk": jwk})
    }

    fn claims(&self) -> Value {
        json!({"jti": "e1j3V_bKic8-LAEB", "htm": "GET", "htu": URL, "iat": NOW_S,
               "ath": b64(sha256(self.token.as_bytes()))})
    }

    /// A sound proof, its claims changed.
    fn proof(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.client.sign_with(&self.header(), &claims)
    }

    fn try_with(&self, proofs: &[&str], seen: &Seen) -> Result<ProvenUser, ProofError> {
        let mut spec = provider();
        spec.spec.sender = self.rules.clone();
        spec.spec.from.push(source("authorization", Some("DPoP")));
        let verifier = UserVerifier::new([Arc::new(spec)]);
        let keys = KeysSnapshot::fixed([("corp", key_set(&[&self.idp]))]);
        let mut headers = HeaderMap::new();
        let value = HeaderValue::try_from(format!("{} {}", seen.scheme, self.token)).unwrap();
        headers.insert("authorization", value);
        for proof in proofs {
            headers.append("dpop", HeaderValue::try_from(*proof).unwrap());
        }
        let found = UserCache::default().identify(&verifier, &headers, &keys, seen.now);
        let authority: Authority = seen.authority.parse().unwrap();
        let target = Target {
            method: seen.method,
            schemes: seen.schemes,
            authority: &authority,
            host: "api.example.com",
            path: seen.path,
            options: CanonicalOptions::default(),
        };
        let shown = Shown { headers: &headers, target, certificate_sha256: seen.certificate };
        prove(found.unwrap().unwrap(), &shown, &self.proofs, seen.now)
    }

    fn try_proof(&self, proof: &str) -> Result<ProvenUser, ProofError> {
        self.try_with(&[proof], &Seen::default())
    }

    fn refused(&self, proof: &str) -> ProofError {
        self.try_proof(proof).unwrap_err()
    }

    /// The refusal of a sound proof with one claim replaced; `null` removes it.
    fn changed(&self, name: &str, value: Value) -> ProofError {
        self.refused(&self.proof(|claims| match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }))
    }
}

#[test]
fn a_bound_token_counts_with_its_proof() {
    for client in [Signer::es256("client"), Signer::rs256("client")] {
        let mut world = World::with(client, |_| {});
        world.rules.proofs.algorithms.push(UserAlgorithm::RS256);
        let proven = world.try_proof(&world.proof(|_| {})).unwrap();
        assert_eq!(proven.user().id(), "alice");
        assert_eq!(proven.shown(), Some(SenderConstraint::Dpop));
    }
}

/// The example of RFC 9449 §7.1, made by others.
#[test]
fn the_example_of_the_rfc_verifies() {
    let proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    let authority: Authority = "resource.example.org".parse().unwrap();
    let target = Target {
        method: "GET",
        schemes: Schemes::Https,
        authority: &authority,
        host: "resource.example.org",
        path: "/protectedresource",
        options: CanonicalOptions::default(),
    };
    let headers = [("dpop".parse().unwrap(), proof.parse().unwrap())].into_iter().collect();
    let shown = Shown { headers: &headers, target, certificate_sha256: None };
    let now = Now::from_micros(1_562_262_620_000_000);
    let rules = ProofRules::default();
    let read = dpop::check_by_its_own_key(&shown, &sha256(token.as_bytes()), &rules, now).unwrap();
    assert_eq!((&*read.id, read.made_at), ("e1j3V_bKic8-LAEB", 1_562_262_618));
    let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    assert_eq!(b64(dpop::own_key(&shown).unwrap()), jkt);
}

#[test]
fn attack_uses_stolen_bound_token_without_proof() {
    let world = World::new();
    assert_eq!(world.try_with(&[], &Seen::default()).unwrap_err(), ProofError::Missing);
}

#[test]
fn attack_sends_dpop_bound_token_as_bearer() {
    let world = World::new();
    let proof = world.proof(|_| {});
    let bearer = Seen { scheme: "Bearer", ..Seen::default() };
    assert_eq!(world.try_with(&[&proof], &bearer).unwrap_err(), ProofError::SentAsBearer);
    assert_eq!(world.try_with(&[], &bearer).unwrap_err(), ProofError::SentAsBearer);
}

#[test]
fn attack_sends_bound_token_where_nobody_checks_proofs() {
    let mut world = World::new();
    world.rules = SenderRules::default();
    let bearer = Seen { scheme: "Bearer", ..Seen::default() };
    let error = world.try_with(&[], &bearer).unwrap_err();
    assert_eq!(error, ProofError::NotTaken { kind: "DPoP" });
    let mtls = World::with(Signer::es256("c"), |claims| {
        claims["cnf"] = json!({"x5t#S256": b64([1; 32])});
    });
    let mtls = World { rules: SenderRules::default(), ..mtls };
    let error = mtls.try_with(&[], &bearer).unwrap_err();
    assert_eq!(error, ProofError::NotTaken { kind: "client certificate" });
}

#[test]
fn attack_signs_dpop_proof_with_another_key() {
    let world = World::new();
    let thief = Signer::es256("thief");
    let theirs = World { client: thief, token: world.token.clone(), ..World::new() };
    assert_eq!(world.refused(&theirs.proof(|_| {})), ProofError::KeyWrong);
    // The victim's key named, the thief's used.
    let forged = theirs.client.sign_with(&world.header(), &world.claims());
    assert_eq!(world.refused(&forged), ProofError::SignatureInvalid);
}

#[test]
fn attack_replays_dpop_proof() {
    let world = World::new();
    let proof = world.proof(|_| {});
    assert!(world.try_proof(&proof).is_ok());
    assert_eq!(world.refused(&proof), ProofError::Replayed);
    // The same id in another signature is the same proof: ECDSA signatures differ each time.
    assert_eq!(world.refused(&world.proof(|_| {})), ProofError::Replayed);
    assert!(world.try_proof(&world.proof(|claims| claims["jti"] = json!("another"))).is_ok());
}

#[test]
fn attack_uses_dpop_proof_for_another_request() {
    let world = World::new();
    let proof = world.proof(|_| {});
    let post = Seen { method: "POST", ..Seen::default() };
    assert_eq!(world.try_with(&[&proof], &post).unwrap_err(), ProofError::MethodWrong);
    let elsewhere = Seen { path: "/v1/users/bob/orders", ..Seen::default() };
    assert_eq!(world.try_with(&[&proof], &elsewhere).unwrap_err(), ProofError::UrlWrong);
    let port = Seen { authority: "api.example.com:8443", ..Seen::default() };
    assert_eq!(world.try_with(&[&proof], &port).unwrap_err(), ProofError::UrlWrong);
    let clear = Seen { schemes: Schemes::Http, ..Seen::default() };
    assert_eq!(world.try_with(&[&proof], &clear).unwrap_err(), ProofError::UrlWrong);
    // Nobody used it up meanwhile.
    let behind_a_proxy = Seen { schemes: Schemes::Either, ..Seen::default() };
    assert!(world.try_with(&[&proof], &behind_a_proxy).is_ok());
}

#[test]
fn attack_uses_dpop_proof_with_another_token() {
    let world = World::new();
    let other = b64(sha256(b"another token"));
    assert_eq!(world.changed("ath", json!(other)), ProofError::TokenWrong);
    assert_eq!(world.changed("ath", Value::Null), ProofError::TokenWrong);
}

#[test]
fn attack_sends_dpop_proof_out_of_its_time() {
    let world = World::new();
    assert_eq!(world.changed("iat", json!(NOW_S - 61)), ProofError::TooOld { by_s: 61 });
    assert_eq!(world.changed("iat", json!(NOW_S + 31)), ProofError::FromTheFuture { by_s: 31 });
    assert_eq!(world.changed("iat", json!(0)), ProofError::TooOld { by_s: NOW_S });
    assert!(matches!(world.changed("iat", Value::Null), ProofError::Malformed(_)));
    assert!(matches!(world.changed("iat", json!("now")), ProofError::Malformed(_)));
    for (number, sound) in [NOW_S - 60, NOW_S + 30].into_iter().enumerate() {
        let proof = world.proof(|claims| {
            claims["iat"] = json!(sound);
            claims["jti"] = json!(format!("id-{number}"));
        });
        assert!(world.try_proof(&proof).is_ok());
    }
}

#[test]
fn attack_plays_with_the_algorithm_of_dpop_proof() {
    let world = World::new();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = world.header();
        change(&mut header);
        world.refused(&world.client.sign_with(&header, &world.claims()))
    };
    for name in ["none", "HS256", "RS256", "ES384", "es256", ""] {
        let error = with(&|header| header["alg"] = json!(name));
        assert_eq!(error, ProofError::AlgorithmNotPermitted, "{name}");
    }
    assert!(matches!(with(&|header| header["typ"] = json!("JWT")), ProofError::Malformed(_)));
    assert!(matches!(with(&|header| header["typ"] = json!("at+jwt")), ProofError::Malformed(_)));
    assert!(matches!(with(&|header| header["crit"] = json!(["x"])), ProofError::Malformed(_)));
    assert!(matches!(with(&|header| header["jwk"]["d"] = json!("AAAA")), ProofError::Malformed(_)));
    assert!(matches!(with(&|header| header["jwk"] = json!("AAAA")), ProofError::Malformed(_)));
    assert!(matches!(
        with(&|header| header["jwk"]["kty"] = json!("oct")),
        ProofError::Malformed(_)
    ));
    assert_eq!(
        with(&|header| header["jwk"]["alg"] = json!("ES384")),
        ProofError::AlgorithmNotPermitted
    );
    assert_eq!(with(&|header| header["jwk"]["x"] = json!(b64([1; 32]))), ProofError::KeyWrong);
    // The user's token itself is no proof.
    assert!(matches!(world.refused(&world.token), ProofError::Malformed(_)));
}

/// The client's own key may be as odd as it likes: its token is bound to it, and still refused.
#[test]
fn attack_binds_a_token_to_an_unusable_key() {
    let world = World::new();
    let mut header = world.header();
    header["jwk"]["x"] = json!(b64([0xff; 32]));
    let odd = format!(
        r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#,
        header["jwk"]["x"], header["jwk"]["y"]
    );
    let bound = World::with(Signer::es256("c"), |claims| {
        claims["cnf"] = json!({"jkt": b64(sha256(odd.as_bytes()))});
    });
    let mut claims = world.claims();
    claims["ath"] = json!(b64(sha256(bound.token.as_bytes())));
    let error = bound.refused(&world.client.sign_with(&header, &claims));
    assert_eq!(error, ProofError::Malformed("its key cannot be used"));
}

#[test]
fn attack_sends_two_dpop_proofs_or_a_huge_one() {
    let world = World::new();
    let proof = world.proof(|_| {});
    let twice = world.try_with(&[&proof, &proof], &Seen::default());
    assert_eq!(twice.unwrap_err(), ProofError::Repeated);
    let huge = world.proof(|claims| claims["jti"] = json!("x".repeat(4000)));
    assert_eq!(world.refused(&huge), ProofError::Malformed("it is too large"));
    assert!(matches!(world.changed("jti", json!("x".repeat(257))), ProofError::Malformed(_)));
    assert!(matches!(world.changed("jti", json!("")), ProofError::Malformed(_)));
    assert!(matches!(world.changed("jti", Value::Null), ProofError::Malformed(_)));
    assert!(matches!(world.refused(&format!("{proof}, {proof}")), ProofError::Malformed(_)));
    assert!(world.try_proof(&proof).is_ok(), "none of these used it up");
}

#[test]
fn the_url_of_a_proof_is_compared_in_its_canonical_form() {
    let world = World::new();
    let same = [
        "HTTPS://API.Example.com:443/v1/users/alice/orders",
        "https://api.example.com./v1/users/%61lice/orders?page=2#top",
        "https://api.example.com/v1/users/alice/orders#x",
    ];
    for (number, url) in same.into_iter().enumerate() {
        let proof = world.proof(|claims| {
            claims["htu"] = json!(url);
            claims["jti"] = json!(format!("id-{number}"));
        });
        assert!(world.try_proof(&proof).is_ok(), "{url}");
    }
    let others = [
        "http://api.example.com/v1/users/alice/orders",
        "https://api.example.com:80/v1/users/alice/orders",
        "https://api.example.com/v1/users/alice/orders/",
        "https://api.example.com/v1/users/alice%2Forders",
        "https://api.example.com/v1//users/alice/orders",
        "https://api.example.com/v1/x/../users/alice/orders",
        "https://mallory@api.example.com/v1/users/alice/orders",
        "https://api.example.com.evil.test/v1/users/alice/orders",
        "//api.example.com/v1/users/alice/orders",
        "/v1/users/alice/orders",
        "",
    ];
    for url in others {
        assert_eq!(world.changed("htu", json!(url)), ProofError::UrlWrong, "{url}");
    }
    assert!(matches!(world.changed("htu", json!(7)), ProofError::Malformed(_)));
    assert_eq!(world.changed("htm", json!("get")), ProofError::MethodWrong);
}

#[test]
fn a_certificate_bound_token_needs_its_certificate() {
    let ours = sha256(b"the client's certificate");
    let bound = World::with(Signer::es256("c"), |claims| {
        claims["cnf"] = json!({"x5t#S256": b64(ours)});
    });
    let bearer = |certificate| Seen { scheme: "Bearer", certificate, ..Seen::default() };
    let proven = bound.try_with(&[], &bearer(Some(ours))).unwrap();
    assert_eq!(proven.shown(), Some(SenderConstraint::Mtls));
    let error = bound.try_with(&[], &bearer(None)).unwrap_err();
    assert_eq!(error, ProofError::CertificateMissing);
    let error = bound.try_with(&[], &bearer(Some([0; 32]))).unwrap_err();
    assert_eq!(error, ProofError::CertificateWrong);
    // As `DPoP` it is bound to no key.
    let dpop = Seen { certificate: Some(ours), ..Seen::default() };
    assert_eq!(bound.try_with(&[], &dpop).unwrap_err(), ProofError::NotBoundToKey);
}

#[test]
fn a_token_bound_twice_needs_both() {
    let (ours, client) = (sha256(b"the client's certificate"), Signer::es256("client"));
    let key = jkt(&client);
    let world = World::with(client, |claims| {
        claims["cnf"] = json!({"x5t#S256": b64(ours), "jkt": key});
    });
    let proof = world.proof(|_| {});
    assert_eq!(world.try_proof(&proof).unwrap_err(), ProofError::CertificateMissing);
    let both = Seen { certificate: Some(ours), ..Seen::default() };
    assert!(world.try_with(&[&proof], &both).is_ok());
    let only = Seen { scheme: "Bearer", certificate: Some(ours), ..Seen::default() };
    assert_eq!(world.try_with(&[], &only).unwrap_err(), ProofError::SentAsBearer);
}

#[test]
fn what_a_document_demands_of_tokens() {
    let bearer = Seen { scheme: "Bearer", ..Seen::default() };
    let unbound = |rules: SenderRules| {
        let plain = World::with(Signer::es256("c"), |claims| {
            claims.as_object_mut().unwrap().remove("cnf");
        });
        World { rules, ..plain }.try_with(&[], &bearer).map(|user| user.shown())
    };
    let optional = || SenderRules { dpop: Demand::Optional, ..SenderRules::default() };
    assert_eq!(unbound(SenderRules::default()), Ok(None));
    assert_eq!(unbound(optional()), Ok(None));
    let refuse = SenderRules { bearer: BearerTokens::Refused, ..optional() };
    assert_eq!(unbound(refuse), Err(ProofError::NotBound));
    let required = SenderRules { dpop: Demand::Required, ..SenderRules::default() };
    assert_eq!(unbound(required), Err(ProofError::NotBound));
    let mut world = World::new();
    world.rules.mtls = Demand::Required;
    assert_eq!(world.refused(&world.proof(|_| {})), ProofError::NotBound);
}

#[test]
fn a_bound_token_counts_nowhere_else() {
    let world = World::new();
    let headers = |scheme: &str| {
        let value = HeaderValue::try_from(format!("{scheme} {}", world.token)).unwrap();
        HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])
    };
    let mut spec = provider();
    spec.spec.sender = world.rules.clone();
    let verifier = UserVerifier::new([Arc::new(spec)]);
    let keys = KeysSnapshot::fixed([("corp", key_set(&[&world.idp]))]);
    let user = verifier.identify(&headers("Bearer"), &keys, now()).unwrap().unwrap();
    let error = ProvenUser::without_proof(Arc::new(user)).unwrap_err();
    assert_eq!(error, ProofError::NoPlaceForProof);
}

#[test]
fn nonces_are_wanted_where_the_document_says_so() {
    let mut world = World::new();
    world.rules.proofs.nonce = Nonce::Required;
    let plain = world.proof(|_| {});
    assert_eq!(world.refused(&plain), ProofError::NonceWanted);
    let nonce = world.proofs.nonce(now()).unwrap();
    let nonce = nonce.to_str().unwrap();
    let at = |later_s: u64, id: &str, nonce: &str| {
        let proof = world.proof(|claims| {
            claims["iat"] = json!(NOW_S + later_s);
            claims["jti"] = json!(id);
            claims["nonce"] = json!(nonce);
        });
        let now = Now::from_micros((NOW_S + later_s) * 1_000_000);
        world.try_with(&[&proof], &Seen { now, ..Seen::default() })
    };
    assert!(!at(0, "a", nonce).unwrap().nonce_ages());
    assert!(at(100, "b", nonce).unwrap().nonce_ages(), "it is told a new one in time");
    assert_eq!(at(299, "c", &format!("{nonce}A")).unwrap_err(), ProofError::NonceWanted);
    let elsewhere = Proofs::new(&[8; 32]).nonce(now()).unwrap();
    assert_eq!(at(0, "d", elsewhere.to_str().unwrap()).unwrap_err(), ProofError::NonceWanted);
    for junk in ["", "AAAA", &"A".repeat(500)] {
        assert_eq!(at(0, "e", junk).unwrap_err(), ProofError::NonceWanted);
    }
    let last = NOW_S % 60;
    assert_eq!(at(301 - last, "f", nonce).unwrap_err(), ProofError::NonceWanted);
}

proptest! {
    /// Whatever single byte of a sound proof is changed, it no longer counts.
    #[test]
    fn a_changed_proof_is_refused(at in 0usize..2_000, with in 0u8..128) {
        let world = World::new();
        let proof = world.proof(|_| {});
        let mut bytes = proof.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != proof && HeaderValue::try_from(changed.as_str()).is_ok());
        prop_assert!(world.try_proof(&changed).is_err());
    }

    /// No text is a proof by accident, and none makes the gateway fall over.
    #[test]
    fn nothing_else_is_a_proof(header in "[ -~]{0,80}", claims in "[ -~]{0,120}", tail in "[A-Za-z0-9_.-]{0,90}") {
        let world = World::new();
        let text = format!("{}.{}.{tail}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        prop_assert!(world.try_proof(&text).is_err());
    }
}
