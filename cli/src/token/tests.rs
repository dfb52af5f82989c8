//! Tokens of a real authority and a real minter, inspected and verified.

use std::sync::Arc;

use countersign_certs_client::{Bundle, TrustBundles};
use countersign_cli::dev::authority::Ca;
use countersign_ctxtoken::{
    Constraints, ContextToken, KeyRef, KeySet, Limits, LocalSigner, Minter, NewContext, Origin,
    Rctx, ScopePattern, SubPattern, Subject, Tctx, TokenIds, UnixTime,
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use expect_test::{Expect, expect};

use super::inspect::inspect;
use super::verify::{Against, Outcome, verify};

const NOW: UnixTime = UnixTime(1_795_194_000);
const DOMAIN: &str = "prod.example.com";

fn id(path: &str) -> WorkloadId {
    format!("spiffe://{DOMAIN}{path}").parse().unwrap()
}

/// An issuer with its certificate, and what verifies its tokens.
struct World {
    ca: Ca,
    gateway: WorkloadId,
}

impl World {
    fn new() -> World {
        let ca = Ca::new(DOMAIN.parse().unwrap(), NOW.0 - 100).unwrap();
        World { ca, gateway: id("/ns/edge/sa/gateway") }
    }

    fn bundle(&self) -> TrustBundles {
        let mut bundles = TrustBundles::new();
        let bundle = Bundle::from_pem(self.ca.bundle_pem().as_bytes()).unwrap();
        bundles.insert(self.ca.trust_domain().clone(), bundle);
        bundles
    }

    fn against(&self) -> Against {
        let trust_domain = self.ca.trust_domain().clone();
        let issuer = self.gateway.clone();
        Against { issuer, trust_domain, bundles: self.bundle(), jwks: None }
    }

    /// A token signed with a fresh certificate, named by chain; also the key set with its key.
    fn token(&self, by_kid: bool) -> (ContextToken, KeySet) {
        let issued = self.ca.issue(&self.gateway, 3_600, NOW.0 - 10).unwrap();
        let signer = LocalSigner::from_pkcs8_der(&issued.key).unwrap();
        let jwks = format!(r#"{{"keys":[{}]}}"#, signer.verifying_key().to_jwk());
        let jwks = KeySet::from_jwks_json(jwks.as_bytes()).unwrap();
        let key = match by_kid {
            true => KeyRef::Kid(signer.verifying_key().kid()),
            false => KeyRef::X5c(vec![issued.certificate]),
        };
        let allow = Constraints {
            origins: vec![Origin::User],
            subs: vec![SubPattern::parse("user:*").unwrap()],
            scopes: vec![ScopePattern::parse("orders.*").unwrap()],
            impersonate: vec![],
            max_ttl_s: 60,
        };
        let domain: TrustDomain = DOMAIN.parse().unwrap();
        let end = Some(UnixTime(issued.not_after));
        let limits = Limits::default();
        let signer = Arc::new(signer);
        let minter =
            Minter::new(self.gateway.clone(), domain, allow, key, signer, end, &limits).unwrap();
        let context = NewContext {
            sub: Subject::parse("user:alice").unwrap(),
            scope: vec!["orders.read".into()],
            req_wl: self.gateway.clone(),
            rctx: Rctx::new(Origin::User, id("/ns/shop/sa/orders")),
            tctx: Tctx::default(),
            act: None,
        };
        let txn = "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2".to_owned();
        let token = minter.mint(&context, TokenIds { txn, jti: [7; 16] }, NOW, 60).unwrap();
        (token, jwks)
    }
}

/// The checks one per line: outcome and detail, up to the first that was not reached.
fn lines(token: &str, against: &Against, now: UnixTime) -> String {
    let report = verify(token, against, now).unwrap();
    let mut text = format!("{}\n", report.reason.unwrap_or("valid"));
    let relevant = [Outcome::Ok, Outcome::Failed];
    for check in report.checks.iter().filter(|check| relevant.contains(&check.outcome)) {
        text.push_str(&format!("{:?} {}: {}\n", check.outcome, check.check, check.detail));
    }
    text
}

fn check(token: &str, against: &Against, now: UnixTime, expected: Expect) {
    // Keys differ from run to run, and so do what depends on them.
    let text = lines(token, against, now);
    let kid = text.split("key by name: ").nth(1).and_then(|rest| rest.get(..16));
    let text = kid.map_or(text.clone(), |kid| text.replace(kid, "KID"));
    let bytes = format!("{} bytes", token.len());
    expected.assert_eq(&text.replace(&bytes, "N bytes"));
}

#[test]
fn a_good_token_passes_every_check_by_chain_and_by_name() {
    let world = World::new();
    let (token, _) = world.token(false);
    check(
        token.expose(),
        &world.against(),
        UnixTime(NOW.0 + 3),
        expect![[r#"
            valid
            Ok form: N bytes, at most 4096
            Ok strict parsing: key by certificate chain of 1
            Ok end and audience: ends 2026-11-20T17:01:00Z (in 57 s); for prod.example.com
            Ok issuer and key: spiffe://prod.example.com/ns/edge/sa/gateway is listed, and there is a key
            Ok signature: ES256 fits
            Ok claims: issued 2026-11-20T17:00:00Z (3 s ago), lives 60 s
        "#]],
    );
    let (token, jwks) = world.token(true);
    let against = Against { jwks: Some(jwks), ..world.against() };
    check(
        token.expose(),
        &against,
        UnixTime(NOW.0 + 3),
        expect![[r#"
            valid
            Ok form: N bytes, at most 4096
            Ok strict parsing: key by name: KID
            Ok end and audience: ends 2026-11-20T17:01:00Z (in 57 s); for prod.example.com
            Ok issuer and key: spiffe://prod.example.com/ns/edge/sa/gateway is listed, and there is a key
            Ok signature: ES256 fits
            Ok claims: issued 2026-11-20T17:00:00Z (3 s ago), lives 60 s
        "#]],
    );
}

#[test]
fn the_failing_check_says_what_was_seen_and_expected() {
    let world = World::new();
    let (token, _) = world.token(false);
    let token = token.expose();
    check(
        token,
        &world.against(),
        UnixTime(NOW.0 + 154),
        expect![[r#"
        token_expired
        Ok form: N bytes, at most 4096
        Ok strict parsing: key by certificate chain of 1
        Failed end and audience: the token ended 94 s ago (skew allowed for): `exp` is 2026-11-20T17:01:00Z (94 s ago)
    "#]],
    );
    let early = lines(token, &world.against(), UnixTime(NOW.0 - 94));
    assert!(
        early.starts_with(
            "key_unknown
"
        ),
        "its certificate is not valid yet: {early}"
    );

    let issuer = id("/ns/jobs/sa/issuer");
    check(
        token,
        &Against { issuer, ..world.against() },
        NOW,
        expect![[r#"
        issuer_not_allowed
        Ok form: N bytes, at most 4096
        Ok strict parsing: key by certificate chain of 1
        Ok end and audience: ends 2026-11-20T17:01:00Z (in 60 s); for prod.example.com
        Failed issuer and key: the issuer is not on the allow-list: `iss` is spiffe://prod.example.com/ns/edge/sa/gateway, --issuer is spiffe://prod.example.com/ns/jobs/sa/issuer
    "#]],
    );

    let trust_domain = "test.example.com".parse().unwrap();
    check(
        token,
        &Against { trust_domain, ..world.against() },
        NOW,
        expect![[r#"
        audience_wrong
        Ok form: N bytes, at most 4096
        Ok strict parsing: key by certificate chain of 1
        Failed end and audience: the token was made for another trust domain: `aud` is prod.example.com, expected test.example.com
    "#]],
    );

    let bundles = World::new().bundle();
    let foreign = lines(token, &Against { bundles, ..world.against() }, NOW);
    assert!(
        foreign.starts_with(
            "key_unknown
"
        ),
        "another authority: {foreign}"
    );

    let (by_name, _) = world.token(true);
    let jwks = Some(world.token(true).1);
    let text = lines(by_name.expose(), &Against { jwks, ..world.against() }, NOW);
    assert!(text.starts_with("key_unknown\n"), "{text}");
}

#[test]
fn changed_and_malformed_tokens_fail_where_they_should() {
    let world = World::new();
    let (token, _) = world.token(false);
    let token = token.expose();
    let (signed, _) = token.rsplit_once('.').unwrap();
    let resigned = format!("{signed}.{}", "A".repeat(86));
    check(
        &resigned,
        &world.against(),
        NOW,
        expect![[r#"
            signature_invalid
            Ok form: N bytes, at most 4096
            Ok strict parsing: key by certificate chain of 1
            Ok end and audience: ends 2026-11-20T17:01:00Z (in 60 s); for prod.example.com
            Ok issuer and key: spiffe://prod.example.com/ns/edge/sa/gateway is listed, and there is a key
            Failed signature: the signature does not fit
        "#]],
    );
    check(
        &format!("{token}="),
        &world.against(),
        NOW,
        expect![[r#"
        token_malformed
        Failed form: not a context token: a character outside base64url and dots
    "#]],
    );
    check(
        "e30.e30.AA",
        &world.against(),
        NOW,
        expect![[r#"
        token_malformed
        Ok form: N bytes, at most 4096
        Failed strict parsing: not a context token: a header without `typ`
    "#]],
    );
    check(
        &"a".repeat(5_000),
        &world.against(),
        NOW,
        expect![[r#"
        token_too_large
        Failed form: the token has N bytes, the limit is 4096
    "#]],
    );
}

#[test]
fn inspection_never_shows_the_signature_or_the_certificates() {
    let world = World::new();
    let (token, _) = world.token(false);
    let json = serde_json::to_value(inspect(token.expose()).unwrap()).unwrap();
    assert_eq!(json["kind"], "context");
    assert_eq!(json["verified"], false);
    assert_eq!(json["claims"]["sub"], "user:alice");
    assert_eq!(json["chain"], serde_json::json!(["spiffe://prod.example.com/ns/edge/sa/gateway"]));
    assert_eq!(json["header"]["x5c"], serde_json::Value::Null);
    let signature = token.expose().rsplit('.').next().unwrap();
    assert!(!json.to_string().contains(signature));
}

#[test]
fn other_jwts_are_shown_and_named_as_such() {
    // {"alg":"RS256"} {"iss":"https://login.example.com/","exp":1}
    let token =
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUuY29tLyIsImV4cCI6MX0.AA";
    let json = serde_json::to_value(inspect(token).unwrap()).unwrap();
    assert_eq!(json["kind"], "other");
    assert_eq!(json["claims"]["exp"], 1);
    assert!(inspect("opaque").is_err());
}
