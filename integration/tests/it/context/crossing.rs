//! Context between trust domains (T13): a federated listener takes it and mints it anew, towards the
//! outside it is stripped unless somebody asked for it to be handed over.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_integration::client::{self, Call, Conn, Reply};
use countersign_integration::documents::{self, Mesh};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::proxy::Spec;
use countersign_integration::token::Tokens;
use countersign_integration::{App, Authority, Lab, Leaf, Proxy, lab, ports, tls, wait};
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const PARTNER: &str = "partner.test";
const HOST: &str = "orders.shop";

/// Our mesh and the partner's, with everything that signs in both.
struct Two {
    lab: Lab,
    partner: Authority,
    /// Mints the partner's tokens.
    their_gateway: Tokens,
    /// A workload of the partner's.
    web: Leaf,
}

impl Two {
    fn new() -> Two {
        let (lab, partner) = (Lab::new(), Authority::new(PARTNER));
        partner.write_bundle(lab.folder(), "partner");
        let their_gateway = Tokens::of(&partner, "edge", "gateway");
        let web = partner.leaf("shop", "web");
        Two { lab, partner, their_gateway, web }
    }

    /// Our mesh takes what the partner's gateway says of its users, as far as it is about orders;
    /// `orders` is the one that may issue for them.
    fn mesh(&self) -> Mesh {
        let issuer = json!({
            "id": self.lab.id("shop", "orders"), "keys": "x5c",
            "allow": {"origin": ["foreign"], "sub": [format!("foreign:{PARTNER}|*")],
                "scope": ["partner.*"]},
        });
        let theirs = json!([{
            "id": self.partner.id("edge", "gateway"), "keys": "x5c",
            "allow": {"origin": ["user", "batch"], "sub": ["user:*", "anon"], "scope": ["orders.*"],
                "maxTtl": "60s"},
        }]);
        let entry = json!([{
            "trustDomain": PARTNER, "bundle": {"file": "partner.pem"},
            "context": {"issuers": theirs,
                "mapsTo": {"orders.read": ["partner.read"], "orders.list": ["partner.read"]}},
        }]);
        self.lab.mesh().with(|spec| {
            spec["context"]["issuers"].as_array_mut().unwrap().push(issuer);
            spec["federation"] = entry;
        })
    }

    /// The sidecar of `orders`, whose listener names the partner and which may issue.
    async fn orders(&self, app: &App, mesh: &Mesh, change: impl FnOnce(Spec) -> Spec) -> Proxy {
        self.orders_by(app, mesh, rules(), change).await
    }

    /// The same, under other rules.
    async fn orders_by(
        &self,
        app: &App,
        mesh: &Mesh,
        rules: Value,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Proxy {
        self.lab
            .orders_with(app, mesh, rules, |spec| {
                change(spec.with(|config| {
                    config["listeners"]["inbound"][0]["trustDomains"] = json!([PARTNER]);
                    let service = json!({"port": ports::free().port(), "service": "issuer"});
                    config["app"].as_array_mut().unwrap().push(service);
                }))
            })
            .await
    }

    /// A token of the partner's for alice, handed to `web`.
    fn token(&self) -> String {
        self.their_gateway.mint(&self.partner.id("shop", "web"))
    }

    fn changed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.their_gateway.claims(&self.partner.id("shop", "web"));
        change(&mut claims);
        self.their_gateway.sign(&claims)
    }

    async fn present(&self, orders: &Proxy, token: &str) -> Reply {
        let config = tls::client(Some(&self.web), &[tls::MESH_H2]);
        let mut conn = Conn::tls(orders.inbound(), config).await.unwrap();
        let call = Call::get(HOST, "/").context(token).header("x-forward", "handle");
        conn.send(call).await.unwrap()
    }
}

/// Everybody of our mesh, and the partner's `web` with a context.
fn rules() -> Value {
    let mut rules = documents::anybody();
    rules.as_array_mut().unwrap().push(json!({
        "name": "partner", "effect": "allow", "context": "required",
        "match": {"caller": {"anyOf": [{"spiffeId": format!("spiffe://{PARTNER}/ns/shop/sa/web")}]}},
        "require": {"token": {"scopes": {"anyOf": ["partner.read"]}}},
    }));
    rules
}

fn claims(token: &str) -> Value {
    let encoded = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}

