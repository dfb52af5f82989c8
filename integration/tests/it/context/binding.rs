//! Signed parameters of the edge against the internal call; tokens that count once.

use countersign_integration::client::{self, Call};
use countersign_integration::lab::user_claims;
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::{App, Lab, Proxy, Tokens, tls};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const HOST: &str = "orders.shop";

/// The rule of a service that shows one order of one user: both are those the gateway signed.
const RULE: &str = r#"
name: own-order
effect: allow
match:
  caller: {anyInMesh: true}
  http: {paths: [{template: "/internal/{user}/order"}]}
require:
  params:
    user: {fromPath: {template: "/internal/{user}/order", param: user}}
    order: {fromQuery: order}
"#;

/// What the gateway signs of a request from outside.
const EMIT: &str = r#"
{tctx: [m, p], params: {
  user: {fromPath: {template: "/v1/users/{user}/**", param: user}},
  order: {fromQuery: order}}}
"#;

/// Both stand in the guide, so that it shows what runs here.
#[test]
fn the_guide_shows_these_documents() {
    let guide = include_str!("../../../../docs/context/binding.md");
    for text in [RULE, EMIT] {
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(guide.contains(line.trim_start()), "docs/context/binding.md lacks: {line}");
        }
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

struct Bound {
    lab: Lab,
    app: App,
    orders: Proxy,
}

impl Bound {
    async fn start() -> Bound {
        Bound::with(json!([yaml(RULE)])).await
    }

    async fn with(rules: Value) -> Bound {
        let (lab, app) = (Lab::new(), App::mirror());
        let mesh = lab.mesh();
        let spec = lab.orders_with(&app, &mesh, rules, |spec| {
            spec.with(|config| config["workers"] = json!(2))
        });
        let orders = spec.await;
        Bound { lab, app, orders }
    }

    /// A token whose entry request had these parameters.
    fn token(&self, params: Value) -> String {
        let mut claims = self.lab.gateway.claims(&self.lab.id("shop", "orders"));
        claims["tctx"] = json!({"m": "GET", "params": params});
        self.lab.gateway.sign(&claims)
    }

    async fn mismatch(&self, params: Value, target: &str) {
        let token = self.token(params);
        let reply = self.lab.call_as_gateway(&self.orders, Call::get(HOST, target).context(&token));
        let record = refused(&self.orders, &reply.await, "parameter_mismatch").await;
        assert_eq!(record["stage"], "decide", "{target}");
    }
}

/// A stolen or misled token is worth the one order it was made for.
#[tokio::test]
async fn attack_replays_with_other_parameters() {
    let bound = Bound::start().await;
    let signed = || json!({"user": "42", "order": "7"});
    for target in [
        "/internal/42/order?order=8",
        "/internal/43/order?order=7",
        "/internal/43/order?order=8",
        "/internal/42/order?order=07",
        "/internal/42/order?order=7%20",
        "/internal/42/order?order=",
    ] {
        bound.mismatch(signed(), target).await;
    }
    assert!(bound.app.seen().is_empty(), "a refused request reached the app");
    for target in ["/internal/42/order?order=7", "/internal/%34%32/order?x=1&order=%37"] {
        let call = Call::get(HOST, target).context(&bound.token(signed()));
        let reply = bound.lab.call_as_gateway(&bound.orders, call).await;
        allowed(&bound.orders, &reply).await;
    }
}

/// Also the first of two values is not simply taken: the app may read the other one.
#[tokio::test]
async fn attack_repeats_query_key_to_dodge_binding() {
    let bound = Bound::start().await;
    for query in [
        "order=7&order=8",
        "order=8&order=7",
        "order=7&order=7",
        "order=7&Order=8",
        "order=7&%6Frder=8",
        "order=7&order[]=8",
        "order=7;order=8",
        "x=1;order=8&order=7",
        "order=7&%zz=8",
        "order=7+",
    ] {
        let target = format!("/internal/42/order?{query}");
        bound.mismatch(json!({"user": "42", "order": "7"}), &target).await;
    }
    assert!(bound.app.seen().is_empty(), "a refused request reached the app");
}

/// What is missing on both sides is no agreement, and nothing ends the comparison of the rest.
#[tokio::test]
async fn attack_omits_optional_parameter_to_skip_the_rest() {
    let bound = Bound::start().await;
    for (params, target) in [
        (json!({"user": "42"}), "/internal/42/order"),
        (json!({"user": "42"}), "/internal/42/order?order=7"),
        (json!({"user": "42", "order": "7"}), "/internal/42/order"),
        (json!({"order": "7"}), "/internal/42/order?order=7"),
        (json!({"user": "42"}), "/internal/43/order"),
        (json!({}), "/internal/42/order"),
        (json!({"user": "42", "order": ["7"]}), "/internal/42/order?order=7"),
    ] {
        bound.mismatch(params, target).await;
    }
    let plain = bound.lab.gateway.mint(&bound.lab.id("shop", "orders"));
    let call = Call::get(HOST, "/internal/42/order?order=7").context(&plain);
    let reply = bound.lab.call_as_gateway(&bound.orders, call).await;
    refused(&bound.orders, &reply, "parameter_mismatch").await;
    let call = Call::get(HOST, "/internal/42/order?order=7");
    let reply = bound.lab.call_as_gateway(&bound.orders, call).await;
    refused(&bound.orders, &reply, "token_missing").await;
    assert!(bound.app.seen().is_empty(), "a refused request reached the app");
}

/// The payload of the token a gateway made for a request.
async fn minted(gateway: &Proxy, target: &str, user: &str) -> Value {
    let call = Call::get("api.example.com", target).bearer(user);
    let reply = client::call(gateway.gateway(), call).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let token = reply.seen("txn-token").expect("a token");
    let limits = countersign_ctxtoken::Limits::default();
    let token = countersign_ctxtoken::Unverified::parse(token.as_bytes(), &limits).unwrap();
    serde_json::from_str(token.payload_json()).unwrap()
}

/// An optional parameter that a request does not have is not signed; the rest is, and minting goes
/// on. One that stands there twice is nobody's.
#[tokio::test]
async fn mint_skips_absent_optional_parameter() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let mesh = lab.gateway_mesh(&users).with_gateway(|spec| {
        spec["mint"] = json!([{
            "match": {"http": {"paths": [{"template": "/v1/users/{user}/**"}]}},
            "scope": "orders.read", "emit": yaml(EMIT),
        }]);
    });
    let id = lab.id("shop", "orders");
    let mesh = mesh.destination("shop/orders", "orders.shop", server.address, &[&id]);
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec).await;
    let alice = users.user(&user_claims("alice"));
    for (target, params) in [
        ("/v1/users/42/orders?order=7", json!({"user": "42", "order": "7"})),
        ("/v1/users/42/orders?order=a%26b&x=1", json!({"user": "42", "order": "a&b"})),
        ("/v1/users/42/orders", json!({"user": "42"})),
        ("/v1/users/42/orders?order=7&order=8", json!({"user": "42"})),
        ("/v1/users/a%20b/orders?orders=7", json!({"user": "a b"})),
    ] {
        let payload = minted(&gateway, target, &alice).await;
        assert_eq!(payload["tctx"]["params"], params, "{target}");
    }
    let long = format!("/v1/users/42/orders?order={}", "7".repeat(257));
    let payload = minted(&gateway, &long, &alice).await;
    assert_eq!(payload["tctx"]["params"], json!({"user": "42"}));
}

