//! The token service, RFC 8693.

mod attacks;
mod clients;
mod forms;
mod paths;

use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::allowed;
use countersign_integration::token::claims_of;
use countersign_integration::token_service::{self, Form, TokenService, granted, refused};
use countersign_integration::{App, Lab, Leaf, Proxy, Reply, Tokens, documents, ports, wait};
use serde_json::{Value, json};

const HOST: &str = "orders.shop";

/// One entry for `shop/web`, with everything that a test does not care about.
fn web(lab: &Lab, change: Value) -> Value {
    let mut entry = json!({
        "peer": lab.id("shop", "web"),
        "subjectTokens": ["access_token", "id_token", "jwt", "txn_token", "self_signed"],
        "origins": ["user", "batch"], "scopes": ["orders.*"], "rate": 1000,
    });
    for (name, value) in change.as_object().unwrap() {
        entry[name] = value.clone();
    }
    json!([entry])
}

/// A sidecar that trusts what the service issues.
async fn orders(lab: &Lab, service: &TokenService, app: &App) -> Proxy {
    let required = json!([{
        "name": "with-context", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
    }]);
    let access = lab.write("access.yaml", &documents::access("shop", required));
    let spec = lab.proxy("shop", "orders").inbound(app.address);
    spec.documents(&[&service.mesh, &access]).start().await
}

/// What `orders` sees of a call that carries this token, from its holder.
async fn used(lab: &Lab, orders: &Proxy, leaf: &Leaf, token: &str) -> Reply {
    let call = Call::get(HOST, "/v1/orders").context(token);
    lab.peer(orders, leaf).await.send(call).await.unwrap()
}

#[tokio::test]
async fn a_users_token_is_exchanged_and_works_for_whoever_asked() {
    let lab = Lab::new();
    let service =
        TokenService::start(&lab, web(&lab, json!({"emit": ["idp", "acct", "groups"]}))).await;
    let app = App::mirror();
    let orders = orders(&lab, &service, &app).await;
    let leaf = lab.ca.leaf("shop", "web");
    let subject = service.access_token("alice", "orders.read orders.write");
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
    let token = granted(&reply);
    assert_eq!(reply.json().get("scope"), None, "what was asked for is not repeated");
    let me = lab.id("shop", "web");
    let claims = claims_of(&token);
    assert_eq!(claims["iss"], lab.id("jobs", "issuer"));
    assert_eq!(claims["aud"], "lab.test");
    assert_eq!(claims["sub"], "user:alice");
    assert_eq!(claims["scope"], "orders.read");
    assert_eq!(claims["req_wl"], me);
    let rctx =
        json!({"v": 1, "origin": "user", "to": me, "idp": "corp", "acct": "alice", "groups": []});
    assert_eq!(claims["rctx"], rctx);
    assert_eq!(claims.get("act"), None);

    let seen = used(&lab, &orders, &leaf, &token).await;
    allowed(&orders, &seen).await;
    assert_eq!(seen.seen("countersign-user").as_deref(), Some("alice"));
    assert_eq!(seen.seen("countersign-origin").as_deref(), Some("user"));

    let record = service.proxy.record(&reply.decision()).await;
    assert_eq!(
        (&record["kind"], &record["decision"]),
        (&json!("issue"), &json!("allow")),
        "{record}"
    );
    assert_eq!(record["peer"]["id"], me, "{record}");
    assert_eq!(record["txn"], claims["txn"], "{record}");
    assert_eq!(record["jti"], claims["jti"], "{record}");
    assert!(!record.to_string().contains(&token));
    service.proxy.metric_reaches("countersign_context_minted_total", &["result=\"ok\""], 1.0).await;
}

#[tokio::test]
async fn a_workload_gets_a_token_for_itself() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let app = App::mirror();
    let orders = orders(&lab, &service, &app).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let statement = service.statement(&me, &leaf);
    let token = granted(&service.ask(&lab, &leaf, &Form::new("self_signed", &statement)).await);
    let claims = claims_of(&token);
    assert_eq!(claims["sub"], format!("svc:{me}"));
    assert_eq!(claims["rctx"], json!({"v": 1, "origin": "batch", "to": me}));
    let seen = used(&lab, &orders, &leaf, &token).await;
    allowed(&orders, &seen).await;
    assert_eq!(seen.seen("countersign-user"), None);
    assert_eq!(seen.seen("countersign-origin").as_deref(), Some("batch"));
}