/// What goes on behind the listener is a token of ours, for a subject that nobody takes for one of our
/// users, and nothing else of the partner's.
#[tokio::test]
async fn foreign_context_is_minted_anew() {
    let two = Two::new();
    let billing =
        App::tls_mirror(tls::server(&two.lab.ca.leaf("shop", "billing"), &[tls::MESH_H2]));
    let out = ports::free();
    let app = App::relay(out, "billing.shop");
    let id = two.lab.id("shop", "billing");
    let mesh = two.mesh().destination("shop/billing", "billing.shop", billing.address, &[&id]);
    let orders = two.orders(&app, &mesh, |spec| spec.outbound_at(out)).await;
    let theirs = two.token();
    let reply = two.present(&orders, &theirs).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = app.last();
    assert_eq!(seen.header("countersign-origin"), Some("foreign"));
    assert_eq!(seen.header("countersign-scope"), Some("partner.read"));
    assert_eq!(seen.header("countersign-user"), None, "alice of the partner is no user of ours");
    assert_eq!(seen.header("countersign-caller"), Some(&*two.partner.id("shop", "web")));

    let (ours, before) = (billing.last(), claims(&theirs));
    let after = claims(ours.header("txn-token").unwrap());
    assert_eq!(after["sub"], format!("foreign:{PARTNER}|user:alice"));
    assert_eq!(after["iss"], two.lab.id("shop", "orders"));
    assert_eq!(after["aud"], lab::DOMAIN);
    assert_eq!(after["req_wl"], two.lab.id("shop", "orders"));
    assert_eq!(after["scope"], "partner.read");
    assert_eq!(after["rctx"]["to"], two.lab.id("shop", "orders"));
    assert_eq!(after["rctx"]["src_td"], PARTNER);
    assert_eq!(after["rctx"]["src_txn"], before["txn"]);
    assert_ne!(after["txn"], before["txn"]);
    assert_ne!(after["jti"], before["jti"]);
    for stays in ["idp", "acct"] {
        assert_eq!(after["rctx"].get(stays), None, "{after}");
    }
}

/// Two whole meshes: the partner's gateway, its sidecar `web`, our `orders`, our `billing`, which
/// accepts what `orders` minted because it came from `orders`.
#[tokio::test]
async fn context_crosses_between_two_meshes() {
    let two = Two::new();
    let (at_billing, out) = (ports::free(), ports::free());
    let app = App::relay(out, "billing.shop");
    let id = two.lab.id("shop", "billing");
    let mesh = two.mesh().destination("shop/billing", "billing.shop", at_billing, &[&id]);
    let orders = two.orders(&app, &mesh, |spec| spec.outbound_at(out)).await;
    let last = App::mirror();
    let required = json!([{"name": "all", "effect": "allow", "context": "required",
        "match": {"caller": {"anyInMesh": true}}}]);
    let files = [
        two.lab.write("billing-mesh.yaml", &mesh.document()),
        two.lab.write("billing-access.yaml", &documents::access("shop", required)),
    ];
    let billing = two.lab.proxy("shop", "billing").inbound_at(at_billing, last.address);
    let billing = billing.documents(&[&files[0], &files[1]]).start().await;

    for (hand_over, status) in [(true, 200), (false, 401)] {
        let web_out = ports::free();
        let web_app = App::relay(web_out, HOST);
        let web = partner_web(&two, &orders, &web_app, web_out, hand_over).await;
        let config = tls::client(Some(two.their_gateway.leaf()), &[tls::MESH_H2]);
        let mut conn = Conn::tls(web.inbound(), config).await.unwrap();
        let call = Call::get("web.partner", "/").context(&two.token());
        let reply = conn.send(call.header("x-forward", "handle")).await.unwrap();
        assert_eq!(reply.status, status, "handOver {hand_over}: {}", reply.text());
        if !hand_over {
            continue;
        }
        assert_eq!(reply.seen("countersign-origin").as_deref(), Some("foreign"));
        let orders_id = two.lab.id("shop", "orders");
        assert_eq!(reply.seen("countersign-caller"), Some(orders_id));
        let seen = wait::until("the record", async || {
            billing.decisions().into_iter().find(|record| record["decision"] == "allow")
        })
        .await;
        assert!(seen.to_string().contains("foreign"), "{seen}");
        // A second call of the same holder: the records go on counting.
        let call = Call::get("web.partner", "/").context(&two.token());
        let again = conn.send(call.header("x-forward", "handle")).await.unwrap();
        assert_eq!(again.status, 200, "{}", again.text());
    }
    assert_eq!(last.seen().len(), 2);
}

