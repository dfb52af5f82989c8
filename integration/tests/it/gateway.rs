//! The public side: HTTPS with certificates that change, redirects, preflights, anonymous users.

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::lab::user_claims;
use countersign_integration::pki::Request;
use countersign_integration::{App, Lab, Mesh, Proxy, Tokens, documents, ports, tls, wait};
use serde_json::{Value, json};

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";

async fn start(
    lab: &Lab,
    users: &Tokens,
    change: impl FnOnce(Mesh) -> Mesh,
    config: impl FnOnce(&mut Value),
) -> (Proxy, App) {
    let server = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let id = lab.id("shop", "orders");
    let mesh = lab.gateway_mesh(users);
    let mesh = change(mesh.destination("shop/orders", "orders.shop", server.address, &[&id]));
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec.with(config)).await;
    (gateway, server)
}

#[tokio::test]
async fn https_with_a_certificate_that_is_replaced() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let first = lab.ca.issue(Request::new(&[]).dns(API));
    let (certificate, key) = first.write(lab.folder(), "public");
    let plain = ports::free();
    let (gateway, _server) = start(
        &lab,
        &users,
        |mesh| mesh,
        |config| {
            let listeners = &mut config["listeners"]["gateway"];
            listeners[0]["tls"] = json!({"certificate": certificate, "key": key});
            let https = listeners[0].clone();
            *listeners = json!([https, {"address": plain, "redirectToHttps": true}]);
        },
    )
    .await;
    let alice = users.user(&user_claims("alice"));
    let connect = async |alpn: &[u8]| {
        let stream = client::tls_stream(gateway.gateway(), tls::client(None, &[alpn])).await;
        let stream = stream.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        let conn =
            if alpn == b"h2" { Conn::h2_over(stream).await } else { Conn::h1_over(stream).await };
        (conn.unwrap(), leaf)
    };
    for alpn in [b"h2".as_slice(), b"http/1.1"] {
        let (mut conn, leaf) = connect(alpn).await;
        assert_eq!(leaf, first.chain[0]);
        let reply = conn.send(Call::get(API, PATH).bearer(&alice)).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.seen("x-forwarded-proto").as_deref(), Some("https"));
    }
    let reply = client::call(plain, Call::get(API, "/v1/x?y=1")).await;
    assert_eq!(reply.status, 308);
    assert_eq!(reply.header("location"), Some("https://api.example.com/v1/x?y=1"));

    let second = lab.ca.issue(Request::new(&[]).dns(API));
    second.write(lab.folder(), "public");
    wait::until("the new certificate", async || {
        let (_, leaf) = connect(b"http/1.1").await;
        (leaf == second.chain[0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn preflight_passes_only_where_the_route_says_so() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let (gateway, server) = start(
        &lab,
        &users,
        |mesh| mesh,
        |config| {
            let routes = &mut config["gateway"]["routes"];
            let mut open = routes[0].clone();
            open["path"] = json!({"prefix": "/v1/users"});
            open["corsPreflight"] = json!("pass");
            *routes = json!([routes[0], open]);
        },
    )
    .await;
    let preflight = |path: &str| {
        Call::get(API, path)
            .method(http::Method::OPTIONS)
            .header("origin", "https://shop.example.com")
            .header("access-control-request-method", "GET")
    };
    let reply = client::call(gateway.gateway(), preflight(PATH)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(server.last().header("txn-token"), None);
    assert_eq!(client::call(gateway.gateway(), preflight("/v2")).await.status, 401);
    let plain_options = Call::get(API, PATH).method(http::Method::OPTIONS);
    assert_eq!(client::call(gateway.gateway(), plain_options).await.status, 401);
}

#[tokio::test]
async fn anonymous_users_where_the_document_lets_them_in() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let anonymous =
        |mesh: Mesh| mesh.with_gateway(|spec| spec["user"]["whenMissing"] = json!("anonymous"));
    let (gateway, server) = start(&lab, &users, anonymous, |_| {}).await;
    let reply = client::call(gateway.gateway(), Call::get(API, PATH)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(server.last().header("txn-token").is_some());
    // A token that is there and does not verify is never treated as absent.
    let bad = Call::get(API, PATH).bearer("a.b.c");
    let reply = client::call(gateway.gateway(), bad).await;
    assert!([400, 401].contains(&reply.status));
    assert_eq!(server.seen().len(), 1);
}

/// Every request of one kept connection is somebody of its own.
#[tokio::test]
async fn users_do_not_mix_on_one_connection() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let app = App::mirror();
    let rules = json!([{"name": "users", "effect": "allow", "context": "required",
        "match": {"caller": {"anyOf": [{"namespace": "edge", "serviceAccount": "gateway"}]}}}]);
    let mesh = lab.gateway_mesh(&users);
    let orders = lab.orders_with(&app, &mesh, rules, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = mesh.destination("shop/orders", "orders.shop", orders.inbound(), &[&id]);
    let gateway = lab.gateway_to(&mesh, "shop/orders", |spec| spec).await;
    let names: Vec<String> = (0..20).map(|number| format!("user-{number}")).collect();
    let tokens: Vec<String> = names.iter().map(|name| users.user(&user_claims(name))).collect();
    let Conn::H2(sender) = Conn::h2(gateway.gateway()).await.unwrap() else { panic!("HTTP/2") };
    let mut all = tokio::task::JoinSet::new();
    for round in 0..200 {
        let (name, token) = (names[round % 20].clone(), tokens[round % 20].clone());
        let mut conn = Conn::H2(sender.clone());
        all.spawn(async move {
            let reply = conn.send(Call::get(API, PATH).bearer(&token)).await.unwrap();
            assert_eq!(reply.seen("countersign-user"), Some(name));
        });
    }
    all.join_all().await;
    assert_eq!(app.seen().len(), 200);
}

/// A restart loses nothing that tokens are verified with: their certificates come along.
#[tokio::test]
async fn issuer_restart_keeps_traffic_flowing() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let app = App::mirror();
    let mesh = lab.gateway_mesh(&users);
    let rules = documents::anybody();
    let orders = lab.orders_with(&app, &mesh, rules, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = mesh.destination("shop/orders", "orders.shop", orders.inbound(), &[&id]);
    let mesh = lab.write("gateway-mesh.yaml", &mesh.document());
    let spec = lab.proxy("edge", "gateway").gateway("shop/orders").documents(&[&mesh]);
    let alice = users.user(&user_claims("alice"));
    for _ in 0..3 {
        let gateway = spec.clone().start().await;
        let reply = client::call(gateway.gateway(), Call::get(API, PATH).bearer(&alice)).await;
        assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
        gateway.process.terminate();
        assert_eq!(gateway.process.ended().await.code(), Some(0));
    }
}

/// A body that does not say how long it is, is counted: past the limit it ends.
#[tokio::test]
async fn attack_sends_endless_body() {
    let lab = Lab::new();
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let limit = |config: &mut Value| config["limits"] = json!({"BODY_BYTES_MAX": 100_000});
    let (gateway, _server) = start(&lab, &users, |mesh| mesh, limit).await;
    let alice = users.user(&user_claims("alice"));
    let mut conn = Conn::h2(gateway.gateway()).await.unwrap();
    let (sender, body) = client::stream();
    let call = Call::post(API, "/v1/users/alice/echo", "").bearer(&alice).body(body);
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        while sender.send(Ok(http_body::Frame::data(vec![0; 10_000].into()))).await.is_ok() {
            sent += 10_000;
        }
        sent
    });
    let outcome = conn.send(call).await;
    assert!(outcome.is_err() || outcome.is_ok_and(|reply| reply.status >= 400));
    drop(conn);
    let sent = wait::ends("the flood", flood).await.unwrap();
    assert!(sent < 5_000_000, "{sent} bytes were taken");
}
