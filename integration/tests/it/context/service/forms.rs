//! The form of an exchange: strict, and every way to refuse it.

use countersign_integration::client::Call;
use countersign_integration::token_service::{Form, TYPES, TokenService, granted, refused};
use countersign_integration::{Lab, outcome};
use serde_json::json;

use super::web;

#[tokio::test]
async fn a_form_with_anything_odd_is_refused_whole() {
    let lab = Lab::new();
    let entry = json!({"subjectTokens": ["access_token", "self_signed"]});
    let service = TokenService::start(&lab, web(&lab, entry)).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    let sound = Form::new("access_token", &subject);
    granted(&service.ask(&lab, &leaf, &sound).await);
    let form = || sound.clone();
    let malformed = [
        form().without("grant_type"),
        form().without("audience"),
        form().without("scope"),
        form().without("subject_token"),
        form().without("subject_token_type"),
        form().without("requested_token_type"),
        form().set("scope", ""),
        form().set("scope", "orders.read  orders.write"),
        form().set("scope", "orders.\"read\""),
        form().add("scope", "orders.read"),
        form().add("subject_token", &subject),
        form().add("actor_token", "x"),
        form().add("client_id", "web"),
        form().add("resource", "https://orders.shop"),
        form().add("request_context", "[]"),
        form().add("request_context", "{\"a\":1,\"a\":2}"),
        form().add("request_details", "nonsense"),
        form().add("csign_as", "user:alice"),
        form().add("csign_consumer", "x"),
    ];
    for form in malformed {
        let reply = service.ask(&lab, &leaf, &form).await;
        refused(&service, &reply, "invalid_request", "form_malformed").await;
    }
    for body in ["", "grant_type", "a=%zz", "scope=%ff"] {
        let call = Call::post("tokens.jobs", "/v1/token", body);
        let call = call.header("content-type", "application/x-www-form-urlencoded");
        let reply = service.send(&lab, &leaf, call).await;
        refused(&service, &reply, "invalid_request", "form_malformed").await;
    }
    let json =
        Call::post("tokens.jobs", "/v1/token", "{}").header("content-type", "application/json");
    let reply = service.send(&lab, &leaf, json).await;
    refused(&service, &reply, "invalid_request", "form_malformed").await;
    let other = form().set("grant_type", "client_credentials");
    let reply = service.ask(&lab, &leaf, &other).await;
    refused(&service, &reply, "unsupported_grant_type", "grant_type").await;
    let other = form().set("requested_token_type", &format!("{TYPES}access_token"));
    let reply = service.ask(&lab, &leaf, &other).await;
    refused(&service, &reply, "invalid_request", "requested_type").await;
    for kind in ["saml2", "refresh_tokens", ""] {
        let reply = service
            .ask(&lab, &leaf, &form().set("subject_token_type", &format!("{TYPES}{kind}")))
            .await;
        refused(&service, &reply, "invalid_request", "subject_type").await;
    }
    // What its entry does not list is another matter: the form is sound.
    let reply = service.ask(&lab, &leaf, &Form::new("jwt", &subject)).await;
    refused(&service, &reply, "unauthorized_client", "subject_not_permitted").await;
}

#[tokio::test]
async fn only_a_post_of_bounded_size_to_the_path_is_served() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let get = service.send(&lab, &leaf, Call::get("tokens.jobs", "/v1/token")).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    for path in ["/", "/v1/token/", "/v1/tokens"] {
        let reply = service.send(&lab, &leaf, Call::post("tokens.jobs", path, "")).await;
        outcome::refused(&service.proxy, &reply, "route_unknown").await;
    }
    let subject = service.access_token("alice", "orders.read");
    let large = Form::new("access_token", &subject).set("request_context", &" ".repeat(16_384));
    let reply = service.ask(&lab, &leaf, &large).await;
    outcome::refused(&service.proxy, &reply, "body_too_large").await;
    granted(&service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await);
}

#[tokio::test]
async fn facts_are_stated_as_the_entry_lists_them_and_have_no_source() {
    let lab = Lab::new();
    let assert = [
        "req_ip",
        "client_id",
        "acr",
        "auth_time",
        "authn",
        "amr",
        "groups",
        "claims",
        "just",
        "m",
        "h",
        "p",
        "params",
    ];
    let service =
        TokenService::start(&lab, web(&lab, json!({"assert": assert, "emit": ["idp"]}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read");
    let sound = Form::new("access_token", &subject);
    let stated = json!({
        "req_ip": "::ffff:192.0.2.7", "client_id": "shop", "acr": "2", "auth_time": 1_795_193_188,
        "authn": "mfa", "amr": ["pwd", "otp"], "groups": ["support"], "claims": {"tenant": "acme"},
        "just": {"kind": "ticket", "ref": "SUP-12", "checked": true, "by": "me", "facts": {"a": "b"}},
        "acct": "not listed", "to": lab.id("shop", "orders"), "origin": "service", "idp": "other",
    });
    let details = json!({"m": "GET", "h": "orders.shop", "p": "/v1/{user}", "params": {"user": "7"}, "parent": "x"});
    let form = sound.clone().set("request_context", &stated.to_string());
    let form = form.set("request_details", &details.to_string());
    let token = granted(&service.ask(&lab, &leaf, &form).await);
    let claims = countersign_integration::token::claims_of(&token);
    let rctx = &claims["rctx"];
    assert_eq!(rctx["req_ip"], "192.0.2.7");
    assert_eq!(rctx.get("ip_src"), None, "what is stated has no source");
    assert_eq!(rctx["amr"], json!(["pwd", "otp"]));
    assert_eq!(rctx["claims"], json!({"tenant": "acme"}));
    let mut just = rctx["just"].clone();
    assert!(just.as_object_mut().unwrap().remove("at").is_some());
    assert_eq!(just, json!({"kind": "ticket", "ref": "SUP-12", "checked": false}));
    assert_eq!((&rctx["origin"], &rctx["idp"]), (&json!("user"), &json!("corp")));
    assert_eq!(rctx["to"], lab.id("shop", "web"));
    assert_eq!(rctx.get("acct"), None);
    assert_eq!(
        claims["tctx"],
        json!({"m": "GET", "h": "orders.shop", "p": "/v1/{user}", "params": {"user": "7"}})
    );
    for odd in [
        json!({"req_ip": "somewhere"}),
        json!({"amr": "pwd"}),
        json!({"auth_time": -1}),
        json!({"claims": []}),
        json!({"just": "SUP-12"}),
        json!({"just": {"kind": "ticket", "ref": "XY-1"}}),
        json!({"just": {"kind": "bug", "ref": "SUP-1"}}),
        json!({"acr": "x".repeat(65)}),
        json!({"claims": {"deep": {"er": 1}}}),
    ] {
        let form = sound.clone().set("request_context", &odd.to_string());
        let reply = service.ask(&lab, &leaf, &form).await;
        refused(&service, &reply, "invalid_request", "context_invalid").await;
    }
}