#[tokio::test]
async fn a_statement_nobody_signed_counts_for_the_subjects_that_are_listed() {
    let lab = Lab::new();
    let entry =
        json!({"subjectTokens": ["unsigned_json"], "subjects": ["user:corp/*", "user:alice"]});
    let service = TokenService::start(&lab, web(&lab, entry)).await;
    let leaf = lab.ca.leaf("shop", "web");
    let ask = async |statement: &str| {
        service.ask(&lab, &leaf, &Form::new("unsigned_json", statement)).await
    };
    let claims = claims_of(&granted(&ask(r#"{"sub":"user:alice"}"#).await));
    assert_eq!((&claims["sub"], &claims["rctx"]["idp"]), (&json!("user:alice"), &json!("corp")));
    refused(&service, &ask(r#"{"sub":"user:bob"}"#).await, "invalid_request", "as_not_permitted")
        .await;
    for malformed in [
        r#"{"sub":"alice"}"#,
        r#"{"sub":"user:alice","sub":"user:alice"}"#,
        "[]",
        "{}",
        r#"{"sub":"user:alice","aud":"x"}"#,
        r#"{"sub":["user:alice"]}"#,
    ] {
        refused(&service, &ask(malformed).await, "invalid_request", "subject_invalid").await;
    }
}

#[tokio::test]
async fn a_token_is_replaced_within_its_transaction() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({"assert": ["authn", "acct"]}))).await;
    let app = App::mirror();
    let orders = orders(&lab, &service, &app).await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let old = lab.gateway.mint(&me);
    let before = claims_of(&old);
    let form = Form::new("txn_token", &old).set("scope", "orders.read orders.write");
    let facts = r#"{"authn":"mfa","acct":"somebody else","req_ip":"192.0.2.1"}"#;
    let reply = service.ask(&lab, &leaf, &form.set("request_context", facts)).await;
    let token = granted(&reply);
    assert_eq!(reply.json()["scope"], "orders.read", "less than asked for is said");
    let after = claims_of(&token);
    for kept in ["txn", "sub", "aud"] {
        assert_eq!(before[kept], after[kept], "{kept}");
    }
    assert_ne!(before["jti"], after["jti"]);
    assert_eq!(after["scope"], "orders.read");
    assert_eq!((&after["req_wl"], &after["rctx"]["to"]), (&json!(me), &json!(me)));
    // What was there stays; what was not there is added if it may be; the rest is dropped.
    assert_eq!(after["rctx"]["acct"], "alice");
    assert_eq!(after["rctx"]["authn"], "mfa");
    assert_eq!(after["rctx"].get("req_ip"), None);
    assert_eq!(after["tctx"]["req_chain"], json!([before["req_wl"]]));
    assert_eq!(after["tctx"]["parent"], token_service::sha256(&old));
    allowed(&orders, &used(&lab, &orders, &leaf, &token).await).await;

    // Each replacement is remembered in the token, so they can be counted: three by default.
    let mut token = token;
    for _ in 0..2 {
        token = granted(&service.ask(&lab, &leaf, &Form::new("txn_token", &token)).await);
    }
    assert_eq!(claims_of(&token)["tctx"]["req_chain"], json!([before["req_wl"], me, me]));
    let reply = service.ask(&lab, &leaf, &Form::new("txn_token", &token)).await;
    refused(&service, &reply, "invalid_request", "replaced_too_often").await;
}

#[tokio::test]
async fn a_gateway_serves_tokens_beside_its_own_work() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "none", "login");
    let app = App::mirror();
    let (at_orders, at_tokens) = (ports::free(), ports::free());
    let mesh = lab
        .gateway_mesh(&users)
        .destination("shop/orders", HOST, at_orders, &[&lab.id("shop", "orders")])
        .with_gateway(|spec| {
            spec["tokenService"] =
                json!({"providers": ["corp"], "requesters": web(&lab, json!({}))});
        });
    let mesh = lab.write("mesh.yaml", &mesh.document());
    let jobs = lab.write("edge.yaml", &documents::access("edge", documents::anybody()));
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let spec = lab.proxy("shop", "orders").inbound_at(at_orders, app.address);
    let _orders = spec.documents(&[&mesh, &access]).start().await;
    let gateway =
        lab.proxy("edge", "gateway").inbound_at(at_tokens, at_tokens).gateway("shop/orders");
    let gateway = gateway
        .with(|config| config["app"] = json!([{"port": at_tokens.port(), "service": "issuer"}]))
        .documents(&[&mesh, &jobs])
        .start()
        .await;
    let mut claims = user_claims("alice");
    claims["scope"] = json!("orders.read");
    let alice = users.user(&claims);
    let get = |path: &str| Call::get("api.example.com", path).bearer(&alice);
    let reply = client::call(gateway.gateway(), get("/v1/users/alice/orders")).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));

    let leaf = lab.ca.leaf("shop", "web");
    let form = Form::new("access_token", &alice);
    let token = granted(&lab.peer(&gateway, &leaf).await.send(form.call()).await.unwrap());
    assert_eq!(claims_of(&token)["iss"], lab.id("edge", "gateway"));
    // The public listener knows no such path: it is a request like any other.
    let call = form.call();
    let call = Call { host: "api.example.com".to_owned(), ..call };
    let public = client::call(gateway.gateway(), call.bearer(&alice)).await;
    assert_eq!(public.status, 403, "{}", public.text());
    assert!(!public.text().contains("access_token"));
}

