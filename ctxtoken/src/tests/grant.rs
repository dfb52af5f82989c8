//! Deferred grants: to whom they speak, and to whom they say nothing.
use serde_json::{Value, json};

use super::world::*;
use crate::*;

const REPORTS: &str = "spiffe://prod.example.com/ns/shop/sa/reports";
const DIGEST: [u8; 32] = [5; 32];

/// The issuer's grants, with a key that outlives certificates.
struct Desk {
    world: World,
    key: std::sync::Arc<LocalSigner>,
    keys: Vec<GrantKey>,
    issuer: countersign_workload_id::WorkloadId,
}

impl Desk {
    fn new() -> Desk {
        let key = p256();
        let verifying = key.verifying_key().clone();
        let keys = vec![GrantKey { kid: verifying.kid(), key: verifying }];
        Desk { world: World::new(), key, keys, issuer: id(GATEWAY) }
    }

    fn signer(&self) -> GrantSigner {
        let kid = KeyRef::Kid(self.keys[0].kid.clone());
        GrantSigner::new(id(GATEWAY), &kid, self.key.clone(), None).unwrap()
    }

    fn live(&self) -> Verified<RequestContext> {
        let token = self.world.changed(|claims| {
            claims["scope"] = json!("orders.read orders.write");
            claims["rctx"]["idp"] = json!("corp");
            claims["rctx"]["req_ip"] = json!("203.0.113.7");
            claims["rctx"]["ip_src"] = json!("peer");
            claims["tctx"] = json!({"m": "GET", "params": {"user": "42"}});
        });
        self.world.verify(&token).unwrap()
    }

    fn content(&self) -> NewGrant {
        let live = self.live();
        let scope = vec!["orders.read".to_owned()];
        NewGrant::of(&live, live.token_sha256(), scope, id(ORDERS), id(REPORTS), DIGEST)
    }

    fn grant(&self) -> String {
        let text = self.signer().sign(&self.content(), [3; 16], NOW, 3600).unwrap();
        text.expose().to_owned()
    }

    fn verify_at(&self, text: &str, now: UnixTime) -> Result<Grant, GrantError> {
        let with = GrantWith {
            issuer: &self.issuer,
            keys: &self.keys,
            chains: &self.world.chains,
            now,
            skew_s: 30,
            limits: &self.world.limits,
        };
        verify_grant(text.as_bytes(), &with)
    }

    fn verify(&self, text: &str) -> Result<Grant, GrantError> {
        self.verify_at(text, NOW)
    }

    /// Signs any payload as a grant, properly.
    fn forged(&self, change: impl FnOnce(&mut Value)) -> String {
        let text = self.grant();
        let payload = jws::decode(text.split('.').nth(1).unwrap().as_bytes()).unwrap();
        let mut payload: Value = serde_json::from_slice(&payload).unwrap();
        change(&mut payload);
        let header = json!({"alg": "ES256", "typ": "csign-deferred+jwt", "kid": self.keys[0].kid});
        signed(&header.to_string(), &payload.to_string(), &self.key)
    }
}

