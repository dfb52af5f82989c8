//! JWT-SVIDs of a real SPIRE, whose bundle the gateway has from its own agent; and of authorities
//! that are known by a file, where every fault can be made.

use countersign_integration::client::{Call, Conn};
use countersign_integration::components::spire::{Agent, Entry, Server, ServerSpec};
use countersign_integration::outcome::{allowed, refused, refused_grpc};
use countersign_integration::proxy::Spec;
use countersign_integration::token::now_s;
use countersign_integration::workload_api::{WorkloadApi, message};
use countersign_integration::{Lab, Tokens, lab, process, tls, wait};
use serde_json::{Value, json};
use tonic::Code;

use super::{API, AUDIENCE, Edge, PATH, claims, taking};

/// The users SPIRE tells apart.
const GATEWAY: u32 = 4760;
const ORDERS: u32 = 4761;
const BATCH: u32 = 4762;
const OTHER: u32 = 4763;

/// SPIRE, and a gateway and a sidecar that live off it.
struct World {
    _server: Server,
    agent: Agent,
    edge: Edge,
}

impl World {
    async fn start(test: &str, callers: Value) -> Option<World> {
        let server = Server::start(test, ServerSpec::new(lab::DOMAIN)).await?;
        let agent = server.agent("one").await;
        for (path, uid) in [
            ("/ns/edge/sa/gateway", GATEWAY),
            ("/ns/shop/sa/orders", ORDERS),
            ("/ns/jobs/sa/batch", BATCH),
            ("/ns/jobs/sa/other", OTHER),
        ] {
            server.entry(&Entry::new(path, uid)).await;
        }
        for uid in [BATCH, OTHER] {
            agent.until_known(uid).await;
        }
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let mesh = taking(lab.gateway_mesh(&users), callers);
        let spec = |lab: &Lab, namespace: &str, account: &str| {
            let uid = if account == "gateway" { GATEWAY } else { ORDERS };
            Spec::new(lab.folder(), namespace, account, agent.source()).as_user(uid)
        };
        let services = ["spiffe://lab.test/ns/jobs/sa/batch".to_owned()];
        let edge = Edge::with(lab, mesh, &services, spec).await;
        Some(World { _server: server, agent, edge })
    }

    /// A JWT-SVID of this user's workload, as SPIRE gives it out.
    async fn svid(&self, uid: u32, audiences: &[&str]) -> String {
        let audiences = audiences.join(",");
        let mut fetch =
            self.agent.ask(uid, &["fetch", "jwt", "-audience", &audiences, "-output", "json"]);
        let done = tokio::task::spawn_blocking(move || process::run(&mut fetch)).await.unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
        let told: Value = serde_json::from_str(&told).unwrap();
        let svid = told[0]["svids"][0]["svid"].as_str();
        svid.unwrap_or_else(|| panic!("no JWT-SVID in {told}")).to_owned()
    }
}

#[tokio::test]
async fn jwt_svids_come_in_the_authorization_of_http_and_grpc() {
    let callers = json!({"jwtSvid": {"grants": ["orders.read"]}});
    let Some(world) = World::start("jwt_svids_come_in_authorization", callers).await else {
        return;
    };
    let token = world.svid(BATCH, &[AUDIENCE, "elsewhere"]).await;
    let edge = &world.edge;
    // Its bundle comes by a stream of its own.
    let reply = wait::until("the JWT bundle", async || {
        let reply = edge.get(&token).await;
        (reply.status != 503).then_some(reply)
    })
    .await;
    let record = allowed(&edge.orders, &reply).await;
    assert_eq!(record["svc"]["id"], "spiffe://lab.test/ns/jobs/sa/batch", "{record}");
    let issued = edge.issued().await;
    assert_eq!(issued["peer"]["none"], "jwt_svid", "{issued}");
    assert_eq!(issued["svc"], json!({"id": "spiffe://lab.test/ns/jobs/sa/batch"}));

    let config = || tls::client(None, &[b"h2"]);
    let mut conn = Conn::tls(edge.gateway.gateway(), config()).await.unwrap();
    let grpc = |token: &str| Call::get(API, "/shop.Orders/Get").grpc().bearer(token);
    let reply = conn.send(grpc(&token)).await.unwrap();
    allowed(&edge.orders, &reply).await;
    let reply = conn.send(grpc(&format!("{token}AAAA"))).await.unwrap();
    refused_grpc(&edge.gateway, &reply, "caller_token_invalid").await;
    // Anywhere else it is no credential.
    let elsewhere = Call::get(API, PATH).header("x-jwt-svid", &token);
    refused(&edge.gateway, &edge.call(elsewhere).await, "user_token_missing").await;
    let basic = Call::get(API, PATH).header("authorization", &format!("Basic {token}"));
    refused(&edge.gateway, &edge.call(basic).await, "user_token_missing").await;
}

