//! Federated trust domains: a foreign peer gets in only where a document and a listener name its
//! domain, bundles are never pooled, no context of ours leaves, and bundle endpoints are real ones:
//! SPIRE servers by `https_spiffe` and `https_web`.

use std::path::{Path, PathBuf};

use countersign_integration::client::{self, Call, Conn, Reply};
use countersign_integration::components::spire::{Profile, Server, ServerSpec};
use countersign_integration::documents::{self, Mesh};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::pki::Request;
use countersign_integration::token::Tokens;
use countersign_integration::{App, Authority, Lab, Leaf, Proxy, lab, ports, tls, wait};
use serde_json::{Value, json};

const PARTNER: &str = "partner.test";
const HOST: &str = "orders.shop";
const HANDSHAKES: &str = "countersign_tls_handshakes_total";

/// The mesh of the lab, federated with the partner in this way.
fn federated(lab: &Lab, bundle: &Value) -> Mesh {
    let entry = json!([{"trustDomain": PARTNER, "bundle": bundle}]);
    lab.mesh().with(|spec| spec["federation"] = entry)
}

/// Everybody of our mesh, and `ns/shop/sa/web` of the partner.
fn rules() -> Value {
    let mut rules = documents::anybody();
    rules.as_array_mut().unwrap().push(json!({
        "name": "partner", "effect": "allow", "context": "none",
        "match": {"caller": {"anyOf": [{"spiffeId": format!("spiffe://{PARTNER}/ns/shop/sa/web")}]}},
    }));
    rules
}

/// A sidecar of ours whose listener names these domains.
async fn orders(lab: &Lab, app: &App, bundle: &Value, names: &[&str]) -> Proxy {
    lab.orders_with(app, &federated(lab, bundle), rules(), |spec| {
        let spec = spec.limit("BUNDLE_REFRESH_S_MIN", 1).limit("BUNDLE_REFRESH_S_MAX", 1);
        spec.with(|config| {
            if !names.is_empty() {
                config["listeners"]["inbound"][0]["trustDomains"] = json!(names);
            }
        })
    })
    .await
}

/// One request with this certificate; what went wrong, if it was the handshake.
async fn ask(proxy: &Proxy, leaf: &Leaf, call: Call) -> anyhow::Result<Reply> {
    let mut conn = Conn::tls(proxy.inbound(), tls::client(Some(leaf), &[tls::MESH_H2])).await?;
    conn.send(call).await
}

async fn get(proxy: &Proxy, leaf: &Leaf) -> anyhow::Result<Reply> {
    ask(proxy, leaf, Call::get(HOST, "/")).await
}

/// Waits until a certificate opens connections.
async fn until_let_in(proxy: &Proxy, leaf: &Leaf) -> Reply {
    wait::until("the foreign certificate to count", async || {
        get(proxy, leaf).await.ok().filter(|reply| reply.status == 200)
    })
    .await
}

/// The certificate opens no connection, for this reason.
async fn handshake_refused(proxy: &Proxy, leaf: &Leaf, reason: &str) {
    let label = format!("result=\"{reason}\"");
    let before = proxy.metric(HANDSHAKES, &[&label]).await;
    let answer = get(proxy, leaf).await;
    assert!(answer.is_err(), "{reason}: {answer:?}");
    proxy.metric_reaches(HANDSHAKES, &[&label], before + 1.0).await;
}

#[tokio::test]
async fn a_foreign_peer_gets_in_where_its_domain_is_named() {
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[PARTNER]).await;
    let reply = get(&orders, &partner.leaf("shop", "web")).await.unwrap();
    let record = allowed(&orders, &reply).await;
    assert_eq!(record["rule"], "partner", "{record}");
    let web = partner.id("shop", "web");
    assert_eq!(record["peer"]["id"], web.as_str(), "{record}");
    assert_eq!(app.last().header("countersign-caller"), Some(web.as_str()));

    // `anyInMesh` is our mesh; the same namespace and name elsewhere is somebody else.
    let other = get(&orders, &partner.leaf("shop", "other")).await.unwrap();
    refused(&orders, &other, "policy_denied").await;
    assert_eq!(get(&orders, &lab.ca.leaf("shop", "other")).await.unwrap().status, 200);
    let of_partner = format!("peer_namespace=\"{PARTNER}\"");
    orders.metric_reaches("countersign_requests_total", &[&of_partner], 2.0).await;
}

