//! Contexts find their way through applications that know nothing about them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_integration::client::{self, Call};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::shop::{Plan, Shop};
use countersign_integration::{App, Lab, Proxy, Reply, documents, wait};
use serde_json::{Value, json};

/// A mesh in which `orders` relays what `x-forward` of the request says.
async fn relaying(change: impl FnOnce(&mut Value)) -> (Shop, App) {
    let plan = Plan::default();
    let app = App::relay(plan.outbound, "billing.shop");
    let shop = plan.start(app.address, |spec| spec.with(change)).await;
    (shop, app)
}

async fn ask(shop: &Shop, user: &str, forward: &str) -> Reply {
    let call = shop.get(user, "orders").header("x-forward", forward);
    client::call(shop.gateway.gateway(), call).await
}

/// One call of the app itself.
async fn onward(shop: &Shop, call: Call) -> Reply {
    client::call(shop.orders.outbound(), call).await
}

/// Propagation `token`: the app is given its token and its sidecar takes it back, byte for byte
/// and for the requests of this pod only.
#[tokio::test]
async fn an_app_may_carry_its_token_where_propagation_says_so() {
    let (shop, app) = relaying(|config| {
        config["context"] = json!({"propagation": ["handle", "traceparent", "token"]});
    })
    .await;
    let reply = ask(&shop, "alice", "token").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
    assert_eq!(reply.seen("txn-token"), None, "billing's app is given none");
    assert_eq!(shop.looked_up("token").await, 1.0);
    let given = app.last();
    let token = given.header("txn-token").unwrap().to_owned();
    assert_eq!(token.split('.').count(), 3);
    // The token of another pod's request, one that was changed, and one sent twice.
    let call = || Call::get("billing.shop", "/v1/users/alice/orders");
    let foreign = shop.context("alice");
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let changed = format!("{}{last}", &token[..token.len() - 1]);
    for wrong in [&foreign, &changed] {
        let reply = onward(&shop, call().header("txn-token", wrong)).await;
        refused(&shop.billing, &reply, "token_missing").await;
    }
    let twice = call().header("txn-token", &token).header("txn-token", &token);
    refused(&shop.billing, &onward(&shop, twice).await, "token_missing").await;
    assert_eq!(shop.looked_up("unknown_token").await, 3.0);
    // Its own token with the handle of another request.
    let reply = ask(&shop, "mallory", "handle").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let handle = app.last().header("countersign-context").unwrap().to_owned();
    let both = call().header("txn-token", &token).header("countersign-context", &handle);
    refused(&shop.billing, &onward(&shop, both).await, "token_missing").await;
    assert_eq!(shop.looked_up("mismatch").await, 1.0);
}

/// Without it the app never sees a token, and one that it sends is nobody's.
#[tokio::test]
async fn attack_app_injects_its_users_token_where_it_may_not_carry_one() {
    let (shop, app) = relaying(|_| {}).await;
    assert_eq!(ask(&shop, "alice", "handle").await.status, 200);
    assert_eq!(app.last().header("txn-token"), None);
    let injected = Call::get("billing.shop", "/v1/users/alice/orders");
    let injected = injected.header("txn-token", &shop.context("alice"));
    refused(&shop.billing, &onward(&shop, injected).await, "token_missing").await;
    assert_eq!(shop.looked_up("none").await, 1.0);
}

/// Propagation `none`: the service calls as itself, whatever its app sends along.
#[tokio::test]
async fn calls_carry_no_user_where_propagation_is_none() {
    let (shop, app) = relaying(|config| config["context"] = json!({"propagation": "none"})).await;
    for forward in ["handle", "traceparent", "both", "token"] {
        assert_eq!(ask(&shop, "alice", forward).await.status, 401, "{forward}");
    }
    let denied = || {
        let all = shop.billing.decisions().into_iter();
        all.filter(|record| record["reason"] == "token_missing").count()
    };
    wait::until_true("four refusals", || denied() == 4).await;
    let seen = app.last();
    assert_eq!(seen.header("countersign-user"), Some("alice"), "the app still knows its user");
    assert_eq!(seen.header("countersign-context"), None);
}

/// `why` tells how a call's context was found, or why none was attached; of calls that were let
/// through it keeps a sample.
#[tokio::test]
async fn why_tells_how_a_context_was_found() {
    let (shop, app) = relaying(|_| {}).await;
    ask(&shop, "alice", "handle").await;
    let handle = app.last().header("countersign-context").unwrap().to_owned();
    ask(&shop, "mallory", "no").await;
    let trace = app.last().header("traceparent").unwrap().to_owned();
    let call = || Call::get("billing.shop", "/v1/users/alice/orders");
    let both = || call().header("countersign-context", &handle).header("traceparent", &trace);
    tells(&shop, call, "names no open request").await;
    tells(&shop, || call().header("countersign-context", "gone"), "the handle is unknown").await;
    tells(&shop, both, "belong to requests with different contexts").await;
}

