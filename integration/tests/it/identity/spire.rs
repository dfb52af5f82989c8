//! A real SPIRE server and agent: two sidecars get their identities from it, keep them while it
//! rotates, restarts and is away, and lose them when it says so.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::source::workload_api::{Endpoint, JwtKeys};
use countersign_certs_client::{CertSource, Certs, source};

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::components::spire::{
    Agent, AgentSpec, Entry, Profile, Server, ServerSpec,
};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Leaf, Proxy, documents, lab, ports, tls, wait};
use countersign_workload_id::TrustDomain;
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::Value;

/// The users of the two sidecars; SPIRE tells them apart by it.
const ORDERS: u32 = 4747;
const BILLING: u32 = 4748;
/// A workload that the test plays itself.
const WEB: u32 = 4749;
/// A user nobody registered.
const STRANGER: u32 = 4750;

/// Rotations that must be seen.
const ROTATIONS: usize = 3;
/// For what takes a few lives of a certificate.
const LIVES: Duration = Duration::from_secs(120);

/// A server, its agent, and two sidecars that have their identities from it: the app of `orders`
/// calls the app of `billing`.
struct Two {
    server: Server,
    agent: Agent,
    /// The entry of `billing`.
    entry: String,
    orders: Proxy,
    billing: Proxy,
    _app: App,
    lab: Lab,
}

impl Two {
    async fn start(test: &str, change: impl FnOnce(&Lab, &mut ServerSpec)) -> Option<Two> {
        let lab = Lab::new();
        let mut spec = ServerSpec::new(lab::DOMAIN);
        change(&lab, &mut spec);
        let server = Server::start(test, spec).await?;
        let agent = server.agent("one").await;
        server.entry(&Entry::new("/ns/shop/sa/orders", ORDERS)).await;
        let entry = server.entry(&Entry::new("/ns/shop/sa/billing", BILLING)).await;
        server.entry(&Entry::new("/ns/shop/sa/web", WEB)).await;
        let app = App::mirror();
        let at = ports::free();
        let mesh = lab.mesh().destination(
            "shop/billing",
            "billing.shop",
            at,
            &[&lab.id("shop", "billing")],
        );
        let files = [
            lab.write("mesh.yaml", &mesh.document()),
            lab.write("access.yaml", &documents::access("shop", documents::anybody())),
        ];
        let spec = |account: &str, uid| {
            let spec = Spec::new(lab.folder(), "shop", account, agent.source());
            spec.documents(&[&files[0], &files[1]]).as_user(uid)
        };
        let orders = spec("orders", ORDERS).outbound().launch();
        let billing = spec("billing", BILLING).inbound_at(at, app.address).launch();
        orders.until_ready().await;
        billing.until_ready().await;
        Some(Two { server, agent, entry, orders, billing, _app: app, lab })
    }

    /// The certificate of a workload that the test plays itself.
    async fn web(&self) -> Leaf {
        self.agent.fetch(WEB).await
    }

    fn load(&self) -> Load {
        let make = || Call::get("billing.shop", "/");
        Load::start(self.orders.outbound(), Protocol::Http1, 100, make)
    }

    /// When the certificate of each ends.
    async fn ends(&self) -> [f64; 2] {
        [expires(&self.orders).await, expires(&self.billing).await]
    }

    /// Waits until each has another certificate than the one that ends then.
    async fn replaced(&self, ends: [f64; 2]) {
        wait::until_within(LIVES, "another certificate", async || {
            let now = self.ends().await;
            now.iter().zip(ends).all(|(now, then)| *now > then).then_some(())
        })
        .await;
    }

    /// Waits until each has been given another certificate this many times.
    async fn rotate(&self, times: usize) {
        for _ in 0..times {
            self.replaced(self.ends().await).await;
        }
    }
}

/// A connection of this workload to `billing`.
async fn peer(two: &Two, leaf: &Leaf) -> Conn {
    let config = tls::client(Some(leaf), &[tls::MESH_H2]);
    Conn::tls(two.billing.inbound(), config).await.unwrap()
}

