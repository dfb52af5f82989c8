//! JWT-SVIDs of a real SPIRE: the gateway has its bundle from its own agent.

use countersign_integration::client::{Call, Conn};
use countersign_integration::components::spire::{Agent, Entry, Server, ServerSpec};
use countersign_integration::outcome::{allowed, refused, refused_grpc};
use countersign_integration::proxy::Spec;
use countersign_integration::{Lab, Tokens, lab, process, tls, wait};
use serde_json::{Value, json};

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
    let issued = edge.issued();
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
