//! Each claim with values it must not have; the error names the claim.
use serde_json::{Value, json};

use super::world::*;
use crate::*;

/// Sets a claim by its dotted name and returns the claim the refusal blames.
#[track_caller]
fn blamed(path: &str, value: Value) -> &'static str {
    let world = World::new();
    let token = world.changed(|claims| set(claims, path, value));
    match world.refuses(&token, "claim_invalid") {
        VerifyError::ClaimInvalid { claim, .. } => claim,
        other => panic!("{other}"),
    }
}

fn set(claims: &mut Value, path: &str, value: Value) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = claims;
    for name in parents.split('.').filter(|name| !name.is_empty()) {
        at = at.as_object_mut().unwrap().entry(name).or_insert_with(|| json!({}));
    }
    at[last] = value;
}

#[test]
fn required_claims_are_missed() {
    for name in ["iss", "aud", "iat", "exp", "txn", "jti", "sub", "scope", "req_wl", "rctx"] {
        let world = World::new();
        let token = world.changed(|claims| {
            claims.as_object_mut().unwrap().remove(name);
        });
        let error = world.refuses(&token, "claim_invalid");
        let problem = ClaimProblem::Missing;
        assert!(
            matches!(error, VerifyError::ClaimInvalid { claim, problem: p } if claim == name && p == problem),
            "{error}"
        );
    }
    for name in ["v", "origin", "to"] {
        let world = World::new();
        let token = world.changed(|claims| {
            claims["rctx"].as_object_mut().unwrap().remove(name);
        });
        assert_eq!(
            world.refuses(&token, "claim_invalid").to_string(),
            format!("claim `rctx.{name}` is missing")
        );
    }
}

#[test]
fn null_and_arrays_never_pass_for_a_value() {
    // Some readers take null for "absent" and an array for an object.
    for path in [
        "iat",
        "exp",
        "nbf",
        "txn",
        "jti",
        "sub",
        "scope",
        "req_wl",
        "rctx",
        "tctx",
        "act",
        "rctx.v",
        "rctx.to",
        "rctx.req_ip",
        "rctx.idp",
        "rctx.amr",
        "rctx.groups",
        "rctx.groups_src",
        "rctx.claims",
        "rctx.dev",
        "rctx.tls",
        "rctx.just",
        "rctx.appr",
        "rctx.bg",
        "rctx.wl",
        "tctx.m",
        "tctx.params",
        "tctx.req_chain",
        "rctx.src_td",
        "rctx.auth_time",
    ] {
        assert_eq!(blamed(path, json!(null)), path);
    }
    for path in ["rctx", "tctx", "act", "rctx.dev", "rctx.tls", "rctx.just", "rctx.wl"] {
        assert_eq!(blamed(path, json!([])), path);
        assert_eq!(blamed(path, json!([1, "user", ORDERS])), path);
    }
}

#[test]
fn envelope_values_are_checked() {
    for (path, value) in [
        ("iat", json!(-1)),
        ("iat", json!(1.5)),
        ("exp", json!("1795194060")),
        ("nbf", json!(true)),
        ("txn", json!("short")),
        ("txn", json!("x".repeat(37))),
        ("txn", json!("01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf ")),
        ("jti", json!("short")),
        ("jti", json!("sUBCq5r81Enqa632cABTLwx")),
        ("jti", json!("sUBCq5r81Enqa632cABTLx")),
        ("req_wl", json!("edge/gateway")),
        ("scope", json!("")),
        ("scope", json!(" orders.read")),
        ("scope", json!("orders.read  orders.write")),
        ("scope", json!("orders.read orders.read")),
        ("scope", json!("orders.r\"ead")),
        ("scope", json!("orders.r\\ead")),
        ("scope", json!("orders.\u{e9}")),
        ("scope", json!("orders.read\u{a0}x")),
        ("scope", json!((0..17).map(|n| format!("orders.{n}")).collect::<Vec<_>>().join(" "))),
        ("scope", json!(format!("orders.{}", "x".repeat(250)))),
        ("act.sub", json!("not an id")),
    ] {
        assert_eq!(blamed(path, value.clone()), path, "{value}");
    }
    assert_eq!(blamed("act", json!({"sub": ORDERS})), "act", "a user's own request has no actor");
    assert_eq!(blamed("act", json!({})), "act.sub");
}

