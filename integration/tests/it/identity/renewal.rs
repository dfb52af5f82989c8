//! Renewal under an authority that fails: as long as the certificate lasts nobody notices, and not
//! a second longer does anybody get through.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_integration::client::{self, Call};
use countersign_integration::failing_authority::FailingAuthority;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Conn, Lab, Leaf, Proxy, documents, memory, ports, tls, wait};
use serde_json::json;

const HOST: &str = "billing.shop";
const EXPIRES: &str = "countersign_identity_expires_timestamp_seconds";

/// Two sidecars whose certificates come from `authority`: what the app of `orders` sends to
/// `billing` comes out at `app`.
struct Two {
    orders: Proxy,
    billing: Proxy,
    _app: App,
    _lab: Lab,
}

impl Two {
    async fn start(authority: &FailingAuthority) -> Two {
        let (lab, app, at) = (Lab::new(), App::mirror(), ports::free());
        let mesh = lab.mesh().destination("shop/billing", HOST, at, &[&lab.id("shop", "billing")]);
        let mesh = lab.write("mesh.yaml", &mesh.document());
        let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
        let spec = |account: &str| {
            let source = authority.source(lab.folder(), account);
            let id = lab.id("shop", account);
            Spec::new(lab.folder(), "shop", account, source)
                .documents(&[&mesh, &access])
                .with(|config| config["identity"]["expectedId"] = json!(id))
        };
        let orders = spec("orders").outbound().launch();
        let billing = spec("billing").inbound_at(at, app.address).launch();
        orders.until_ready().await;
        billing.until_ready().await;
        Two { orders, billing, _app: app, _lab: lab }
    }

    fn both(&self) -> [&Proxy; 2] {
        [&self.orders, &self.billing]
    }
}

/// The first four attempts of each renewal fail. Each attempt is made with a key of its own, the
/// fifth succeeds, and of the requests meanwhile none fails.
#[tokio::test]
async fn four_failures_before_every_renewal_cost_no_request() {
    let authority = FailingAuthority::start(24, 4);
    let two = Two::start(&authority).await;
    let load = Load::start(two.orders.outbound(), Protocol::Http1, 100, || Call::get(HOST, "/"));
    for proxy in two.both() {
        wait::until_within(Duration::from_secs(150), "three renewals", async || {
            let ok = ["result=\"ok\""];
            let got = proxy.metric("countersign_identity_renewals_total", &ok).await;
            (got >= 4.0).then_some(())
        })
        .await;
        let failed = ["result=\"error\"", "source=\"vault\""];
        assert!(proxy.metric("countersign_identity_renewals_total", &failed).await >= 12.0);
    }
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.sent > 1_000, "{}", outcome.sent);
    println!("{} requests, none failed", outcome.sent);

    let asked = authority.asked();
    let keys: BTreeSet<&str> = asked.iter().map(|asked| asked.csr.as_str()).collect();
    assert_eq!(keys.len(), asked.len(), "a key was used twice");
    for role in ["orders", "billing"] {
        let granted: Vec<bool> =
            asked.iter().filter(|asked| asked.role == role).map(|asked| asked.granted).collect();
        assert!(granted.iter().filter(|granted| **granted).count() >= 4);
        let rounds = granted.chunks_exact(5);
        assert!(rounds.into_iter().all(|round| round == [false, false, false, false, true]));
    }
    let log = two.orders.log();
    assert!(log.contains("the disk is full"), "{log}");
    assert!(log.contains("next try in"), "{log}");
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn ends(proxy: &Proxy) -> u64 {
    proxy.metric(EXPIRES, &[]).await as u64
}

async fn connect(proxy: &Proxy, leaf: &Leaf) -> anyhow::Result<Conn> {
    Conn::tls(proxy.inbound(), tls::client(Some(leaf), &[tls::MESH_H2])).await
}

/// What a peer and the app of `orders` get at this moment: a handshake with `billing`, and a status.
async fn tries(two: &Two, peer: &Leaf) -> (bool, u16) {
    let answered = match connect(&two.billing, peer).await {
        Ok(mut conn) => {
            conn.send(Call::get(HOST, "/")).await.is_ok_and(|reply| reply.status == 200)
        }
        Err(_) => false,
    };
    (answered, client::call(two.orders.outbound(), Call::get(HOST, "/")).await.status)
}

/// A dead authority: handshakes and requests until the certificate ends, none one second later,
/// then on by itself when the authority is back.
#[tokio::test]
async fn a_dead_authority_is_survived_until_the_certificate_ends_and_no_longer() {
    let authority = FailingAuthority::start(20, 0);
    let two = Two::start(&authority).await;
    let peer = authority.ca().leaf("shop", "web");
    let mut held = connect(&two.billing, &peer).await.unwrap();
    assert_eq!(held.send(Call::get(HOST, "/")).await.unwrap().status, 200);
    authority.dead(true);
    let first = ends(&two.orders).await.min(ends(&two.billing).await);
    let mut served = 0;
    while now_s() <= first {
        let outcome = tries(&two, &peer).await;
        // What was answered after the end says nothing about the time before it.
        if now_s() <= first {
            assert_eq!(outcome, (true, 200), "{} s before the end", first - now_s());
            served += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(served > 10, "{served}");
    for proxy in two.both() {
        assert_eq!(proxy.metric("countersign_identity_late", &[]).await, 1.0);
        let log = proxy.log();
        assert!(log.contains("ID-01") && log.contains("Vault is sealed"), "{log}");
    }
    let last = ends(&two.orders).await.max(ends(&two.billing).await);
    while now_s() <= last {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..10 {
        assert_eq!(tries(&two, &peer).await, (false, 503), "{} s after the end", now_s() - last);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait::until("the end of what was open", async || {
        (held.is_closed() || held.send(Call::get(HOST, "/")).await.is_err()).then_some(())
    })
    .await;
    for proxy in two.both() {
        wait::until("not ready", async || proxy.ready().await.filter(|(status, _)| *status == 503))
            .await;
        assert!(proxy.log().contains("ID-02"), "{}", proxy.log());
    }
    authority.dead(false);
    for proxy in two.both() {
        proxy.until_ready().await;
    }
    assert_eq!(tries(&two, &peer).await, (true, 200));
}

/// A key that was replaced is gone from memory once nothing uses it; the same search finds the key
/// that is in use, so it would have found the other.
#[tokio::test]
async fn the_old_key_is_wiped_when_its_last_connection_ends() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let (certificate, key) =
        (lab.folder().join("shop.orders.id.pem"), lab.folder().join("shop.orders.id.key"));
    let old = Leaf::read(&certificate, &key).unwrap();
    let mut held = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    assert_eq!(held.send(Call::get("orders.shop", "/")).await.unwrap().status, 200);
    assert!(memory::copies(&orders.process, &memory::scalar(&old)) > 0, "nothing is found at all");

    let new = lab.ca.leaf("shop", "orders");
    let ok = ["result=\"ok\""];
    let before = orders.metric("countersign_identity_renewals_total", &ok).await;
    new.write(lab.folder(), "shop.orders.id");
    orders.metric_reaches("countersign_identity_renewals_total", &ok, before + 1.0).await;
    assert_eq!(held.send(Call::get("orders.shop", "/")).await.unwrap().status, 200);
    drop(held);
    wait::until_true("the old key to be wiped", || {
        memory::copies(&orders.process, &memory::scalar(&old)) == 0
    })
    .await;
    assert!(memory::copies(&orders.process, &memory::scalar(&new)) > 0);
}