/// The partner's sidecar `web`, in its own mesh, federated with ours.
async fn partner_web(
    two: &Two,
    orders: &Proxy,
    app: &App,
    out: std::net::SocketAddr,
    hand_over: bool,
) -> Proxy {
    let folder = two.lab.folder().join(format!("partner-{hand_over}"));
    std::fs::create_dir_all(&folder).unwrap();
    let bundle = two.lab.folder().join("bundle.pem");
    let entry = json!([{"trustDomain": lab::DOMAIN, "bundle": {"file": bundle},
        "context": {"handOver": hand_over}}]);
    let ours = two.lab.id("shop", "orders");
    let mesh = Mesh::new(PARTNER).with(|spec| spec["federation"] = entry).destination(
        "shop/orders",
        HOST,
        orders.inbound(),
        &[&ours],
    );
    let write = |name: &str, document: Value| {
        let path: PathBuf = folder.join(name);
        std::fs::write(&path, format!("{document:#}")).unwrap();
        path
    };
    let mesh = write("mesh.yaml", mesh.document());
    let access = write("access.yaml", documents::access("shop", documents::anybody()));
    let (certificate, key) = two.web.write(&folder, "id");
    let bundle = two.lab.folder().join("partner.pem");
    let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
    Spec::new(&folder, "shop", "web", source)
        .inbound(app.address)
        .outbound_at(out)
        .documents(&[&mesh, &access])
        .start()
        .await
}

/// Everything that the entry does not say is refused, each for its reason, and the app sees none.
#[tokio::test]
async fn attack_foreign_issuer_says_more_than_it_may() {
    let two = Two::new();
    let app = App::mirror();
    let orders = two.orders(&app, &two.mesh(), |spec| spec).await;
    let reply = two.present(&orders, &two.token()).await;
    allowed(&orders, &reply).await;

    let web = two.partner.id("shop", "web");
    let thief = Tokens::of(&two.partner, "shop", "thief");
    let for_other = two.their_gateway.mint(&two.partner.id("shop", "other"));
    let of_ours = two.lab.gateway.mint(&two.lab.id("shop", "orders"));
    let third = Tokens::of(&Authority::new("third.test"), "edge", "gateway");
    let scope = |name: &'static str| two.changed(move |claims| claims["scope"] = json!(name));
    for (reason, token) in [
        // Its own gateway may not say that.
        ("constraint_violated", two.changed(|c| c["sub"] = json!(format!("svc:{web}")))),
        ("constraint_violated", scope("admin.all")),
        (
            "constraint_violated",
            two.changed(|c| c["exp"] = json!(c["iat"].as_u64().unwrap() + 120)),
        ),
        // It may, but it means nothing here.
        ("constraint_violated", scope("orders.write")),
        // Somebody else's word, or for somebody else.
        ("issuer_not_allowed", thief.mint(&web)),
        ("custody_broken", for_other),
        ("audience_wrong", of_ours),
        ("audience_wrong", third.mint("spiffe://third.test/ns/shop/sa/web")),
        (
            "constraint_violated",
            two.changed(|c| {
                c["sub"] = json!("foreign:third.test|user:alice");
                c["rctx"]["origin"] = json!("foreign");
            }),
        ),
    ] {
        let reply = two.present(&orders, &token).await;
        refused(&orders, &reply, reason).await;
    }
    assert_eq!(app.seen().len(), 1);
}

/// Ours is minted anew for each request; what counts once is theirs.
#[tokio::test]
async fn attack_replays_foreign_token_on_once_route() {
    let two = Two::new();
    let app = App::mirror();
    let mut rules = rules();
    rules[1]["once"] = json!(true);
    let orders = two.orders_by(&app, &two.mesh(), rules, |spec| spec).await;
    let token = two.token();
    allowed(&orders, &two.present(&orders, &token).await).await;
    for _ in 0..3 {
        refused(&orders, &two.present(&orders, &token).await, "token_replayed").await;
    }
    allowed(&orders, &two.present(&orders, &two.token()).await).await;
    assert_eq!(app.seen().len(), 2);
}

/// The same partner, listener and token, and no entry that takes context: refused as ever. With the
/// entry and no right to issue: refused too.
#[tokio::test]
async fn attack_brings_foreign_context_where_nobody_takes_it() {
    let two = Two::new();
    let app = App::mirror();
    let without = two.mesh().with(|spec| {
        spec["federation"][0].as_object_mut().unwrap().remove("context");
    });
    let orders = two.orders(&app, &without, |spec| spec).await;
    refused(&orders, &two.present(&orders, &two.token()).await, "audience_wrong").await;
    drop(orders);
    let no_issuer =
        two.mesh().with(|spec| drop(spec["context"]["issuers"].as_array_mut().unwrap().pop()));
    let orders = two.orders(&app, &no_issuer, |spec| spec).await;
    refused(&orders, &two.present(&orders, &two.token()).await, "keys_unavailable").await;
    assert!(app.seen().is_empty());
}