#[test]
fn integers_over_2_to_53_are_malformed_before_they_are_claims() {
    let world = World::new();
    for number in ["9007199254740993", "18446744073709551616", "1e300", "-9007199254740993"] {
        let payload =
            base_claims().to_string().replace(r#""v":1"#, &format!(r#""v":1,"n":{number}"#));
        let token = signed(&world.kid_header().to_string(), &payload, &world.gateway);
        world.refuses(&token, "token_malformed");
    }
}

#[test]
fn subjects_have_known_forms() {
    for sub in [
        "",
        "alice",
        "user:",
        "user:a/",
        "user:/a",
        "user:a/b/c",
        "user:a%",
        "user:a%2",
        "user:a%zz",
        "user:a\u{7}",
        "user:a\u{85}",
        "svc:",
        "svc:orders",
        "svc:spiffe://TD/a",
        "svc:spiffe://td",
        "foreign:",
        "foreign:td",
        "foreign:td|",
        "foreign:|x",
        "foreign:TD|x",
        "anon:",
        "Anon",
        "USER:alice",
        "group:x",
    ] {
        assert_eq!(blamed("sub", json!(sub)), "sub", "{sub:?}");
    }
    assert_eq!(blamed("sub", json!(format!("user:{}", "x".repeat(252)))), "sub");
    for sub in ["user:a", "user:corp/a%2Fb", "user:jos\u{e9}", "anon", "user:a b", "user:a|b:c"] {
        let world = World::new();
        let token = world.changed(|claims| claims["sub"] = json!(sub));
        assert_eq!(world.verify(&token).unwrap().sub.to_string(), sub);
    }
}

#[test]
fn user_names_take_any_id_and_keep_it_apart_from_others() {
    let name = |provider, id| UserName::new(provider, id).map(|name| name.to_string());
    assert_eq!(name(None, "alice").as_deref(), Some("alice"));
    assert_eq!(name(Some("corp"), "alice").as_deref(), Some("corp/alice"));
    assert_eq!(name(None, "corp/alice").as_deref(), Some("corp%2Falice"));
    assert_eq!(name(Some("corp"), "50%\n").as_deref(), Some("corp/50%25%0A"));
    assert_eq!(name(None, ""), None);
    assert_eq!(name(Some(""), "alice"), None);
    assert_eq!(name(None, &"x".repeat(252)), None);
    let user = UserName::new(Some("corp"), "a/b").unwrap();
    assert_eq!((user.provider(), user.id()), (Some("corp"), "a%2Fb"));
}

#[test]
fn rctx_values_are_checked() {
    let long = "x".repeat(65);
    for (path, value) in [
        ("rctx.origin", json!("User")),
        ("rctx.to", json!("orders")),
        ("rctx.req_ip", json!("203.0.113.007")),
        ("rctx.req_ip", json!("::ffff:203.0.113.7")),
        ("rctx.req_ip", json!("2001:DB8::1")),
        ("rctx.req_ip", json!("fe80::1%eth0")),
        ("rctx.req_ip", json!("unknown")),
        ("rctx.ip_src", json!("xff:0")),
        ("rctx.ip_src", json!("xff:01")),
        ("rctx.ip_src", json!("xff:256")),
        ("rctx.ip_src", json!("guess")),
        ("rctx.idp", json!(long)),
        ("rctx.idp", json!("")),
        ("rctx.client_id", json!("a\u{0}")),
        ("rctx.acr", json!(long)),
        ("rctx.authn", json!(["mfa"])),
        ("rctx.acct", json!(long)),
        ("rctx.auth_time", json!(-5)),
        ("rctx.amr", json!(["a", "b", "c", "d", "e", "f", "g", "h", "i"])),
        ("rctx.amr", json!([1])),
        ("rctx.groups", json!(vec!["g"; 17])),
        ("rctx.groups", json!([""])),
        ("rctx.claims", json!({"a": null})),
        ("rctx.claims", json!({"a": {"b": 1}})),
        ("rctx.claims", json!({"a": [["b"]]})),
        ("rctx.claims", json!({"a": 1.5})),
        ("rctx.claims", json!({"": 1})),
        ("rctx.claims", json!({"a": "x".repeat(257)})),
        ("rctx.sc", json!("tls")),
        ("rctx.bg", json!("true")),
        ("rctx.src_td", json!("Other.example")),
        ("rctx.src_txn", json!("short")),
    ] {
        assert_eq!(blamed(path, value.clone()), path, "{value}");
    }
    let many: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!(1))).collect();
    assert_eq!(blamed("rctx.claims", json!(many)), "rctx.claims");
}