/// The bundle is there, the documents name the domain, and this listener does not.
#[tokio::test]
async fn attack_federated_peer_dials_listener_that_does_not_name_it() {
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[]).await;
    handshake_refused(&orders, &partner.leaf("shop", "web"), "unknown_trust_domain").await;
    assert!(app.seen().is_empty());
}

/// Our own source delivers a bundle of a domain that no document names: it is not looked at.
#[tokio::test]
async fn attack_presents_certificate_of_a_domain_nobody_named() {
    let (lab, app) = (Lab::new(), App::mirror());
    let (partner, stranger) = (Authority::new(PARTNER), Authority::new("stranger.test"));
    lab.write("map.json", &bundle_map(&[&lab.ca, &partner, &stranger]));
    let mesh = federated(&lab, &json!({"source": true}));
    let orders = lab
        .orders_with(&app, &mesh, rules(), |spec| {
            spec.with(|config| {
                config["identity"]["source"]["files"]["bundle"] = json!("map.json");
                let names = json!([PARTNER, "stranger.test"]);
                config["listeners"]["inbound"][0]["trustDomains"] = names;
            })
        })
        .await;
    assert_eq!(get(&orders, &partner.leaf("shop", "web")).await.unwrap().status, 200);
    handshake_refused(&orders, &stranger.leaf("shop", "web"), "unknown_trust_domain").await;
    wait::until_true("the warning", || orders.log().contains("P011")).await;
}

fn bundle_map(authorities: &[&Authority]) -> Value {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let mut map = json!({"trust_domains": {}});
    for ca in authorities {
        let key = json!({"use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(ca.der())]});
        map["trust_domains"][ca.domain()] = json!({"keys": [key]});
    }
    map
}

/// Each authority vouches for its own domain only, however many are known.
#[tokio::test]
async fn attack_partner_ca_signs_our_identity() {
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[PARTNER]).await;
    let ours = partner.issue(Request::new(&[&lab.id("edge", "gateway")]));
    handshake_refused(&orders, &ours, "untrusted_chain").await;
    let theirs = lab.ca.issue(Request::new(&[&partner.id("shop", "web")]));
    handshake_refused(&orders, &theirs, "untrusted_chain").await;
    assert!(app.seen().is_empty());
}

/// A token of the partner's is for the partner's mesh; one of ours in foreign hands is stolen.
#[tokio::test]
async fn attack_federated_peer_presents_tokens() {
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[PARTNER]).await;
    let web = partner.leaf("shop", "web");
    let foreign = Tokens::of(&partner, "edge", "gateway").mint(&partner.id("shop", "web"));
    let reply = ask(&orders, &web, Call::get(HOST, "/").context(&foreign)).await.unwrap();
    refused(&orders, &reply, "audience_wrong").await;
    let stolen = lab.gateway.mint(&lab.id("shop", "orders"));
    let reply = ask(&orders, &web, Call::get(HOST, "/").context(&stolen)).await.unwrap();
    refused(&orders, &reply, "presenter_refused").await;
    let reply = lab.call_as_gateway(&orders, Call::get(HOST, "/").context(&stolen)).await;
    assert_eq!(reply.status, 200, "it was a good token");
    assert_eq!(app.seen().len(), 1);
}

