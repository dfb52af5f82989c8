//! A real SPIRE server and agent: two sidecars get their identities from it, keep them while it
//! rotates, restarts and is away, and lose them when it says so.

use std::time::{Duration, SystemTime};

use countersign_integration::client::Call;
use countersign_integration::components::spire::{Agent, Entry, Server, ServerSpec};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::{App, Lab, Proxy, documents, lab, ports, wait};

/// The users of the two sidecars; SPIRE tells them apart by it.
const ORDERS: u32 = 4747;
const BILLING: u32 = 4748;

/// Rotations that must be seen.
const ROTATIONS: f64 = 3.0;
/// For what takes a few lives of a certificate.
const LIVES: Duration = Duration::from_secs(120);

/// A server, its agent, and two sidecars that have their identities from it: the app of `orders`
/// calls the app of `billing`.
struct Two {
    server: Server,
    agent: Agent,
    orders: Proxy,
    billing: Proxy,
    _app: App,
    _lab: Lab,
}

impl Two {
    async fn start(test: &str, change: impl FnOnce(&Lab, &mut ServerSpec)) -> Option<Two> {
        let lab = Lab::new();
        let mut spec = ServerSpec::new(lab::DOMAIN);
        change(&lab, &mut spec);
        let server = Server::start(test, spec).await?;
        let agent = server.agent("one").await;
        server.entry(&Entry::new("/ns/shop/sa/orders", ORDERS)).await;
        server.entry(&Entry::new("/ns/shop/sa/billing", BILLING)).await;
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
            let spec = countersign_integration::proxy::Spec::new(
                lab.folder(),
                "shop",
                account,
                agent.source(),
            );
            spec.documents(&[&files[0], &files[1]]).as_user(uid)
        };
        let orders = spec("orders", ORDERS).outbound().launch();
        let billing = spec("billing", BILLING).inbound_at(at, app.address).launch();
        orders.until_ready().await;
        billing.until_ready().await;
        Some(Two { server, agent, orders, billing, _app: app, _lab: lab })
    }

    fn load(&self) -> Load {
        let make = || Call::get("billing.shop", "/");
        Load::start(self.orders.outbound(), Protocol::Http1, 100, make)
    }

    /// Waits until both have been given this many certificates more.
    async fn rotate(&self, more: f64) {
        for proxy in [&self.orders, &self.billing] {
            let least = renewals(proxy).await + more;
            wait::until_within(LIVES, "rotations", async || {
                (renewals(proxy).await >= least).then_some(())
            })
            .await;
        }
    }
}

async fn renewals(proxy: &Proxy) -> f64 {
    proxy.metric("countersign_identity_renewals_total", &["result=\"ok\""]).await
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
    two.rotate(2.0).await;
    stop(load).await;
}

/// The server is away for more than half a certificate's life.
#[tokio::test]
async fn spire_server_is_away_for_more_than_half_a_life() {
    let Some(mut two) = Two::start("spire_server_is_away", |_, _| {}).await else { return };
    let load = two.load();
    two.rotate(1.0).await;
    two.server.stop().await;
    // Certificates are dated back by ten seconds: 30 s to live are 40 s of life.
    wait::until_within(LIVES, "half a life", async || {
        let ends = two.billing.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
        (ends - now_s() < 14.0).then_some(())
    })
    .await;
    two.server.start_again().await;
    two.rotate(1.0).await;
    stop(load).await;
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}