#[tokio::test]
async fn attack_calls_with_jwt_svid_of_another_purpose() {
    let callers = json!({"jwtSvid": {"grants": ["orders.read"]}});
    let Some(world) = World::start("attack_jwt_svid_of_another_purpose", callers).await else {
        return;
    };
    let edge = &world.edge;
    let sound = world.svid(BATCH, &[AUDIENCE]).await;
    wait::until("the JWT bundle", async || (edge.get(&sound).await.status == 200).then_some(()))
        .await;
    let served = edge.app.seen().len();
    let bad = "caller_token_invalid";
    let finer = async |token: &str| {
        let record = refused(&edge.gateway, &edge.get(token).await, bad).await;
        record["reason"].as_str().unwrap().to_owned()
    };
    let other_audience = world.svid(BATCH, &["countersign.dev/other.test"]).await;
    assert_eq!(finer(&other_audience).await, format!("{bad}/audience"));
    let (head, rest) = sound.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let mut said = claims(&sound);
    said["sub"] = json!("spiffe://lab.test/ns/shop/sa/admin");
    let changed = countersign_integration::token::base64url(&said.to_string());
    assert_eq!(finer(&format!("{head}.{changed}.{signature}")).await, format!("{bad}/signature"));
    said["sub"] = json!("spiffe://partner.test/ns/jobs/sa/batch");
    let foreign = countersign_integration::token::base64url(&said.to_string());
    assert_eq!(finer(&format!("{head}.{foreign}.{signature}")).await, format!("{bad}/subject"));
    let none = countersign_integration::token::base64url(r#"{"alg":"none","kid":"k"}"#);
    assert_eq!(finer(&format!("{none}.{payload}.")).await, format!("{bad}/algorithm"));
    // As a context token at the sidecar it is of another kind.
    let as_context = Call::get(API, PATH).bearer(&sound).context(&sound);
    let reply = edge.call(as_context).await;
    assert_eq!(reply.status, 200, "reserved names are taken out: {}", reply.text());
    // Proven, and still not one that a rule names.
    let other = world.svid(OTHER, &[AUDIENCE]).await;
    refused(&edge.orders, &edge.get(&other).await, "policy_denied").await;
    assert_eq!(edge.app.seen().len(), served + 1);
}

const OWN: &str = "spiffe://lab.test/ns/jobs/sa/batch";
const PARTNER: &str = "spiffe://partner.test/ns/jobs/sa/batch";

/// A JWT-SVID of this key, sound but for what `id` makes of it.
fn signed(tokens: &Tokens, id: &str) -> String {
    let header = json!({"alg": "ES256", "kid": tokens.kid(), "typ": "JWT"});
    let said = json!({"sub": id, "aud": [AUDIENCE], "iat": now_s(), "exp": now_s() + 300});
    tokens.sign_with(&header, &said)
}

/// A SPIFFE bundle with the key, for tokens.
fn bundle(lab: &Lab, name: &str, tokens: &Tokens) -> std::path::PathBuf {
    let mut jwk = tokens.jwk();
    jwk["use"] = json!("jwt-svid");
    jwk["kid"] = json!(tokens.kid());
    lab.write(name, &json!({"keys": [jwk], "spiffe_sequence": 1}))
}

/// A federated domain vouches for its own workloads, the mesh's own bundle for the mesh's.
#[tokio::test]
async fn attack_federated_domain_vouches_for_a_caller_of_ours() {
    let lab = Lab::new();
    let (own, partner) = (Tokens::of(&lab.ca, "jwt", "own"), Tokens::of(&lab.ca, "jwt", "partner"));
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let foreign = bundle(&lab, "partner.json", &partner);
    let callers = json!({"jwtSvid": {
        "trustDomains": [lab::DOMAIN, "partner.test"], "grants": ["orders.read"],
    }});
    let mesh = taking(lab.gateway_mesh(&users), callers).with(|spec| {
        spec["federation"] = json!([{"trustDomain": "partner.test", "bundle": {"file": foreign}}]);
    });
    let services = [OWN.to_owned(), PARTNER.to_owned()];
    let files = |lab: &Lab, namespace: &str, account: &str| lab.proxy(namespace, account);
    let edge = Edge::with(lab, mesh, &services, files).await;
    let record = allowed(&edge.orders, &edge.get(&signed(&partner, PARTNER)).await).await;
    assert_eq!(record["svc"]["id"], PARTNER, "{record}");
    // The certificate files of this gateway bring no keys for tokens of our own domain.
    for token in [signed(&partner, OWN), signed(&own, OWN)] {
        refused(&edge.gateway, &edge.get(&token).await, "caller_unverifiable").await;
    }
    let reply = edge.get(&signed(&own, PARTNER)).await;
    let record = refused(&edge.gateway, &reply, "caller_token_invalid").await;
    assert_eq!(record["reason"], "caller_token_invalid/key_unknown", "{record}");
    let reply = edge.get(&signed(&partner, "spiffe://other.test/ns/jobs/sa/batch")).await;
    let record = refused(&edge.gateway, &reply, "caller_token_invalid").await;
    assert_eq!(record["reason"], "caller_token_invalid/subject", "{record}");
}

/// A key that left the bundle file signs for nobody from then on; nothing else has to change.
#[tokio::test]
async fn attack_signs_with_key_that_left_the_bundle_file() {
    let lab = Lab::new();
    let (old, new) = (Tokens::of(&lab.ca, "jwt", "old"), Tokens::of(&lab.ca, "jwt", "new"));
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let file = bundle(&lab, "own.json", &old);
    let callers = json!({"jwtSvid": {"bundle": {"file": file}, "grants": ["orders.read"]}});
    let mesh = taking(lab.gateway_mesh(&users), callers);
    let files = |lab: &Lab, namespace: &str, account: &str| lab.proxy(namespace, account);
    let edge = Edge::with(lab, mesh, &[OWN.to_owned()], files).await;
    let (before, after) = (signed(&old, OWN), signed(&new, OWN));
    allowed(&edge.orders, &edge.get(&before).await).await;
    refused(&edge.gateway, &edge.get(&after).await, "caller_token_invalid").await;
    bundle(&edge.lab, "own.json", &new);
    wait::until("the new key", async || (edge.get(&after).await.status == 200).then_some(())).await;
    let reply = edge.get(&before).await;
    let record = refused(&edge.gateway, &reply, "caller_token_invalid").await;
    assert_eq!(record["reason"], "caller_token_invalid/key_unknown", "{record}");
}

/// Two credentials are two answers to who calls, however often one of them was seen before.
#[tokio::test]
async fn attack_brings_a_user_beside_a_known_caller() {
    let lab = Lab::new();
    let (own, users) = (Tokens::of(&lab.ca, "jwt", "own"), Tokens::of(&lab.ca, "idp", "keys"));
    let file = bundle(&lab, "own.json", &own);
    let callers = json!({"jwtSvid": {"bundle": {"file": file}, "grants": ["orders.read"]}});
    let mesh = taking(lab.gateway_mesh(&users), callers).with(|spec| {
        spec["identityProviders"][0]["spec"]["from"] = json!([{"header": "x-user-token"}]);
    });
    let files = |lab: &Lab, namespace: &str, account: &str| lab.proxy(namespace, account);
    let edge = Edge::with(lab, mesh, &[OWN.to_owned()], files).await;
    let token = signed(&own, OWN);
    // On one connection, so that one worker sees all of it and remembers the token.
    let config = tls::client(None, &[b"http/1.1"]);
    let mut conn = Conn::tls(edge.gateway.gateway(), config).await.unwrap();
    for _ in 0..2 {
        let reply = conn.send(Call::get(API, PATH).bearer(&token)).await.unwrap();
        allowed(&edge.orders, &reply).await;
        let both = Call::get(API, PATH).bearer(&token).header("x-user-token", "anything");
        let reply = conn.send(both).await.unwrap();
        refused(&edge.gateway, &reply, "user_token_malformed").await;
    }
}

/// A service that no longer counts, with a context token that was made before.
#[tokio::test]
async fn attack_presents_context_of_revoked_service() {
    let lab = Lab::new();
    let own = Tokens::of(&lab.ca, "jwt", "own");
    let file = bundle(&lab, "own.json", &own);
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let callers = json!({"jwtSvid": {"bundle": {"file": file}, "grants": ["orders.read"]}});
    let mesh = taking(lab.gateway_mesh(&users), callers);
    let files = |lab: &Lab, namespace: &str, account: &str| lab.proxy(namespace, account);
    let edge = Edge::with(lab, mesh, &[OWN.to_owned()], files).await;
    let token = signed(&own, OWN);
    allowed(&edge.orders, &edge.get(&token).await).await;
    let context = {
        let mut said = edge.lab.gateway.claims(&edge.lab.id("shop", "orders"));
        said["sub"] = json!(format!("svc:{OWN}"));
        let to = said["rctx"]["to"].clone();
        said["rctx"] = json!({"v": 1, "origin": "service", "to": to});
        edge.lab.gateway.sign(&said)
    };
    let mut peer = edge.lab.peer(&edge.orders, edge.lab.gateway.leaf()).await;
    let mut present = async || {
        let call = Call::get("orders.shop", PATH).context(&context);
        peer.send(call).await.unwrap()
    };
    allowed(&edge.orders, &present().await).await;
    edge.revoke(json!({"identities": [
        {"spiffeId": OWN, "issuedBefore": "2126-01-01T00:00:00Z"},
    ]}));
    let reply = wait::until("the revocation", async || {
        let reply = present().await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    let record = refused(&edge.orders, &reply, "token_revoked").await;
    assert_eq!(record["reason"], "token_revoked/service", "{record}");
}

/// A gateway that checks JWT-SVIDs is who calls the most of a Workload API.
#[tokio::test]
async fn w14_only_methods_of_the_standard_service_are_called() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("edge", "gateway");
    let first = message(&lab.id("edge", "gateway"), &leaf, &lab.ca);
    let api = WorkloadApi::start(lab.folder(), "agent", Ok(first));
    let callers = json!({"jwtSvid": {"grants": ["orders.read"]}});
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let mesh = taking(lab.gateway_mesh(&users), callers);
    let source = json!({"workloadApi": {"socket": api.socket()}});
    let services = [lab.id("jobs", "batch")];
    let spec = |lab: &Lab, namespace: &str, account: &str| match account {
        "gateway" => Spec::new(lab.folder(), namespace, account, source.clone()),
        _ => lab.proxy(namespace, account),
    };
    let Edge { gateway, lab, .. } = &Edge::with(lab, mesh, &services, spec).await;

    let streams = ["FetchJWTBundles", "FetchX509Bundles", "FetchX509SVID"];
    let standard = streams.map(|name| format!("/SpiffeWorkloadAPI/{name}"));
    wait::until_true("all streams", || api.asked().len() >= standard.len()).await;
    // A failure, a new beginning and another certificate call for nothing else.
    let ok = ["result=\"ok\""];
    let before = gateway.metric("countersign_identity_renewals_total", &ok).await;
    api.say(Err(Code::Unavailable));
    wait::until_true("the refusal to be told", || gateway.log().contains("as told")).await;
    let leaf = lab.ca.leaf("edge", "gateway");
    api.say(Ok(message(&lab.id("edge", "gateway"), &leaf, &lab.ca)));
    gateway.metric_reaches("countersign_identity_renewals_total", &ok, before + 1.0).await;
    assert!(api.asked().iter().eq(&standard), "{:?}", api.asked());
}