fn scope(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_grant_becomes_the_consumers_context() {
    let desk = Desk::new();
    let text = desk.grant();
    assert_eq!(grant_scope(text.as_bytes()).as_deref(), Some("orders.read"));
    let grant = desk.verify_at(&text, NOW.plus(3599)).unwrap();
    assert_eq!((grant.iat(), grant.exp()), (NOW, NOW.plus(3600)));
    let context = grant.redeem(&id(REPORTS), &DIGEST, &scope(&["orders.read"])).unwrap();
    assert_eq!(context.sub.to_string(), "user:alice");
    assert_eq!(context.rctx.origin, Origin::Async);
    assert_eq!(context.rctx.to, id(REPORTS));
    assert_eq!(context.req_wl, id(REPORTS));
    assert_eq!(context.act, Some(id(REPORTS)));
    assert_eq!(context.rctx.idp.as_deref(), Some("corp"));
    assert_eq!(context.tctx.req_chain, Some(vec![id(GATEWAY), id(ORDERS)]));
    assert_eq!(context.tctx.params.unwrap()["user"], "42");
    // Nothing about the connection of the request that is over.
    assert_eq!((context.rctx.req_ip, context.rctx.ip_src), (None, None));
    // An issuer that may mint such tokens can mint this one, and everybody accepts it.
    let constraints = Constraints { origins: vec![Origin::Async], ..user_constraints() };
    let leaf = KeyRef::X5c(vec![certificate("gateway")]);
    let (home, limits) = (trust_domain(), &desk.world.limits);
    let minter =
        Minter::new(id(GATEWAY), home, constraints, leaf, desk.world.gateway.clone(), None, limits);
    let grant = desk.verify(&text).unwrap();
    let context = grant.redeem(&id(REPORTS), &DIGEST, &scope(&["orders.read"])).unwrap();
    minter.unwrap().mint(&context, ids(), NOW, 60).unwrap();
}

#[test]
fn attack_uses_grant_from_queue_as_token() {
    let desk = Desk::new();
    desk.world.refuses(&desk.grant(), "token_malformed");
    // Not under a context token's header either: what it says is no context.
    let text = desk.grant();
    let payload = jws::decode(text.split('.').nth(1).unwrap().as_bytes()).unwrap();
    let header = desk.world.kid_header().to_string();
    let dressed = signed_bytes(header.as_bytes(), &payload, &desk.world.gateway);
    desk.world.refuses(&dressed, "audience_wrong");
}

#[test]
fn attack_redeems_a_context_token_as_grant() {
    let desk = Desk::new();
    let token = desk.world.changed(|_| ());
    assert!(matches!(desk.verify(&token), Err(GrantError::Malformed(_))));
    assert_eq!(grant_scope(token.as_bytes()), None);
}

#[test]
fn attack_redeems_grant_as_other_workload() {
    let desk = Desk::new();
    for peer in [ORDERS, POD, GATEWAY] {
        let grant = desk.verify(&desk.grant()).unwrap();
        let refused = grant.redeem(&id(peer), &DIGEST, &scope(&["orders.read"])).unwrap_err();
        assert!(matches!(refused, GrantError::OtherConsumer { .. }), "{refused}");
    }
}

#[test]
fn attack_redeems_grant_for_other_message() {
    let desk = Desk::new();
    let grant = desk.verify(&desk.grant()).unwrap();
    let refused = grant.redeem(&id(REPORTS), &[6; 32], &scope(&["orders.read"]));
    assert_eq!(refused.unwrap_err(), GrantError::OtherMessage);
}

#[test]
fn attack_asks_for_more_scope_than_the_grant_holds() {
    let desk = Desk::new();
    let grant = desk.verify(&desk.grant()).unwrap();
    for asked in [&["orders.write"][..], &["orders.read", "orders.write"], &[]] {
        let refused = grant.redeem(&id(REPORTS), &DIGEST, &scope(asked));
        assert_eq!(refused.unwrap_err(), GrantError::ScopeExceeded);
    }
}

#[test]
fn a_grant_ends_and_does_not_begin_early() {
    let desk = Desk::new();
    let text = desk.grant();
    assert_eq!(desk.verify_at(&text, NOW.plus(3600)).unwrap_err(), GrantError::Expired);
    assert_eq!(desk.verify_at(&text, UnixTime(NOW.0 - 31)).unwrap_err(), GrantError::Expired);
    let days = desk.forged(|grant| grant["exp"] = json!(NOW.0 + GRANT_TTL_S_MAX + 1));
    assert_eq!(desk.verify(&days).unwrap_err(), GrantError::Expired);
}

#[test]
fn attack_brings_grant_of_another_issuer() {
    let desk = Desk::new();
    for member in ["iss", "aud"] {
        let other = desk.forged(|grant| grant[member] = json!(ORDERS));
        assert_eq!(desk.verify(&other).unwrap_err(), GrantError::OtherIssuer);
    }
    // A workload's own key, under the name of ours and under its own.
    let thief = p256();
    let payload = desk.grant();
    let payload = jws::decode(payload.split('.').nth(1).unwrap().as_bytes()).unwrap();
    for (kid, wanted) in [
        (desk.keys[0].kid.clone(), GrantError::SignatureInvalid),
        (
            thief.verifying_key().kid(),
            GrantError::KeyUnknown("no key of this name makes grants here".to_owned()),
        ),
    ] {
        let header = json!({"alg": "ES256", "typ": "csign-deferred+jwt", "kid": kid}).to_string();
        let forged = signed_bytes(header.as_bytes(), &payload, &thief);
        assert_eq!(desk.verify(&forged).unwrap_err(), wanted);
    }
    // And its certificate, which is sound and of this mesh.
    let mut desk = desk;
    desk.world.certify("pod", POD, &thief);
    let mut header = x5c_header("pod");
    header["typ"] = json!("csign-deferred+jwt");
    let forged = signed_bytes(header.to_string().as_bytes(), &payload, &thief);
    assert!(matches!(desk.verify(&forged).unwrap_err(), GrantError::KeyUnknown(_)));
}

#[test]
fn a_key_of_a_certificate_makes_grants_within_its_life() {
    let desk = Desk::new();
    let leaf = KeyRef::X5c(vec![certificate("gateway")]);
    let ends = NOW.plus(3600);
    let signer = desk.world.gateway.clone();
    let signer = GrantSigner::new(id(GATEWAY), &leaf, signer, Some(ends)).unwrap();
    assert_eq!(signer.longest_s(NOW), 3600);
    let refused = signer.sign(&desk.content(), [1; 16], NOW, 3601).unwrap_err();
    assert!(matches!(refused, MintError::TtlInvalid { limit: 3600, .. }), "{refused}");
    let text = signer.sign(&desk.content(), [1; 16], NOW, 3600).unwrap();
    // A revocation of the certificate is held against it.
    let leaf = certificate("gateway");
    assert_eq!(desk.verify(text.expose()).unwrap().leaf(), Some(&*leaf));
    assert_eq!(desk.verify(&desk.grant()).unwrap().leaf(), None);
    // Nobody but the issuer that made it: the header names its certificate.
    let mut other = desk;
    other.issuer = id(ORDERS);
    assert!(matches!(other.verify(text.expose()).unwrap_err(), GrantError::KeyUnknown(_)));
}

#[test]
fn members_keep_to_their_rules() {
    let desk = Desk::new();
    type Change = fn(&mut Value);
    let changes: &[(&str, Change)] = &[
        ("msg", |grant| grant["msg"] = json!("AAAA")),
        ("may_act", |grant| drop(grant.as_object_mut().unwrap().remove("may_act"))),
        ("may_act.sub", |grant| grant["may_act"] = json!({})),
        ("txn", |grant| grant["txn"] = json!("short")),
        ("sub", |grant| grant["sub"] = json!("alice")),
        ("scope", |grant| grant["scope"] = json!("")),
        ("tctx.req_chain", |grant| grant["req_chain"] = json!(vec![ORDERS; 9])),
        ("req_chain", |grant| grant["req_chain"] = json!(["orders"])),
        ("rctx.v", |grant| grant["rctx"]["v"] = json!(2)),
        ("jti", |grant| grant["jti"] = json!("x")),
    ];
    for (member, change) in changes {
        match desk.verify(&desk.forged(*change)) {
            Err(GrantError::Claim(invalid)) => assert_eq!(invalid.claim, *member),
            other => panic!("{member}: {other:?}"),
        }
    }
}

#[test]
fn a_transaction_is_not_taken_up_without_end() {
    let desk = Desk::new();
    let chain = vec![ORDERS; 8];
    let full = desk.forged(|grant| grant["req_chain"] = json!(chain));
    let grant = desk.verify(&full).unwrap();
    let refused = grant.redeem(&id(REPORTS), &DIGEST, &scope(&["orders.read"]));
    assert_eq!(refused.unwrap_err(), GrantError::TooManyRequesters);
}

#[test]
fn grants_cannot_be_printed() {
    let desk = Desk::new();
    let text = desk.signer().sign(&desk.content(), [3; 16], NOW, 60).unwrap();
    let grant = desk.verify(text.expose()).unwrap();
    let shown = format!("{text:?} {grant:?} {:?}", desk.signer());
    assert!(!shown.contains("eyJ") && !shown.contains("alice"), "{shown}");
}

#[test]
fn attack_changes_any_character_of_a_grant() {
    let desk = Desk::new();
    let text = desk.grant();
    for at in (0..text.len()).step_by(7) {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(desk.verify(&changed).is_err(), "character {at}");
    }
}