#[tokio::test]
async fn who_is_taken_off_the_list_gets_no_more_tokens() {
    let lab = Lab::new();
    let service = TokenService::start(&lab, web(&lab, json!({}))).await;
    let leaf = lab.ca.leaf("shop", "web");
    let ask = async || {
        let subject = service.access_token("alice", "orders.read");
        service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await
    };
    granted(&ask().await);
    let mut other = web(&lab, json!({}));
    other[0]["peer"] = json!(lab.id("shop", "other"));
    lab.write("tokens.yaml", &token_service::policy(&other));
    service.proxy.reload();
    let reply = wait::until("the new list", || async {
        let reply = ask().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&service, &reply, "unauthorized_client", "requester_unlisted").await;
}

#[tokio::test]
async fn without_keys_of_the_provider_it_is_to_be_tried_again() {
    let lab = Lab::new();
    let policy = token_service::policy(&web(&lab, json!({})));
    let nowhere = ports::free();
    let service = TokenService::start_with(
        &lab,
        &policy,
        |mesh| {
            mesh.with(|spec| {
                spec["identityProviders"][0]["spec"]["issuer"] = json!(format!("http://{nowhere}"));
                spec["identityProviders"][0]["spec"]["keys"] =
                    json!({"discovery": {"allowedHosts": ["127.0.0.1"]}});
            })
        },
        |spec| spec,
    )
    .await;
    let mut claims = user_claims("alice");
    claims["iss"] = json!(format!("http://{nowhere}"));
    let subject = service.users.user(&claims);
    let leaf = lab.ca.leaf("shop", "web");
    let reply = service.ask(&lab, &leaf, &Form::new("access_token", &subject)).await;
    refused(&service, &reply, "temporarily_unavailable", "keys_missing").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    // Nobody else is affected.
    let statement = service.statement(&lab.id("shop", "web"), &leaf);
    granted(&service.ask(&lab, &leaf, &Form::new("self_signed", &statement)).await);
}

#[tokio::test]
async fn a_revoked_user_gets_no_token() {
    let lab = Lab::new();
    let kinds = json!(["access_token", "txn_token", "unsigned_json"]);
    let entry = json!({"subjectTokens": kinds, "subjects": ["user:*"]});
    let policy = token_service::policy(&web(&lab, entry));
    let revocation = lab.revoke(json!({}));
    let mut files = vec![json!(revocation)];
    let service = TokenService::start_with(
        &lab,
        &policy,
        |mesh| mesh,
        |spec| {
            spec.with(|config| {
                config["documents"]["files"].as_array_mut().unwrap().append(&mut files);
            })
        },
    )
    .await;
    let (leaf, me) = (lab.ca.leaf("shop", "web"), lab.id("shop", "web"));
    let subject = service.access_token("alice", "orders.read");
    let old = lab.gateway.mint(&me);
    let ask =
        async |kind: &str, subject: &str| service.ask(&lab, &leaf, &Form::new(kind, subject)).await;
    granted(&ask("access_token", &subject).await);
    granted(&ask("txn_token", &old).await);
    lab.revoke(json!({"users": [{"provider": "corp", "id": "alice", "issuedBefore": "2125-01-01T00:00:00Z"}]}));
    service.proxy.reload();
    let reply = wait::until("the revocation", || async {
        let reply = ask("access_token", &subject).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&service, &reply, "invalid_request", "subject_revoked").await;
    refused(&service, &ask("txn_token", &old).await, "invalid_request", "subject_revoked").await;
    // Nor by naming her.
    let named = ask("unsigned_json", r#"{"sub":"user:alice"}"#).await;
    refused(&service, &named, "invalid_request", "subject_revoked").await;
    granted(&ask("unsigned_json", r#"{"sub":"user:bob"}"#).await);
    granted(&ask("access_token", &service.access_token("bob", "orders.read")).await);
}
