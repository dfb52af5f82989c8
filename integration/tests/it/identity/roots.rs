//! Roots are rotated while requests run: old, both, new. No handshake fails on the way, and at the
//! end nothing that rests on the old root goes on.

mod late;
mod replaced;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use countersign_integration::client::{Call, Conn};
use countersign_integration::documents::Mesh;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::process::Process;
use countersign_integration::proxy::Spec;
use countersign_integration::{
    App, Authority, Lab, Leaf, Proxy, app, lab, ports, programs, tls, wait,
};
use serde_json::json;

const HOST: &str = "orders.shop";
const PARTNER: &str = "partner.test";
const HANDSHAKES: &str = "countersign_tls_handshakes_total";

/// Handshakes that failed, both directions.
async fn failed_handshakes(proxy: &Proxy) -> f64 {
    // From one page: handshakes go on while it is read.
    let page = proxy.metrics().await;
    let series = page.lines().filter(|line| line.starts_with(HANDSHAKES));
    let failed = series.filter(|line| !line.contains("result=\"ok\""));
    failed.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Opens a connection for each request, with whatever certificate is the right one now.
struct Newcomers {
    leaf: Arc<std::sync::Mutex<Leaf>>,
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Newcomers {
    fn start(orders: SocketAddr, leaf: Leaf) -> Newcomers {
        let leaf = Arc::new(std::sync::Mutex::new(leaf));
        let (stop, opened) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (used, stopped, count) = (Arc::clone(&leaf), Arc::clone(&stop), Arc::clone(&opened));
        let task = tokio::spawn(async move {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let leaf = used.lock().unwrap().clone();
                let outcome = async {
                    let config = tls::client(Some(&leaf), &[tls::MESH_H2]);
                    Conn::tls(orders, config).await?.send(Call::get(HOST, "/")).await
                };
                match outcome.await {
                    Ok(reply) if reply.status == 200 => {}
                    other => failures.push(format!("{other:?}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Newcomers { leaf, stop, opened, task }
    }

    fn now_with(&self, leaf: &Leaf) {
        *self.leaf.lock().unwrap() = leaf.clone();
    }

    async fn some_more(&self) {
        let least = self.opened.load(Ordering::Relaxed) + 20;
        wait::until_true("newcomers", || self.opened.load(Ordering::Relaxed) >= least).await;
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.task.await.unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
        self.opened.load(Ordering::Relaxed)
    }
}

const IN_FORCE: &str = "certificates in force";

/// Waits until what was written is in force at a proxy.
async fn in_force(proxy: &Proxy, write: impl FnOnce()) {
    let count = || proxy.log().matches(IN_FORCE).count();
    // The start is told too, a moment after it.
    wait::until_true("the first ones", || count() > 0).await;
    let before = count();
    write();
    wait::until_true(IN_FORCE, || count() > before).await;
}

#[tokio::test]
async fn root_rotation_under_load_fails_no_handshake() {
    // Slow enough that some requests are always under way.
    let app = App::serving(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            app::status(200)
        })
    });
    let (lab, new) = (Lab::new(), Authority::new(lab::DOMAIN));
    let out = ports::free();
    let orders = lab.orders(&app, |spec| spec).await;
    let id = lab.id("shop", "orders");
    let mesh = lab.mesh().destination("shop/orders", HOST, orders.inbound(), &[&id]);
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let web = lab.proxy("shop", "web").outbound_at(out).documents(&[&mesh]).start().await;
    let load = Load::start(web.outbound(), Protocol::Http1, 100, || Call::get(HOST, "/"));
    let (old_peer, new_peer) = (lab.ca.leaf("shop", "peer"), new.leaf("shop", "peer"));
    let newcomers = Newcomers::start(orders.inbound(), old_peer.clone());
    let mut held = lab.peer(&orders, &old_peer).await;
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let token = lab.gateway.mint(&id);
    let with_token = || Call::get(HOST, "/").context(&token);
    assert_eq!(gateway.send(with_token()).await.unwrap().status, 200);

    // Both roots count everywhere before anybody signs with the new one.
    in_force(&web, || {
        drop(lab.write_text("bundle.pem", &format!("{}{}", lab.ca.pem(), new.pem())))
    })
    .await;
    // Written for both of them: what it started with, and the two roots.
    wait::until_true("both roots", || orders.log().matches(IN_FORCE).count() >= 2).await;
    newcomers.now_with(&new_peer);
    newcomers.some_more().await;

    // Then everybody gets a certificate of the new root: the caller first, so that its connections
    // are those on which the callee showed the old one.
    in_force(&web, || drop(new.leaf("shop", "web").write(lab.folder(), "shop.web.id"))).await;
    newcomers.some_more().await;
    in_force(&orders, || drop(new.leaf("shop", "orders").write(lab.folder(), "shop.orders.id")))
        .await;
    newcomers.some_more().await;
    assert_eq!(held.send(Call::get(HOST, "/")).await.unwrap().status, 200, "both roots count");
    // Verified and cached: what is refused later is so because of its root.
    assert_eq!(gateway.send(with_token()).await.unwrap().status, 200);
    for proxy in [&orders, &web] {
        assert_eq!(failed_handshakes(proxy).await, 0.0);
    }

    // The old root goes, and everything that rests on it.
    lab.write_text("bundle.pem", new.pem());
    wait::until_true("the end of what the old root vouched for", || held.is_closed()).await;
    wait::until_true("the gateway's too", || gateway.is_closed()).await;
    newcomers.some_more().await;
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert_eq!(failed_handshakes(&orders).await, 0.0);
    let opened = newcomers.stop().await;
    println!("{opened} handshakes and {} requests, none failed", outcome.sent);

    // A token whose signer's certificate is of the old root, carried by one of the new.
    let carrier = new.issue(Request::new(&[&lab.id("edge", "gateway")]));
    let mut conn = lab.peer(&orders, &carrier).await;
    let reply = conn.send(with_token()).await.unwrap();
    refused(&orders, &reply, "key_unknown").await;
    let ended = ["reason=\"revoked\""];
    orders.metric_reaches("countersign_connections_ended_total", &ended, 2.0).await;
}

/// The development authority of a partner changes its root all by itself: published for four
/// refresh hints, then it signs, then the old one goes. The partner's sidecar follows by the
/// Workload API, ours by the bundle endpoint, and no request fails.
#[tokio::test]
async fn dev_authority_rotates_its_root_and_a_federated_mesh_follows() {
    let (lab, app) = (Lab::new(), App::mirror());
    let (endpoint, authority) = partner(&lab).await;
    let entry = json!({"endpoint": {
        "url": format!("https://{endpoint}/"), "profile": "https_spiffe",
        "endpointId": format!("spiffe://{PARTNER}/countersign/authority"),
        "initialBundle": {"file": "partner.pem"},
    }});
    let mesh = lab.mesh().with(|spec| {
        spec["federation"] = json!([{"trustDomain": PARTNER, "bundle": entry}]);
    });
    let web = format!("spiffe://{PARTNER}/ns/shop/sa/web");
    let rules = json!([{"name": "partner", "effect": "allow", "context": "none",
        "match": {"caller": {"anyOf": [{"spiffeId": web}]}}}]);
    let orders = lab
        .orders_with(&app, &mesh, rules, |spec| {
            spec.limit("BUNDLE_REFRESH_S_MIN", 1).with(|config| {
                config["listeners"]["inbound"][0]["trustDomains"] = json!([PARTNER]);
            })
        })
        .await;
    let caller = caller(&lab, &orders).await;
    let load = Load::start(caller.outbound(), Protocol::Http1, 100, || Call::get(HOST, "/"));
    let domain = format!("trust_domain=\"{PARTNER}\"");
    // The first bundle, the second root beside it, the second root alone.
    wait::until_within(3 * wait::DEADLINE, "the whole rotation", async || {
        let labels = [domain.as_str(), "result=\"changed\""];
        let changed = orders.metric("countersign_federation_fetches_total", &labels).await;
        (changed >= 3.0 && authority.stdout().contains("root Removed")).then_some(())
    })
    .await;
    let seen = app.seen().len();
    wait::until_true("requests under the new root", || app.seen().len() > seen + 50).await;
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    for proxy in [&orders, &caller] {
        assert_eq!(failed_handshakes(proxy).await, 0.0);
    }
    let labels = [domain.as_str(), "result=\"failed\""];
    assert_eq!(orders.metric("countersign_federation_fetches_total", &labels).await, 0.0);
    println!("{} requests, none failed", outcome.sent);
}

/// The partner's authority: leaves of 8 s, a root every 13 s.
async fn partner(lab: &Lab) -> (SocketAddr, Process) {
    let endpoint = ports::free();
    let mut command = Command::new(programs::cli());
    command.args(["dev", "authority", "--trust-domain", PARTNER, "--workload", "shop/web"]);
    command.args(["--ttl", "8s", "--rotate", "3s", "--refresh-hint", "1s", "--rotate-root", "13s"]);
    command.arg("--dir").arg(lab.folder().join("ids"));
    command.arg("--write-bundle").arg(lab.folder().join("partner.pem"));
    command.args(["--bundle-endpoint", &endpoint.to_string()]);
    let process = Process::start("partner", command, lab.folder());
    wait::until_true("the partner's authority", || process.stdout().contains("ready")).await;
    (endpoint, process)
}

/// The partner's sidecar `web`, which may call `orders`.
async fn caller(lab: &Lab, orders: &Proxy) -> Proxy {
    let ours = json!([{"trustDomain": lab::DOMAIN, "bundle": {"file": "bundle.pem"}}]);
    let mesh = Mesh::new(PARTNER).with(|spec| spec["federation"] = ours).destination(
        "shop/orders",
        HOST,
        orders.inbound(),
        &[&lab.id("shop", "orders")],
    );
    let mesh = lab.write("partner-mesh.yaml", &mesh.document());
    let source = json!({"workloadApi": {"socket": lab.folder().join("ids/shop.web.sock")}});
    Spec::new(lab.folder(), "shop", "web", source).outbound().documents(&[&mesh]).start().await
}