/// The partner's issuer is taken out of the entry: what it signs counts for nothing from then on, also
/// what was cached.
#[tokio::test]
async fn attack_removed_foreign_issuer_keeps_minting() {
    let two = Two::new();
    let app = App::mirror();
    let orders = two.orders(&app, &two.mesh(), |spec| spec).await;
    let token = two.token();
    allowed(&orders, &two.present(&orders, &token).await).await;
    let other = two.partner.id("edge", "other");
    let mesh = two.mesh().with(|spec| {
        spec["federation"][0]["context"]["issuers"][0]["id"] = json!(other);
    });
    two.lab.write("mesh.yaml", &mesh.document());
    let reply = wait::until("the documents", async || {
        Some(two.present(&orders, &token).await).filter(|reply| reply.status != 200)
    })
    .await;
    refused(&orders, &reply, "issuer_not_allowed").await;
}

/// A stream that began with foreign context ends when the word of its issuer counts no more; one
/// without anything to do with it goes on, and so does this one while nothing changes for it.
#[tokio::test]
async fn attack_keeps_foreign_stream_after_withdrawal() {
    let two = Two::new();
    let app = App::mirror();
    let orders = two.orders(&app, &two.mesh(), |spec| spec).await;
    let config = tls::client(Some(&two.web), &[tls::MESH_H2]);
    let mut conn = Conn::tls(orders.inbound(), config).await.unwrap();
    let (sender, body) = client::stream();
    let call = Call::post(HOST, "/echo", "").context(&two.token()).body(body);
    let mut stream = conn.start(call).await.unwrap();
    let id = stream.headers()["countersign-decision"].to_str().unwrap().to_owned();
    let mut own = two.lab.peer(&orders, &two.lab.ca.leaf("shop", "billing")).await;
    let (_other, body) = client::stream();
    let kept = own.start(Call::post(HOST, "/echo", "").body(body)).await.unwrap();
    let kept_id = kept.headers()["countersign-decision"].to_str().unwrap().to_owned();

    // Another change leaves it alone.
    let more = two.mesh().with(|spec| spec["context"]["ttl"] = json!("30s"));
    two.lab.write("mesh.yaml", &more.document());
    wait::until_true("the documents", || orders.log().contains("documents in force")).await;
    sender.send(Ok(Frame::data("on".into()))).await.unwrap();
    let echo = wait::ends("the echo", stream.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(echo.into_data().unwrap(), "on");
    let other = two.partner.id("edge", "other");
    let mesh = two.mesh().with(|spec| {
        spec["federation"][0]["context"]["issuers"][0]["id"] = json!(other);
    });
    two.lab.write("mesh.yaml", &mesh.document());
    wait::ends("the stream", client::collect(stream)).await.unwrap_err();
    let ended = orders.ended(&id).await;
    assert_eq!(ended["reason"], "revoked/issuer_key", "{ended}");
    let both = || orders.log().matches("documents in force").count() >= 2;
    wait::until_true("both changes", both).await;
    assert!(!orders.audit().iter().any(|r| r["kind"] == "ended" && r["id"] == kept_id.as_str()));
}

/// One key of the partner's issuer is revoked here, whatever the partner thinks of it.
#[tokio::test]
async fn attack_crosses_with_a_revoked_key_of_the_foreign_issuer() {
    let two = Two::new();
    let app = App::mirror();
    let revocation = two.lab.revoke(json!({}));
    let orders = two
        .orders(&app, &two.mesh(), |spec| {
            spec.with(|config| {
                config["documents"]["files"].as_array_mut().unwrap().push(json!(revocation));
            })
        })
        .await;
    let token = two.token();
    allowed(&orders, &two.present(&orders, &token).await).await;
    let (issuer, kid) = (two.partner.id("edge", "gateway"), two.their_gateway.kid());
    two.lab.revoke(json!({"issuerKeys": [{"identity": issuer, "kid": kid}]}));
    orders.reload();
    let reply = wait::until("the revocation", async || {
        Some(two.present(&orders, &token).await).filter(|reply| reply.status != 200)
    })
    .await;
    refused(&orders, &reply, "token_revoked").await;
}

#[test]
fn the_page_about_crossing_is_sound() {
    let page = include_str!("../../../../docs/context/crossing.md");
    super::issuers::stage::check_page(page, 1);
}
