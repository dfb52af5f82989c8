//! Every refusal reason is produced here by a token or a connection, and the list is complete.
use std::collections::BTreeSet;

use serde_json::json;

use super::{hops_world::*, world::*};
use crate::*;

/// One input per reason. The match has no default arm, so that a new variant asks for its input.
fn produce(reason: &VerifyError) -> VerifyError {
    let mut world = World::new();
    let good = world.token(&base_claims());
    let token = match reason {
        VerifyError::AudienceWrong => world.changed(|c| c["aud"] = json!("test.example.com")),
        VerifyError::ClaimInvalid { .. } => world.changed(|c| c["sub"] = json!("alice")),
        VerifyError::ConstraintViolated(_) => world.changed(|c| c["scope"] = json!("admin")),
        VerifyError::CustodyBroken(_) => {
            let context = world.verify(&good).unwrap();
            return custody(&context, POD, ORDERS, None).unwrap_err();
        }
        VerifyError::HopCertUnknown { .. } => {
            let list = Path::from(ORDERS).to(POD).to(GATEWAY).list(&good);
            let context = world.verify(&good).unwrap();
            return custody(&context, POD, GATEWAY, Some(&list)).unwrap_err();
        }
        VerifyError::HopsMalformed(_) => {
            return HopList::parse(b"a.b", &world.limits).unwrap_err();
        }
        VerifyError::HopsTooLarge { .. } => {
            return HopList::parse(&[b'a'; 6145], &world.limits).unwrap_err();
        }
        VerifyError::IssuerNotAllowed => world.changed(|c| c["iss"] = json!(POD)),
        VerifyError::KeyUnknown(_) => world.headed(&x5c_header("unknown")),
        VerifyError::KeysUnavailable => {
            world.list(KeyForms::Either, None);
            good
        }
        VerifyError::PresenterRefused => {
            let nobody = Presenters::only(Vec::new());
            return check_presenter(&nobody, &trust_domain(), &id(POD), "/").unwrap_err();
        }
        VerifyError::SignatureInvalid => {
            signed(&world.kid_header().to_string(), &base_claims().to_string(), &p256())
        }
        VerifyError::TokenDuplicated => format!("{good},{good}"),
        VerifyError::TokenExpired { .. } => world.changed(|c| c["exp"] = json!(NOW.0 - 30)),
        VerifyError::TokenMalformed(_) => "a.b".to_owned(),
        VerifyError::TokenTooLarge { .. } => "a".repeat(4097),
    };
    world.verify(&token).unwrap_err()
}

#[test]
fn every_reason_is_produced() {
    let all = [
        VerifyError::AudienceWrong,
        VerifyError::ClaimInvalid { claim: "sub", problem: ClaimProblem::BadValue },
        VerifyError::ConstraintViolated(Constraint::Scope),
        VerifyError::CustodyBroken(CustodyProblem::MadeForAnother { to: id(ORDERS) }),
        VerifyError::HopCertUnknown { thumbprints: Vec::new() },
        VerifyError::HopsMalformed("x"),
        VerifyError::HopsTooLarge { bytes: 1, limit: 1 },
        VerifyError::IssuerNotAllowed,
        VerifyError::KeyUnknown(KeyProblem::NoSuchKid),
        VerifyError::KeysUnavailable,
        VerifyError::PresenterRefused,
        VerifyError::SignatureInvalid,
        VerifyError::TokenDuplicated,
        VerifyError::TokenExpired { by_secs: 1 },
        VerifyError::TokenMalformed("x"),
        VerifyError::TokenTooLarge { bytes: 1, limit: 1 },
    ];
    let mut reasons = BTreeSet::new();
    for wanted in &all {
        let got = produce(wanted);
        assert_eq!(got.reason(), wanted.reason(), "{got}");
        reasons.insert(got.reason());
    }
    assert_eq!(reasons.len(), all.len());
}

#[test]
fn refusals_never_repeat_what_a_peer_wrote() {
    let world = World::new();
    let sentinel = "sentinel-7c1f";
    for name in ["sub", "scope", "txn", "jti", "aud", "req_wl", "iss", "rctx", "exp"] {
        let token =
            world.changed(|claims| claims[name] = json!(format!("{sentinel} \"{sentinel}")));
        let error = world.verify(&token).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(sentinel), "{name}: {error}");
    }
}

#[test]
fn tokens_cannot_be_printed() {
    let world = World::new();
    let minter = world.minter(KeyRef::Kid(world.gateway.verifying_key().kid()));
    let token = minter.mint(&base_context(), ids(), NOW, 60).unwrap();
    let shown =
        format!("{token:?} {minter:?} {:?} {:?}", world.gateway, Redacted::new(token.expose()));
    for part in token.expose().split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
    assert!(shown.starts_with("ContextToken(") && shown.len() < 250, "{shown}");
}
