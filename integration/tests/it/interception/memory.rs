//! What connections cost: bytes of resident memory per connection, asserted against the documented
//! gates (`docs/performance.md`). The clients are processes of their own, because descriptors are
//! limited per process. Durations are not looked at.
//!
//! `cargo test --package countersign-integration --test it -- interception::memory --nocapture`
//! prints the figures.

use std::fs;
use std::net::SocketAddr;

use countersign_integration::client::Call;
use countersign_integration::hold::{Holder, Kind};
use countersign_integration::{App, BytesApp, Lab, Leaf, Proxy, client, documents, wait};
use serde_json::json;

const HOLDER: &str = env!("CARGO_BIN_EXE_countersign-hold");
const HOST: &str = "orders.shop";

/// Gates, bytes per connection. Plaintext HTTP/1.1 has given its buffers back by then.
const HTTP1_BYTES_MAX: u64 = 10 * 1024;
const MESH_BYTES_MAX: u64 = 56 * 1024;
const RELAY_BYTES_MAX: u64 = 8 * 1024;
const MESH_RELAY_BYTES_MAX: u64 = 20 * 1024;
const HALF_OPEN_BYTES_MAX: u64 = 20 * 1024;

/// Anonymous memory of a process that is resident: what it allocated and touched.
fn resident(proxy: &Proxy) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn descriptors(proxy: &Proxy) -> usize {
    fs::read_dir(format!("/proc/{}/fd", proxy.process.id())).unwrap().count()
}

/// The sidecars `orders`, called by the mesh, and `web`, whose app calls `orders`.
struct Pair {
    lab: Lab,
    orders: Proxy,
    web: Proxy,
    /// Descriptors of `orders` before anybody called.
    fresh: usize,
    _app: App,
}

impl Pair {
    async fn start() -> Pair {
        let lab = Lab::new();
        let app = App::mirror();
        let room = |spec: countersign_integration::proxy::Spec| spec.limit("CONNS_MAX", 18_000);
        let orders = lab.orders(&app, room).await;
        let id = lab.id("shop", "orders");
        let mesh = lab.mesh().destination("shop/orders", HOST, orders.inbound(), &[&id]);
        let mesh = lab.write("web-mesh.yaml", &mesh.document());
        let web = room(lab.proxy("shop", "web").outbound().documents(&[&mesh])).start().await;
        let fresh = descriptors(&orders);
        // Caches, pools and buffers that every proxy fills once are not what connections cost.
        for _ in 0..200 {
            assert_eq!(client::call(web.outbound(), Call::get(HOST, "/")).await.status, 200);
        }
        Pair { lab, orders, web, fresh, _app: app }
    }

    fn leaf(&self) -> Leaf {
        self.lab.ca.leaf("shop", "web")
    }

    async fn hold(&self, kind: Kind, address: SocketAddr, count: usize) -> Holder {
        let leaf = self.leaf();
        Holder::start(HOLDER, self.lab.folder(), (kind, address, count), Some(&leaf)).await
    }
}

/// Two thousand opaque connections that have fallen silent, each with its connection to the app:
/// 1,500 relayed as they came, 500 out of mutual TLS.
#[tokio::test]
async fn two_thousand_idle_opaque_connections() {
    let lab = Lab::new();
    let app = BytesApp::echo();
    let rule = |name: &str, caller: &str| {
        json!({"name": name, "effect": "allow",
            "match": {"caller": {caller: true}, "tcp": {"any": true}}})
    };
    let rules = json!([rule("mesh", "anyInMesh"), rule("anybody", "unauthenticated")]);
    let mesh = lab.write("db-mesh.yaml", &lab.mesh().document());
    let access = lab.write("db-access.yaml", &documents::access("shop", rules));
    let spec = lab.proxy("shop", "db").inbound(app.address).documents(&[&mesh, &access]);
    let spec = spec.limit("CONNS_MAX", 9_000);
    let db = spec.with(|config| config["app"][0]["protocol"] = json!("tcp")).start().await;
    let leaf = lab.ca.leaf("shop", "web");
    let hold = async |kind, count| {
        let order = (kind, db.inbound(), count);
        Holder::start(HOLDER, lab.folder(), order, Some(&leaf)).await
    };
    drop(hold(Kind::Tcp, 50).await);
    let before = resident(&db);
    let plain = hold(Kind::Tcp, 1_500).await;
    costs("TCP relay", 1_500, before, resident(&db), RELAY_BYTES_MAX);
    let before = resident(&db);
    let mesh = hold(Kind::MeshTcp, 500).await;
    costs("TCP relay out of mutual TLS", 500, before, resident(&db), MESH_RELAY_BYTES_MAX);
    assert!(db.metric("countersign_connections", &[]).await >= 2_000.0);
    drop((plain, mesh));
}

/// Prints a figure and compares it with its gate.
fn costs(what: &str, count: usize, before: u64, after: u64, gate: u64) {
    let each = after.saturating_sub(before) / count as u64;
    println!(
        "{what}: {count} connections, {} KiB before, {} KiB with them, {each} bytes each",
        before / 1024,
        after / 1024
    );
    assert!(each <= gate, "{what}: {each} bytes per connection, the gate is {gate}");
}

/// Eight thousand connections that have fallen silent: 6,000 of apps in plaintext and 2,000 of mesh
/// peers, all held at once; then a thousand half-open handshakes beside them.
#[tokio::test]
async fn eight_thousand_idle_connections_and_a_thousand_half_open() {
    let pair = Pair::start().await;
    let (web, orders) = (resident(&pair.web), resident(&pair.orders));
    let plain = pair.hold(Kind::Http1, pair.web.outbound(), 6_000).await;
    let room = web + 6_000 * HTTP1_BYTES_MAX;
    wait::until_true("buffers given back", || resident(&pair.web) <= room).await;
    costs("plaintext HTTP/1.1", 6_000, web, resident(&pair.web), HTTP1_BYTES_MAX);
    let peers = pair.hold(Kind::Mesh, pair.orders.inbound(), 2_000).await;
    costs("mutual TLS and HTTP/2", 2_000, orders, resident(&pair.orders), MESH_BYTES_MAX);
    for (proxy, count) in [(&pair.web, 6_000.0), (&pair.orders, 2_000.0)] {
        assert!(proxy.metric("countersign_connections", &[]).await >= count);
    }

    // Without the pooled connections to the app, which are closed when they have been idle.
    let files = pair.fresh + 2_000;
    wait::until_true("the app's pool", || descriptors(&pair.orders) < files + 10).await;
    let before = resident(&pair.orders);
    let held = wait::until("a thousand half-open handshakes at once", async || {
        (descriptors(&pair.orders) >= files + 1_010).then(|| resident(&pair.orders))
    });
    let opened = pair.hold(Kind::HalfOpen, pair.orders.inbound(), 1_050);
    let (held, half) = tokio::join!(held, opened);
    costs("half-open handshake", 1_000, before, held, HALF_OPEN_BYTES_MAX);
    // Who has a certificate and something to say is served.
    let reply = pair.lab.call_as_gateway(&pair.orders, Call::get(HOST, "/")).await;
    assert_eq!(reply.status, 200);
    let timeout = ["result=\"timeout\""];
    pair.orders.metric_reaches("countersign_tls_handshakes_total", &timeout, 1_000.0).await;
    drop((plain, peers, half));
}