/// When the identity of a sidecar ends; all that SPIRE gives out at once ends at once.
async fn expires(proxy: &Proxy) -> f64 {
    proxy.metric("countersign_identity_expires_timestamp_seconds", &[]).await
}

async fn stop(load: Load) {
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.sent > 100, "only {} requests", outcome.sent);
    println!("{} requests, none failed", outcome.sent);
}

#[tokio::test]
async fn spire_rotates_under_load_and_no_request_fails() {
    let Some(two) = Two::start("spire_rotates_under_load", |_, _| {}).await else { return };
    let load = two.load();
    two.rotate(ROTATIONS).await;
    stop(load).await;
}

/// The agent goes and comes back as what it was; nobody notices but the log.
#[tokio::test]
async fn spire_agent_restarts_under_load() {
    let Some(mut two) = Two::start("spire_agent_restarts", |_, _| {}).await else { return };
    let load = two.load();
    two.agent.stop().await;
    let noticed = || two.orders.log().contains("cannot connect");
    wait::until_true("the sidecar to notice", noticed).await;
    two.agent.start_again().await;
    two.rotate(2).await;
    stop(load).await;
}

/// The server is away for more than half a certificate's life.
#[tokio::test]
async fn spire_server_is_away_for_more_than_half_a_life() {
    // The agent's own certificate outlives the outage: it could not come back without it.
    let long = |_: &Lab, spec: &mut ServerSpec| spec.agent_life_s = Some(600);
    let Some(mut two) = Two::start("spire_server_is_away", long).await else { return };
    let load = two.load();
    two.rotate(1).await;
    two.server.stop().await;
    // Certificates are dated back by ten seconds: 30 s to live are 40 s of life.
    wait::until_within(LIVES, "half a life", async || {
        (expires(&two.billing).await - now_s() < 14.0).then_some(())
    })
    .await;
    // The agent of this version now and then ends by itself when its server returns, so it is
    // started anew, as its supervisor would.
    two.agent.stop().await;
    two.server.start_again().await;
    two.agent.start_again().await;
    two.rotate(1).await;
    stop(load).await;
}

/// Another root stands above the server's own authority, whose key is in memory only: a start
/// makes another authority, and nobody has to be told.
#[tokio::test]
async fn spire_server_comes_back_with_another_authority() {
    let above = |lab: &Lab, spec: &mut ServerSpec| {
        let folder = lab.folder();
        spec.upstream =
            Some((lab.ca.write_bundle(folder, "root"), lab.ca.write_key(folder, "root")));
    };
    let Some(mut two) = Two::start("spire_server_comes_back", above).await else { return };
    let load = two.load();
    let first = presented(&two).await;
    assert_eq!(first.len(), 2, "leaf and intermediate authority");
    two.server.stop().await;
    two.server.start_again().await;
    wait::until_within(LIVES, "a chain of the new authority", async || {
        (presented(&two).await[1] != first[1]).then_some(())
    })
    .await;
    two.rotate(1).await;
    stop(load).await;
}

/// The chain that `billing` presents to another workload of the mesh.
async fn presented(two: &Two) -> Vec<Vec<u8>> {
    let web = two.web().await;
    let stream =
        client::tls_stream(two.billing.inbound(), tls::client(Some(&web), &[tls::MESH_H2]));
    let stream = stream.await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain.iter().map(|certificate| certificate.to_vec()).collect()
}

/// Whether the leaf names this authority, by its key identifier, as the one that signed it.
fn is_signed_by(chain: &[Vec<u8>], authority: &str) -> bool {
    let byte = |at: usize| u8::from_str_radix(&authority[at..at + 2], 16).unwrap();
    let identifier: Vec<u8> = (0..authority.len()).step_by(2).map(byte).collect();
    chain[0].windows(identifier.len()).any(|window| window == identifier)
}