/// Outbound: the written identity of the partner and nobody else answers, and no context of ours
/// goes there; to our own mesh it does.
#[tokio::test]
async fn attack_collects_context_at_federated_domain() {
    let (lab, partner) = (Lab::new(), Authority::new(PARTNER));
    partner.write_bundle(lab.folder(), "partner");
    let server = |leaf: &Leaf| App::tls_mirror(tls::server(leaf, &[tls::MESH_H2]));
    let (theirs, ours) =
        (server(&partner.leaf("shop", "api")), server(&lab.ca.leaf("shop", "billing")));
    let out = ports::free();
    let mesh = federated(&lab, &json!({"file": "partner.pem"}))
        .destination("shop/api", "api.partner", theirs.address, &[&partner.id("shop", "api")])
        .destination("shop/billing", "billing.shop", ours.address, &[&lab.id("shop", "billing")]);
    for (host, server, carries) in [("api.partner", &theirs, false), ("billing.shop", &ours, true)]
    {
        let app = App::relay(out, host);
        let orders = lab.orders_with(&app, &mesh, rules(), |spec| spec.outbound_at(out)).await;
        let token = lab.gateway.mint(&lab.id("shop", "orders"));
        let call = Call::get(HOST, "/").context(&token).header("x-forward", "both");
        let reply = lab.call_as_gateway(&orders, call).await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.text());
        let seen = server.last();
        assert_eq!(seen.header("txn-token").is_some(), carries, "{host}: {seen:?}");
        assert_eq!(seen.header("countersign-hops").is_some(), carries, "{host}: {seen:?}");
        for never in ["countersign-context", "countersign-certs", "countersign-user"] {
            assert_eq!(seen.header(never), None, "{host}");
        }
        let looked =
            orders.metric("countersign_context_lookup_total", &["result=\"handle\""]).await;
        assert_eq!(looked, 1.0, "{host}: the context was there to be attached");
    }
}

#[tokio::test]
async fn attack_answers_for_the_partner_with_our_identity() {
    let (lab, partner) = (Lab::new(), Authority::new(PARTNER));
    partner.write_bundle(lab.folder(), "partner");
    let expected = partner.id("shop", "api");
    for leaf in [
        lab.ca.leaf("shop", "api"),
        partner.leaf("shop", "other"),
        lab.ca.issue(Request::new(&[&expected])),
    ] {
        let server = App::tls_mirror(tls::server(&leaf, &[tls::MESH_H2]));
        let mesh = federated(&lab, &json!({"file": "partner.pem"}));
        let mesh = mesh.destination("shop/api", "api.partner", server.address, &[&expected]);
        let mesh = lab.write("web-mesh.yaml", &mesh.document());
        let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]).start().await;
        let reply = client::call(web.outbound(), Call::get("api.partner", "/")).await;
        refused(&web, &reply, "server_identity_unexpected").await;
        assert!(server.seen().is_empty());
    }
}

