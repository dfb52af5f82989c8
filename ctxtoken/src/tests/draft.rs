//! The example of `draft-ietf-oauth-transaction-tokens`, with what this profile demands besides.
use serde_json::{Value, json};

use super::world::*;
use crate::*;

/// The claims of the draft's example, its times in seconds and now.
fn example() -> Value {
    json!({
        "iat": NOW.0 - 10, "exp": NOW.0 + 50, "aud": "prod.example.com",
        "txn": "97053963-771d-49cc-a4e3-20aad399c312",
        "sub": "d084sdrt234fsaw34tr23t",
        "req_wl": "apigateway.trust-domain.example",
        "rctx": {"req_ip": "69.151.72.123", "authn": "urn:ietf:rfc:6749"},
        "scope": "orders.trade.stocks",
        "tctx": {
            "action": "BUY", "ticker": "MSFT", "quantity": "100",
            "customer_type": {"geo": "US", "level": "VIP"}
        }
    })
}

/// What the draft leaves to a deployment, and this profile demands.
fn completed() -> Value {
    let mut claims = example();
    claims["iss"] = json!(GATEWAY);
    claims["jti"] = json!("sUBCq5r81Enqa632cABTLw");
    claims["sub"] = json!("user:d084sdrt234fsaw34tr23t");
    claims["req_wl"] = json!(GATEWAY);
    claims["rctx"]["v"] = json!(1);
    claims["rctx"]["origin"] = json!("user");
    claims["rctx"]["to"] = json!(ORDERS);
    claims
}

#[test]
fn draft_example_token_verifies() {
    let world = World::new();
    let token = world.verify(&world.token(&completed())).unwrap();
    assert_eq!(token.txn, "97053963-771d-49cc-a4e3-20aad399c312");
    assert_eq!(token.sub.to_string(), "user:d084sdrt234fsaw34tr23t");
    assert_eq!(token.scope, ["orders.trade.stocks"]);
    assert_eq!(token.rctx.req_ip, Some("69.151.72.123".parse().unwrap()));
    assert_eq!(token.rctx.authn.as_deref(), Some("urn:ietf:rfc:6749"));
    // Members of `tctx` that this profile does not know are nobody's business.
    assert_eq!(token.tctx, Tctx::default());
}

/// Nothing of what this profile adds may be left out, and the example's bare names are no subjects
/// or workloads of a trust domain.
#[test]
fn the_draft_example_as_it_stands_names_what_is_missing() {
    let world = World::new();
    for (member, missing) in [("iss", "iss"), ("jti", "jti")] {
        let mut claims = completed();
        claims.as_object_mut().unwrap().remove(member);
        match world.refuses(&world.token(&claims), "claim_invalid") {
            VerifyError::ClaimInvalid { claim, .. } => assert_eq!(claim, missing),
            other => panic!("{other}"),
        }
    }
    for (member, plain) in [("sub", &example()["sub"]), ("req_wl", &example()["req_wl"])] {
        let mut claims = completed();
        claims[member] = plain.clone();
        world.refuses(&world.token(&claims), "claim_invalid");
    }
    // Milliseconds, as an older text of the draft has them, are a time in the far future.
    let mut claims = completed();
    (claims["iat"], claims["exp"]) = (json!(1_686_536_226_000_u64), json!(1_686_536_286_000_u64));
    world.refuses(&world.token(&claims), "claim_invalid");
}