/// Old root, both, new root: no request fails, and who still shows a certificate of the old one is
/// let go.
#[tokio::test]
async fn spire_replaces_its_root_under_load() {
    // Long enough that what the old root vouched for does not end by itself before it.
    let long = |_: &Lab, spec: &mut ServerSpec| spec.svid_life_s = 60;
    let Some(two) = Two::start("spire_replaces_its_root", long).await else { return };
    let load = two.load();
    let old = two.web().await;
    let old_ends = expires(&two.billing).await;
    let mut kept = peer(&two, &old).await;
    let (sender, body) = client::stream();
    let mut open = kept.start(Call::post("billing.shop", "/echo", "").body(body)).await.unwrap();
    let new = two.server.prepare_authority().await;
    wait::until("both roots to be trusted", async || {
        let told = two.agent.tell(WEB, &["fetch", "x509"]).await;
        told.contains("CA #2").then_some(())
    })
    .await;
    let gone = two.server.activate_authority(&new).await;
    assert!(is_signed_by(&presented(&two).await, &gone));
    two.rotate(1).await;
    while !is_signed_by(&presented(&two).await, &new) {
        // The server had signed these before, and they were still on their way.
        two.rotate(1).await;
    }
    // What the old root vouched for goes on for as long as it is trusted.
    sender.send(Ok(Frame::data("still here".into()))).await.unwrap();
    let back = wait::ends("an echo", open.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(back.into_data().unwrap(), "still here");
    // Ours is signed anew when its own time comes, like theirs.
    wait::until_within(LIVES, "a certificate of our own under the new root", async || {
        let own = two.web().await.chain;
        let own: Vec<_> = own.iter().map(|certificate| certificate.to_vec()).collect();
        is_signed_by(&own, &new).then_some(())
    })
    .await;
    two.server.revoke_authority(&gone).await;
    wait::ends("the open stream", client::collect(open)).await.unwrap_err();
    drop(sender);
    let refused = Conn::tls(two.billing.inbound(), tls::client(Some(&old), &[tls::MESH_H2])).await;
    let answer = match refused {
        Ok(mut conn) => conn.send(Call::get("billing.shop", "/")).await.map(|reply| reply.status),
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "a certificate of the old root was taken: {answer:?}");
    assert!(now_s() < old_ends, "it ended by itself before the root went: nothing was seen");
    assert_eq!(
        peer(&two, &two.web().await).await.send(Call::get("b.shop", "/")).await.unwrap().status,
        200
    );
    stop(load).await;
}

/// The operator takes the entry away: the identity is gone, with it what is open, and nothing
/// begins until the entry is back.
#[tokio::test]
async fn spire_entry_deleted_withdraws_the_identity() {
    let Some(two) = Two::start("spire_entry_deleted", |_, _| {}).await else { return };
    let web = two.web().await;
    let mut conn = peer(&two, &web).await;
    let (sender, body) = client::stream();
    let open = conn.start(Call::post("billing.shop", "/echo", "").body(body)).await.unwrap();
    assert_eq!(open.status(), 200);
    two.server.delete(&two.entry).await;
    wait::until("the identity to be gone", async || {
        let (status, said) = two.billing.ready().await?;
        (status == 503 && said.to_string().contains("withdrawn")).then_some(())
    })
    .await;
    wait::ends("the open stream", client::collect(open)).await.unwrap_err();
    drop(sender);
    let config = tls::client(Some(&web), &[tls::MESH_H2]);
    assert!(client::tls_stream(two.billing.inbound(), config).await.is_err());
    let reply = client::call(two.orders.outbound(), Call::get("billing.shop", "/")).await;
    assert_eq!(reply.status, 502, "{}", reply.text());

    two.server.entry(&Entry::new("/ns/shop/sa/billing", BILLING)).await;
    two.billing.until_ready().await;
    wait::until("requests to pass again", async || {
        let reply = client::call(two.orders.outbound(), Call::get("billing.shop", "/")).await;
        (reply.status == 200).then_some(())
    })
    .await;
}

/// The agent goes by the user of the process: another one gets nothing, and is told why.
#[tokio::test]
async fn spire_gives_an_identity_to_the_registered_user_only() {
    let Some(two) = Two::start("spire_registered_user", |_, _| {}).await else { return };
    let spec = Spec::new(two.lab.folder(), "shop", "stranger", two.agent.source());
    let mesh = two.lab.folder().join("mesh.yaml");
    let stranger = spec.documents(&[&mesh]).outbound().as_user(STRANGER).launch();
    let told = "is the workload registered, with selectors that fit?";
    wait::until_true("the reason", || stranger.log().contains(told)).await;
    let (status, _) = wait::until("its readiness", async || stranger.ready().await).await;
    assert_eq!(status, 503);
}

/// An agent that makes RSA keys: nothing starts, and what is said names the setting.
#[tokio::test]
async fn spire_agent_with_rsa_keys_is_refused_with_the_fix() {
    let lab = Lab::new();
    let test = "spire_agent_with_rsa_keys";
    let Some(server) = Server::start(test, ServerSpec::new(lab::DOMAIN)).await else { return };
    let agent = server.agent_with("one", AgentSpec { key_type: "rsa-2048" }).await;
    server.entry(&Entry::new("/ns/shop/sa/orders", ORDERS)).await;
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let spec = Spec::new(lab.folder(), "shop", "orders", agent.source());
    let orders = spec.documents(&[&mesh]).outbound().as_user(ORDERS).launch();
    let told = "the private key is RSA; countersign needs ECDSA P-256 or Ed25519 (SPIRE agent: \
                workload_x509_svid_key_type";
    wait::until_true("the reason", || orders.log().contains(told)).await;
    let (status, said) = wait::until("its readiness", async || orders.ready().await).await;
    assert_eq!(status, 503, "{said}");
    wait::until("readiness to say it too", async || {
        let (_, said) = orders.ready().await?;
        said.to_string().contains("workload_x509_svid_key_type").then_some(())
    })
    .await;
}

/// Bundles of a federated domain come with the identity, X.509 authorities and token keys each by
/// their own call, and go when the entry no longer asks for them.
#[tokio::test]
async fn spire_sends_federated_bundles_and_token_keys() {
    let test = "spire_sends_federated_bundles";
    let spec =
        |domain: &str| ServerSpec { endpoint: Some(Profile::Spiffe), ..ServerSpec::new(domain) };
    let Some(ours) = Server::start(test, spec("ours.test")).await else { return };
    let Some(theirs) = Server::start(test, spec("theirs.test")).await else { return };
    ours.federate_with(&theirs).await;
    let agent = ours.agent("one").await;
    let own_uid = 0;
    let mut entry = Entry::new("/ns/shop/sa/orders", own_uid);
    entry.federates_with = &["theirs.test"];
    let with = ours.entry(&entry).await;
    agent.until_known(own_uid).await;

    let source = CertSource::WorkloadApi {
        endpoint: Endpoint::Unix(agent.socket()),
        jwt_keys: JwtKeys::Follow,
    };
    let handle = source::spawn(source, None, Arc::new(|| (now_s() * 1000.0) as u64));
    let mut certs = handle.certs();
    let domain = |text: &str| TrustDomain::parse(text).unwrap();
    let both = |certs: &Arc<Certs>| {
        let domains = [domain("ours.test"), domain("theirs.test")];
        domains.iter().all(|domain| {
            certs.bundles.get(domain).is_some() && certs.jwt_bundles.get(domain).is_some()
        })
    };
    let held = wait::ends("both bundles", certs.wait_for(both)).await.unwrap().clone();
    let (own, foreign) = (domain("ours.test"), domain("theirs.test"));
    assert_ne!(held.bundles.get(&own), held.bundles.get(&foreign));

    // The token keys are those that sign tokens.
    let told = agent.tell(own_uid, &["fetch", "jwt", "-audience", "x", "-output", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    let token = told[0]["svids"][0]["svid"].as_str().unwrap().to_owned();
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let kid = header["kid"].as_str().unwrap().to_owned();
    assert!(held.jwt_bundles.get(&own).unwrap().kids().contains(&kid), "{kid}: {held:?}");
    assert!(!held.jwt_bundles.get(&foreign).unwrap().kids().contains(&kid));

    ours.delete(&with).await;
    ours.entry(&Entry::new("/ns/shop/sa/orders", own_uid)).await;
    let alone =
        |certs: &Arc<Certs>| certs.identity.is_some() && certs.bundles.get(&foreign).is_none();
    wait::ends("the foreign bundle to go", certs.wait_for(alone)).await.unwrap();
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}