#[test]
fn nested_objects_are_checked() {
    for (path, value, claim) in [
        ("rctx.dev", json!({"src": "mtls"}), "rctx.dev.id"),
        ("rctx.dev", json!({"id": "d"}), "rctx.dev.src"),
        ("rctx.dev", json!({"id": "d", "src": "header:"}), "rctx.dev.src"),
        ("rctx.dev", json!({"id": "d", "src": "me"}), "rctx.dev.src"),
        ("rctx.dev", json!({"id": 7, "src": "mtls"}), "rctx.dev.id"),
        ("rctx.dev", json!({"id": "d", "src": "idp", "managed": "yes"}), "rctx.dev.managed"),
        ("rctx.dev", json!({"id": "d", "src": "idp", "tier": ""}), "rctx.dev.tier"),
        ("rctx.tls", json!({"cert": "AAAA"}), "rctx.tls.cert"),
        ("rctx.tls", json!({"sni": "x".repeat(256)}), "rctx.tls.sni"),
        ("rctx.just", json!({"ref": "1"}), "rctx.just.kind"),
        ("rctx.just", json!({"kind": "ticket"}), "rctx.just.ref"),
        ("rctx.just", json!({"kind": "t", "ref": "1", "facts": {"a": 1}}), "rctx.just.facts"),
        ("rctx.just", json!({"kind": "t", "ref": "1", "checked": 1}), "rctx.just.checked"),
        (
            "rctx.just",
            json!({"kind": "t", "ref": "1", "checked": true, "facts": {"a": "x".repeat(65)}}),
            "rctx.just.facts",
        ),
        ("rctx.appr", json!(vec![json!({"sub": "a", "at": 1}); 5]), "rctx.appr"),
        ("rctx.appr", json!([{"sub": "a"}]), "rctx.appr.at"),
        ("rctx.appr", json!([{"at": 1}]), "rctx.appr.sub"),
        ("rctx.appr", json!([[]]), "rctx.appr"),
        ("rctx.wl", json!({"slsa": 5}), "rctx.wl.slsa"),
        ("rctx.wl", json!({"pod": ""}), "rctx.wl.pod"),
        ("tctx.m", json!("x".repeat(65)), "tctx.m"),
        ("tctx.p", json!("x".repeat(1025)), "tctx.p"),
        ("tctx.params", json!({"a": {"b": 1}}), "tctx.params"),
        ("tctx.deadline", json!("now"), "tctx.deadline"),
        ("tctx.parent", json!("AAAA"), "tctx.parent"),
        ("tctx.parent_txn", json!("x"), "tctx.parent_txn"),
        ("tctx.req_chain", json!(vec![ORDERS; 9]), "tctx.req_chain"),
        ("tctx.req_chain", json!(["orders"]), "tctx.req_chain"),
    ] {
        assert_eq!(blamed(path, value.clone()), claim, "{value}");
    }
}

proptest::proptest! {
    /// So what is read needs no comparison with what would be written.
    #[test]
    fn an_ipv4_address_is_written_in_one_way(text in "0{0,2}[0-2]?[0-9]{1,2}([.]0{0,1}[0-2]?[0-9]{1,2}){3}") {
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            proptest::prop_assert_eq!(ip.to_string(), text);
        }
    }
}
