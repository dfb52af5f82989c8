//! What an app is shown of a context.
use std::cell::RefCell;

use serde_json::{Value, json};

use super::world::*;
use crate::*;

fn full() -> RequestContext {
    let world = World::new();
    let token = world.changed(|claims| {
        claims["rctx"]["groups"] = json!(["support"]);
        claims["rctx"]["acct"] = json!("a-1");
        claims["tctx"] = json!({"m": "GET", "p": "/v1/users/{user}"});
        claims["unheard_of"] = json!("invisible");
        claims["rctx"]["unheard_of"] = json!("invisible");
    });
    RequestContext::clone(&world.verify(&token).unwrap())
}

#[test]
fn an_app_is_shown_what_the_filter_keeps_and_nothing_unknown() {
    let (context, scope) = (full(), ["orders.read".to_owned()]);
    let read = |keep: &dyn Fn(&'static str) -> bool| -> Value {
        serde_json::from_slice(&shown(&context, &scope, keep)).unwrap()
    };
    let all = read(&|_| true);
    assert_eq!(all["rctx"]["groups"], json!(["support"]));
    assert_eq!(all["tctx"], json!({"m": "GET", "p": "/v1/users/{user}"}));
    assert!(!all.to_string().contains("unheard_of"));
    for name in ["iss", "aud", "jti", "iat", "req_wl"] {
        assert_eq!(all[name], Value::Null, "{name}");
    }
    let some = read(&|name| ["rctx.groups", "tctx.p"].contains(&name));
    assert_eq!(some["rctx"]["groups"], json!(["support"]));
    assert_eq!(some["rctx"]["acct"], Value::Null);
    assert_eq!(some["tctx"], json!({"p": "/v1/users/{user}"}));
    let none = read(&|_| false);
    let names: Vec<&String> = none.as_object().unwrap().keys().collect();
    let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["exp", "rctx", "scope", "sub", "txn"]);
    let mut left: Vec<&String> = none["rctx"].as_object().unwrap().keys().collect();
    left.sort_unstable();
    assert_eq!(left, ["origin", "to", "v"]);
}

/// With every member set, each is gone when, and only when, its name is not kept.
#[test]
fn every_member_can_be_left_out() {
    let context = full();
    let asked = RefCell::new(Vec::new());
    let keep = |name: &'static str| {
        asked.borrow_mut().push(name);
        true
    };
    let whole = shown(&context, &context.scope, &keep);
    assert_eq!(asked.into_inner(), shown_names().collect::<Vec<_>>());
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    for section in ["rctx", "tctx"] {
        for member in whole[section].as_object().unwrap().keys() {
            let name = format!("{section}.{member}");
            if ["rctx.v", "rctx.origin", "rctx.to"].contains(&name.as_str()) {
                continue;
            }
            let without = shown(&context, &context.scope, &|kept| {
                kept != if name == "rctx.ip_src" { "rctx.req_ip" } else { name.as_str() }
            });
            let without: Value = serde_json::from_slice(&without).unwrap();
            assert_eq!(without[section][member], Value::Null, "{name}");
        }
    }
}
