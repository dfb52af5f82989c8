//! Certificates that should not count, on both ends of a connection (T6, T13, T21, T26).

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::{App, Authority, Lab, Leaf, Proxy, tls, wait};
use serde_json::json;

const HOST: &str = "orders.shop";

/// The certificate opens no connection, for this reason; the app never sees a request.
async fn handshake_refused(orders: &Proxy, leaf: Option<&Leaf>, reason: &str) {
    let before = orders.metric("countersign_tls_handshakes_total", &[]).await;
    let config = tls::client(leaf, &[tls::MESH_H2]);
    // With TLS 1.3 the client learns of it with its first read.
    let outcome = async {
        let mut conn = Conn::tls(orders.inbound(), config).await?;
        conn.send(Call::get(HOST, "/")).await
    };
    assert!(outcome.await.is_err(), "{reason}: the request went through");
    let label = format!("result=\"{reason}\"");
    orders.metric_reaches("countersign_tls_handshakes_total", &[&label], 1.0).await;
    let all = orders.metric("countersign_tls_handshakes_total", &[]).await;
    assert!(all > before, "{reason}");
    // The log is written by a thread of its own, a moment after the metric.
    wait::until_true("the reason in the log", || orders.log().contains(reason)).await;
}

#[tokio::test]
async fn attack_presents_two_uri_sans() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let gateway = lab.id("edge", "gateway");
    let two = lab.ca.issue(Request::new(&[&gateway, &lab.id("shop", "web")]));
    handshake_refused(&orders, Some(&two), "bad_san").await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn attack_reuses_path_in_other_domain() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let other = Authority::new("other.test").leaf("edge", "gateway");
    handshake_refused(&orders, Some(&other), "unknown_trust_domain").await;
}

#[tokio::test]
async fn attack_foreign_ca_signs_our_identity() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    // Another authority of the same name: its signature is what tells them apart.
    let forged = Authority::new("lab.test").leaf("edge", "gateway");
    handshake_refused(&orders, Some(&forged), "untrusted_chain").await;
}

#[tokio::test]
async fn attack_foreign_peer_dials_local_listener() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let foreign = lab.ca.issue(Request::new(&["spiffe://other.test/ns/edge/sa/gateway"]));
    handshake_refused(&orders, Some(&foreign), "unknown_trust_domain").await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn attack_comes_without_or_with_a_useless_certificate() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let id = lab.id("edge", "gateway");
    let leaf = |request| lab.ca.issue(request);
    handshake_refused(&orders, None, "no_certificate").await;
    handshake_refused(&orders, Some(&leaf(Request::new(&[&id]).expired())), "expired").await;
    let later = leaf(Request::new(&[&id]).not_yet_valid());
    handshake_refused(&orders, Some(&later), "not_yet_valid").await;
    handshake_refused(&orders, Some(&leaf(Request::new(&[&id]).authority())), "not_a_leaf").await;
    let web = leaf(Request::new(&[]).dns("gateway.edge"));
    handshake_refused(&orders, Some(&web), "bad_san").await;
    assert!(app.seen().is_empty());
}

/// Identities that only look like one that policy knows.
#[tokio::test]
async fn attack_registers_prefix_sibling_identity() {
    let lab = Lab::new();
    let app = App::mirror();
    let rules = json!([{"name": "pay", "effect": "allow", "context": "none", "match":
        {"caller": {"anyOf": [{"namespace": "shop", "serviceAccount": "pay"}]}}}]);
    let orders = lab.orders_with(&app, &lab.mesh(), rules, |spec| spec).await;
    for account in ["payroll", "pa", "pay-", "Pay"] {
        let reply = lab.call_as("shop", account, &orders, Call::get(HOST, "/")).await;
        refused(&orders, &reply, "policy_denied").await;
    }
    let reply = lab.call_as("shop", "pay", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
    for path in ["ns/shop/sa/../sa/pay", "ns/shop/sa/%70ay", "ns/shop//sa/pay"] {
        let leaf = lab.ca.issue(Request::new(&[&format!("spiffe://lab.test/{path}")]));
        handshake_refused(&orders, Some(&leaf), "bad_san").await;
    }
}

/// A file with rubbish where the bundle was: the last good one stays, nothing is opened up.
#[tokio::test]
async fn attack_corrupts_bundle_to_force_fallback() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    lab.write_text("bundle.pem", "no certificate at all\n");
    wait::until_true("the complaint about the bundle", || {
        orders.log().contains("the trust bundle is empty")
    })
    .await;
    let forged = Authority::new("lab.test").leaf("edge", "gateway");
    handshake_refused(&orders, Some(&forged), "untrusted_chain").await;
    let reply = lab.call_as("shop", "web", &orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
}

/// The sidecar of `web` and a server it calls as `orders`, which presents `leaf`.
async fn calls(lab: &Lab, leaf: &Leaf) -> (Proxy, App) {
    let server = App::tls_mirror(tls::server(leaf, &[tls::MESH_H2]));
    let orders = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", HOST, server.address, &[&orders]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    (lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await, server)
}

#[tokio::test]
async fn attack_answers_with_certificate_of_another_workload() {
    let lab = Lab::new();
    let (web, server) = calls(&lab, &lab.ca.leaf("shop", "other")).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    let record = refused(&web, &reply, "server_identity_unexpected").await;
    assert_eq!(record["callee"]["id"], lab.id("shop", "orders"), "{record}");
    assert!(server.seen().is_empty());
    let label = "result=\"unexpected_identity\"";
    assert!(web.metric("countersign_tls_handshakes_total", &[label]).await >= 1.0);
}

/// The address of `orders` now belongs to another pod, which answers truthfully as itself.
#[tokio::test]
async fn attack_takes_over_a_recycled_pod_ip() {
    let lab = Lab::new();
    let (web, server) = calls(&lab, &lab.ca.leaf("batch", "newcomer")).await;
    for _ in 0..3 {
        let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
        refused(&web, &reply, "server_identity_unexpected").await;
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn attack_answers_with_public_certificate() {
    let lab = Lab::new();
    let public = lab.ca.issue(Request::new(&[]).dns(HOST));
    let (web, server) = calls(&lab, &public).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    refused(&web, &reply, "server_identity_unexpected").await;
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn attack_answers_with_an_ended_certificate() {
    let lab = Lab::new();
    let orders = lab.id("shop", "orders");
    let ended = lab.ca.issue(Request::new(&[&orders]).expired());
    let (web, server) = calls(&lab, &ended).await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    refused(&web, &reply, "server_identity_unexpected").await;
    assert!(server.seen().is_empty());
}

/// A server that breaks the handshake and then waits for a plaintext retry waits in vain.
#[tokio::test]
async fn attack_answers_plaintext_after_failed_handshake() {
    let lab = Lab::new();
    let plain = App::mirror();
    let orders = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", HOST, plain.address, &[&orders]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
    let reply = client::call(web.outbound(), Call::get(HOST, "/")).await;
    refused(&web, &reply, "upstream_failed").await;
    assert!(plain.seen().is_empty(), "the request was sent in plaintext");
}