/// The entry is taken out of the mesh: the partner is cut off at once, whatever listeners name.
#[tokio::test]
async fn losing_the_bundle_loses_the_peers() {
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[PARTNER]).await;
    let (web, own) = (partner.leaf("shop", "web"), lab.ca.leaf("shop", "web"));
    let mut foreign = lab.peer(&orders, &web).await;
    let mut kept = lab.peer(&orders, &own).await;
    assert_eq!(foreign.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    assert_eq!(kept.send(Call::get(HOST, "/")).await.unwrap().status, 200);

    // Rubbish where the bundle was: the last good one stays.
    lab.write_text("partner.pem", "no certificate\n");
    wait::until_true("the complaint", || orders.log().contains("FD-04")).await;
    assert_eq!(foreign.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    until_let_in(&orders, &web).await;

    lab.write("mesh.yaml", &lab.mesh().document());
    wait::until_true("the end of the foreign connection", || foreign.is_closed()).await;
    handshake_refused(&orders, &web, "unknown_trust_domain").await;
    assert_eq!(kept.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    let ended = ["reason=\"revoked\""];
    orders.metric_reaches("countersign_connections_ended_total", &ended, 1.0).await;
    let page = orders.metrics().await;
    assert!(!page.contains(&format!("trust_domain=\"{PARTNER}\"")), "{page}");
}

/// A workload of the partner's, with a certificate from its SPIRE server.
async fn minted(server: &Server, name: &str) -> Leaf {
    let folder = server.folder().join(format!("minted-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    let id = server.id("/ns/shop/sa/web");
    let shown = folder.display().to_string();
    server.run(&["x509", "mint", "-spiffeID", &id, "-ttl", "10m", "-write", &shown]).await;
    Leaf::read(&folder.join("svid.pem"), &folder.join("key.pem")).unwrap()
}

async fn partner_spire(test: &str, profile: Profile) -> Option<Server> {
    let spec = ServerSpec { endpoint: Some(profile), ..ServerSpec::new(PARTNER) };
    Server::start(test, spec).await
}

async fn fetches(proxy: &Proxy, result: &str) -> f64 {
    let labels = [format!("trust_domain=\"{PARTNER}\""), format!("result=\"{result}\"")];
    proxy.metric("countersign_federation_fetches_total", &[&labels[0], &labels[1]]).await
}

/// A SPIRE server as the partner: its first bundle comes by hand, all others from its endpoint,
/// through an outage and a rotation of its root.
#[tokio::test]
async fn a_spire_server_gives_out_its_bundle_by_https_spiffe() {
    let test = "a_spire_server_gives_out_its_bundle_by_https_spiffe";
    let Some(mut server) = partner_spire(test, Profile::Spiffe).await else { return };
    let (lab, app) = (Lab::new(), App::mirror());
    lab.write_text("first.json", &server.bundle("spiffe").await);
    let endpoint = json!({"endpoint": {
        "url": server.endpoint_url(), "profile": "https_spiffe",
        "endpointId": server.id("/spire/server"), "initialBundle": {"file": "first.json"},
    }});
    let orders = orders(&lab, &app, &endpoint, &[PARTNER]).await;
    let old = minted(&server, "old").await;
    until_let_in(&orders, &old).await;
    let confirmed = async |more: f64| {
        let before = fetches(&orders, "unchanged").await;
        wait::until("fetches", async || {
            (fetches(&orders, "unchanged").await >= before + more).then_some(())
        })
        .await;
    };
    confirmed(2.0).await;
    let domain = format!("trust_domain=\"{PARTNER}\"");
    let age = orders.metric("countersign_trust_age_seconds", &[&domain]).await;
    assert!(age <= 60.0, "{age}");

    server.stop().await;
    wait::until("failed fetches", async || (fetches(&orders, "failed").await >= 2.0).then_some(()))
        .await;
    until_let_in(&orders, &old).await;
    wait::until_true("the reason", || orders.log().contains("cannot connect to")).await;
    server.start_again().await;
    confirmed(2.0).await;

    let mut held = lab.peer(&orders, &old).await;
    assert_eq!(held.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    let (first, second) = rotate_root(&server, &orders).await;
    let new = minted(&server, "new").await;
    until_let_in(&orders, &new).await;
    assert_eq!(held.send(Call::get(HOST, "/")).await.unwrap().status, 200, "both count: {second}");
    let gone = ["localauthority", "x509", "taint", "-authorityID", &first];
    server.run(&gone).await;
    server.run(&["localauthority", "x509", "revoke", "-authorityID", &first]).await;
    wait::until_true("the old root's connection to end", || held.is_closed()).await;
    handshake_refused(&orders, &old, "untrusted_chain").await;
    until_let_in(&orders, &new).await;
}

/// Prepares another root, waits until we have it, and has it sign; the ids of both.
async fn rotate_root(server: &Server, orders: &Proxy) -> (String, String) {
    let shown = server.run(&["localauthority", "x509", "show", "-output", "json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let first = shown["active"]["authority_id"].as_str().unwrap().to_owned();
    let changed = fetches(orders, "changed").await;
    let told = server.run(&["localauthority", "x509", "prepare", "-output", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    let second = told["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    wait::until("the prepared root", async || {
        (fetches(orders, "changed").await > changed).then_some(())
    })
    .await;
    server.run(&["localauthority", "x509", "activate", "-authorityID", &second]).await;
    (first, second)
}

/// The same by host name, with roots of our own choice and none of the system's.
#[tokio::test]
async fn a_spire_server_gives_out_its_bundle_by_https_web() {
    let (lab, app, web) = (Lab::new(), App::mirror(), Authority::new("web.test"));
    let (certificate, key) =
        web.issue(Request::new(&[]).dns("localhost")).write(lab.folder(), "www");
    web.write_bundle(lab.folder(), "web-roots");
    let test = "a_spire_server_gives_out_its_bundle_by_https_web";
    let Some(server) = partner_spire(test, Profile::Web { certificate, key }).await else { return };
    let url = server.endpoint_url().replace("127.0.0.1", "localhost");
    let endpoint = |roots: &str| {
        let endpoint = json!({"url": url, "profile": "https_web", "roots": {"file": roots}});
        json!({"endpoint": endpoint})
    };
    let orders = orders(&lab, &app, &endpoint("web-roots.pem"), &[PARTNER]).await;
    let leaf = minted(&server, "web").await;
    until_let_in(&orders, &leaf).await;

    // Other roots: the endpoint begins anew, and what was fetched before is gone with it.
    let other = Authority::new("else.test").write_bundle(lab.folder(), "other-roots");
    let mesh = federated(&lab, &endpoint(other.to_str().unwrap()));
    lab.write("mesh.yaml", &mesh.document());
    wait::until_true("the reason", || {
        orders.log().contains("the server's certificate is not signed by an authority of")
    })
    .await;
    wait::until("the peers to be gone", async || get(&orders, &leaf).await.is_err().then_some(()))
        .await;
    let (status, ready) = orders.ready().await.unwrap();
    assert_eq!(status, 200, "{ready}");
    let warned = format!("no bundle of the federated trust domain {PARTNER}");
    assert!(ready.to_string().contains(&warned), "{ready}");
}

/// Two meshes, a sidecar in each, both ways named: requests go through under load while the
/// partner's own certificates rotate.
#[tokio::test]
async fn two_meshes_talk_sidecar_to_sidecar() {
    use countersign_integration::load::{Load, Protocol};
    let (lab, partner, app) = (Lab::new(), Authority::new(PARTNER), App::mirror());
    partner.write_bundle(lab.folder(), "partner");
    let orders = orders(&lab, &app, &json!({"file": "partner.pem"}), &[PARTNER]).await;
    let entry = json!([{"trustDomain": lab::DOMAIN, "bundle": {"file": "bundle.pem"}}]);
    let ours = lab.id("shop", "orders");
    let mesh = Mesh::new(PARTNER).with(|spec| spec["federation"] = entry).destination(
        "shop/orders",
        HOST,
        orders.inbound(),
        &[&ours],
    );
    let mesh = lab.write("partner-mesh.yaml", &mesh.document());
    let web = files_proxy(&lab, &partner, &mesh).start().await;
    let load = Load::start(web.outbound(), Protocol::Http1, 100, || Call::get(HOST, "/"));
    for _ in 0..3 {
        let generation = "countersign_identity_generation";
        let before = web.metric(generation, &[]).await;
        partner.leaf("shop", "web").write(lab.folder(), "partner.web.id");
        wait::until("a rotation", async || {
            (web.metric(generation, &[]).await > before).then_some(())
        })
        .await;
        let seen = app.seen().len();
        wait::until_true("requests after it", || app.seen().len() > seen + 10).await;
    }
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.sent > 50, "only {} requests", outcome.sent);
    let seen = app.last();
    assert_eq!(seen.header("countersign-caller"), Some(partner.id("shop", "web").as_str()));
}

/// The partner's own sidecar `web`, in its own mesh.
fn files_proxy(
    lab: &Lab,
    partner: &Authority,
    mesh: &Path,
) -> countersign_integration::proxy::Spec {
    let (certificate, key): (PathBuf, PathBuf) =
        partner.leaf("shop", "web").write(lab.folder(), "partner.web.id");
    let bundle = lab.folder().join("partner.pem");
    let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
    countersign_integration::proxy::Spec::new(lab.folder(), "shop", "web", source)
        .outbound()
        .documents(&[mesh])
}
