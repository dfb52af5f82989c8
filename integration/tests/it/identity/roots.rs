//! Roots are rotated while requests run: old, both, new. No handshake fails on the way, and at the
//! end nothing that rests on the old root goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign_integration::client::{Call, Conn};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::outcome::refused;
use countersign_integration::pki::Request;
use countersign_integration::{App, Authority, Lab, Leaf, Proxy, lab, ports, tls, wait};

const HOST: &str = "orders.shop";
const HANDSHAKES: &str = "countersign_tls_handshakes_total";

/// Handshakes that failed, both directions.
async fn failed_handshakes(proxy: &Proxy) -> f64 {
    let all = proxy.metric(HANDSHAKES, &[]).await;
    all - proxy.metric(HANDSHAKES, &["result=\"ok\""]).await
}

/// Opens a connection for each request, with whatever certificate is the right one now.
struct Newcomers {
    leaf: Arc<std::sync::Mutex<Leaf>>,
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Newcomers {
    fn start(orders: std::net::SocketAddr, leaf: Leaf) -> Newcomers {
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

/// Waits until a proxy took over what was written.
async fn takes_over(proxy: &Proxy, write: impl FnOnce()) {
    let name = "countersign_identity_generation";
    let before = proxy.metric(name, &[]).await;
    write();
    wait::until("the next generation", async || {
        (proxy.metric(name, &[]).await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn root_rotation_under_load_fails_no_handshake() {
    let (lab, app, new) = (Lab::new(), App::mirror(), Authority::new(lab::DOMAIN));
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
    takes_over(&web, || {
        drop(lab.write_text("bundle.pem", &format!("{}{}", lab.ca.pem(), new.pem())))
    })
    .await;
    takes_over_already(&orders).await;
    newcomers.now_with(&new_peer);
    newcomers.some_more().await;

    // Then everybody gets a certificate of the new root.
    takes_over(&orders, || drop(new.leaf("shop", "orders").write(lab.folder(), "shop.orders.id")))
        .await;
    takes_over(&web, || drop(new.leaf("shop", "web").write(lab.folder(), "shop.web.id"))).await;
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

/// Waits until a proxy has more than it started with.
async fn takes_over_already(orders: &Proxy) {
    wait::until("both roots", async || {
        (orders.metric("countersign_identity_generation", &[]).await >= 2.0).then_some(())
    })
    .await;
}