async fn tells(shop: &Shop, call: impl Fn() -> Call, what: &str) {
    wait::until(what, async || {
        onward(shop, call()).await;
        let list = shop.orders.admin("/api/v1/decisions").await.text();
        let list: Value = serde_json::from_str(&list).unwrap();
        let list = list.as_array().cloned().or_else(|| list["decisions"].as_array().cloned());
        for entry in list.unwrap().iter().filter(|entry| entry["direction"] == "outbound") {
            let id = entry["id"].as_str().unwrap();
            let page = shop.orders.admin(&format!("/api/v1/why/{id}?format=text")).await;
            if page.text().contains(what) {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// An index full of open requests gives no handle and no trace, and nobody a wrong context; what
/// ended makes room.
#[tokio::test]
async fn a_full_index_gives_the_app_no_handle() {
    let plan = Plan::default();
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let waiting = Arc::clone(&open);
    let app = App::serving(move |_| {
        let waiting = Arc::clone(&waiting);
        Box::pin(async move {
            waiting.acquire().await?.forget();
            Ok(http::Response::new(client::full("done")))
        })
    });
    let shop = plan.start(app.address, |spec| spec.limit("CONTEXT_INDEX_ENTRIES_MAX", 2)).await;
    let mut requests = Vec::new();
    for number in 1..=3 {
        let call = shop.get(&format!("user-{number}"), "orders");
        let gateway = shop.gateway.gateway();
        requests.push(tokio::spawn(async move { client::call(gateway, call).await }));
        wait::until_true("the request", || app.seen().len() == number).await;
    }
    let handles: Vec<bool> =
        app.seen().iter().map(|seen| seen.header("countersign-context").is_some()).collect();
    assert_eq!(handles, [true, true, false]);
    // The trace id the app sees is not the one others may know: it leads nowhere.
    let trace = app.last().header("traceparent").unwrap().to_owned();
    let call = Call::get("billing.shop", "/v1/users/user-3/orders").header("traceparent", &trace);
    refused(&shop.billing, &onward(&shop, call).await, "token_missing").await;
    let full = ["limit=\"CONTEXT_INDEX_ENTRIES_MAX\""];
    assert_eq!(shop.orders.metric("countersign_limits_hit_total", &full).await, 1.0);
    open.add_permits(4);
    for request in requests {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(ask(&shop, "user-4", "handle").await.status, 200);
    assert!(app.last().header("countersign-context").is_some(), "those in grace made room");
}

/// What an app is told in headers, in front of `orders` with these documents.
async fn told(
    headers: Value,
    claims: Value,
    config: Value,
    token: Value,
) -> (Lab, Proxy, App, Reply) {
    let lab = Lab::new();
    let app = App::mirror();
    let mesh = lab.mesh().with(|spec| spec["context"]["headers"] = headers);
    let mut rules = documents::anybody();
    if !claims.is_null() {
        rules[0]["claims"] = claims;
    }
    let orders = lab.orders_with(&app, &mesh, rules, |spec| {
        spec.with(|own| {
            if !config.is_null() {
                own["context"] = config;
            }
        })
    });
    let orders = orders.await;
    let mut said = lab.gateway.claims(&lab.id("shop", "orders"));
    for (name, value) in token.as_object().unwrap() {
        said["rctx"][name] = value.clone();
    }
    let forged = format!("Hash={};URI=spiffe://lab.test/ns/edge/sa/admin", "0".repeat(64));
    let call = Call::get("orders.shop", "/v1/x").context(&lab.gateway.sign(&said));
    let call = call.header("x-forwarded-client-cert", &forged).header("client-cert", ":AAAA:");
    let reply = lab.call_as_gateway(&orders, call.header("client_cert_chain", ":AAAA:")).await;
    (lab, orders, app, reply)
}

fn decoded(claims: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// `Countersign-Claims` has what the rule that permitted shows of the context, and nothing else.
#[tokio::test]
async fn the_app_reads_the_claims_its_rule_shows() {
    let facts = json!({"groups": ["support", "a,b"], "dev": {"id": "d-1", "src": "idp"}});
    let filter = json!({"rctx": ["groups"]});
    let all = json!([
        "sub",
        "entry",
        "source-ip",
        "groups",
        "device",
        "justification",
        "auth-time",
        "claims"
    ]);
    let (lab, _, _, reply) = told(all, filter, Value::Null, facts.clone()).await;
    let claims = decoded(&reply.seen("countersign-claims").unwrap());
    assert_eq!(claims["sub"], "user:alice");
    assert_eq!(claims["scope"], "orders.read");
    assert_eq!(claims["rctx"]["groups"], json!(["support", "a,b"]));
    for hidden in ["dev", "acct", "idp"] {
        assert_eq!(claims["rctx"][hidden], Value::Null, "{hidden}");
    }
    assert_eq!(reply.seen("countersign-sub").as_deref(), Some("user:alice"));
    assert_eq!(reply.seen("countersign-entry"), Some(lab.id("edge", "gateway")));
    assert_eq!(reply.seen("countersign-groups").as_deref(), Some("support,a%2Cb"));
    assert_eq!(reply.seen("countersign-device").as_deref(), Some("d-1"));
    assert_eq!(reply.seen("countersign-source-ip"), None, "what is not known is not there");
    let (.., reply) = told(json!(["claims"]), Value::Null, Value::Null, facts).await;
    let claims = decoded(&reply.seen("countersign-claims").unwrap());
    assert_eq!(claims["rctx"]["dev"]["id"], "d-1");
    assert_eq!(reply.seen("countersign-groups"), None, "opted in by name only");
}

/// What is not opted in, and what the rule that permitted does not show, is nowhere in the request.
#[tokio::test]
async fn attack_service_reads_claims_it_was_not_given() {
    let facts = json!({"groups": ["support"], "dev": {"id": "d-secret", "src": "idp"}});
    let filter = json!({"rctx": ["groups"]});
    for opted_in in [json!([]), json!(["claims", "groups"])] {
        let (_lab, _, app, _) = told(opted_in, filter.clone(), Value::Null, facts.clone()).await;
        let seen = app.last();
        assert_eq!(seen.header("txn-token"), None);
        for (name, value) in &seen.headers {
            let text = value.to_str().unwrap();
            let plain = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
            let plain = String::from_utf8_lossy(&plain);
            assert!(!text.contains("d-secret") && !plain.contains("d-secret"), "{name}: {text}");
        }
    }
}

/// More than fits is refused and never cut off.
#[tokio::test]
async fn headers_that_do_not_fit_are_refused() {
    let groups: Vec<String> = (0..16).map(|n| format!("{n:0>64}")).collect();
    let facts = json!({"groups": groups});
    let both = json!(["groups", "claims"]);
    let (_lab, orders, app, reply) = told(both, Value::Null, Value::Null, facts).await;
    refused(&orders, &reply, "context_too_large").await;
    assert!(app.seen().is_empty());
}

/// For apps that expect them: the caller's certificate as Envoy and RFC 9440 write it, of this very
/// handshake, whatever the caller wrote under these names.
#[tokio::test]
async fn the_app_reads_its_callers_certificate() {
    let all = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];
    let config = json!({"callerCertificate": all});
    let (lab, orders, _, reply) = told(json!([]), Value::Null, config, json!({})).await;
    allowed(&orders, &reply).await;
    let leaf = lab.gateway.leaf();
    let der = &leaf.chain[0];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let (me, caller) = (lab.id("shop", "orders"), lab.id("edge", "gateway"));
    let xfcc = format!("By={me};Hash={hash};URI={caller}");
    assert_eq!(reply.seen("x-forwarded-client-cert"), Some(xfcc));
    assert_eq!(reply.seen("client-cert"), Some(format!(":{}:", STANDARD.encode(der))));
    let rest: Vec<_> =
        leaf.chain[1..].iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
    let rest = (!rest.is_empty()).then(|| rest.join(", "));
    assert_eq!(reply.seen("client-cert-chain"), rest);
    assert_eq!(reply.seen("client_cert_chain"), None);
}

/// Where nobody asked for them, and of callers without a certificate, there are none.
#[tokio::test]
async fn attack_sends_client_cert_header_to_an_app_that_reads_it() {
    let (.., reply) = told(json!([]), Value::Null, Value::Null, json!({})).await;
    for name in ["x-forwarded-client-cert", "client-cert", "client_cert_chain"] {
        assert_eq!(reply.seen(name), None, "{name}");
    }
    // The app's own call, too, states nothing about certificates to the next one.
    let (shop, _app) = relaying(|_| {}).await;
    let handle = ask(&shop, "alice", "handle").await;
    assert_eq!(handle.status, 200);
    let text =
        "GET /v1/users/alice/orders HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer ";
    let text = format!(
        "{text}{}\r\nX_Forwarded_Client_Cert: URI=x\r\nClient-Cert: :AAAA:\r\nConnection: close\r\n\r\n",
        shop.user("alice")
    );
    let answer = client::raw_tcp(shop.gateway.gateway(), text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for app in [&shop.billing_app, &_app] {
        let seen = app.last();
        let stated = seen.headers.keys().find(|name| name.as_str().contains("client"));
        assert_eq!(stated, None, "{seen:?}");
    }
}