/// A rule that takes a token once, and one that does not.
fn once_rules() -> Value {
    let rule = |name: &str, path: &str| {
        json!({
            "name": name, "effect": "allow",
            "match": {"caller": {"anyInMesh": true}, "http": {"paths": [{"exact": path}]}},
        })
    };
    let (mut pay, mut refund) = (rule("pay", "/pay"), rule("refund", "/refund"));
    pay["once"] = json!(true);
    refund["once"] = json!(true);
    json!([pay, refund, rule("read", "/read")])
}

/// Whichever worker, connection and spelling of the signature a replay comes by.
#[tokio::test]
async fn attack_replays_token_on_once_route() {
    let bound = Bound::with(once_rules()).await;
    let me = bound.lab.id("shop", "orders");
    let send = |path: &'static str, token: &str| {
        let call = Call::post(HOST, path, "").context(token);
        bound.lab.call_as_gateway(&bound.orders, call)
    };
    let token = bound.lab.gateway.mint(&me);
    allowed(&bound.orders, &send("/pay", &token).await).await;
    for _ in 0..8 {
        // Each on a connection of its own, so that both workers get some.
        refused(&bound.orders, &send("/pay", &token).await, "token_replayed").await;
    }
    // Another rule has its own memory; one that says nothing has none.
    allowed(&bound.orders, &send("/refund", &token).await).await;
    refused(&bound.orders, &send("/refund", &token).await, "token_replayed").await;
    for _ in 0..3 {
        allowed(&bound.orders, &send("/read", &token).await).await;
    }
    // The same `jti` under a fresh signature is the same token.
    let claims = bound.lab.gateway.claims(&me);
    let (one, two) = (bound.lab.gateway.sign(&claims), bound.lab.gateway.sign(&claims));
    assert_ne!(one, two);
    allowed(&bound.orders, &send("/pay", &one).await).await;
    refused(&bound.orders, &send("/pay", &two).await, "token_replayed").await;
    let paid = bound.app.seen().iter().filter(|seen| seen.target.ends_with("/pay")).count();
    assert_eq!(paid, 2);
}

/// Of many at the same moment exactly one gets through.
#[tokio::test]
async fn once_counts_across_workers_under_a_race() {
    let bound = Bound::with(once_rules()).await;
    let token = bound.lab.gateway.mint(&bound.lab.id("shop", "orders"));
    let mut all = JoinSet::new();
    for _ in 0..16 {
        let mut peer = bound.lab.peer(&bound.orders, bound.lab.gateway.leaf()).await;
        for _ in 0..4 {
            let mut conn = peer.share().unwrap();
            let call = Call::post(HOST, "/pay", "").context(&token);
            all.spawn(async move { conn.send(call).await.unwrap().status });
        }
        let call = Call::post(HOST, "/pay", "").context(&token);
        all.spawn(async move { peer.send(call).await.unwrap().status });
    }
    let statuses = all.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 401].contains(status)), "{statuses:?}");
}
