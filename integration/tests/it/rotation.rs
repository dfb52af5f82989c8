//! Certificates that change while requests run.

use std::time::{Duration, Instant};

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::pki::Request;
use countersign_integration::world::{HOST, Setting};
use countersign_integration::{App, Authority, Lab, Proxy, World, tls, wait};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

/// Rotation every few seconds under load: long enough for five of them.
#[tokio::test]
async fn rotation_under_load_loses_no_request() {
    let setting = Setting { ttl: "1m", rotate: "3s", ..Setting::default() };
    under_load(&setting, 40, Duration::from_secs(12)).await;
}

/// The promise as it is made: three minutes at 300 requests a second, rotation every 30 s.
#[tokio::test]
#[ignore = "three minutes; cargo xtask test soak"]
async fn soak_rotation_every_30_s_at_300_requests_per_s() {
    let setting = Setting { ttl: "10m", rotate: "30s", ..Setting::default() };
    under_load(&setting, 300, Duration::from_secs(180)).await;
}

const RENEWALS: f64 = 5.0;

async fn under_load(setting: &Setting, rate: u32, least: Duration) {
    let world = World::with(setting).await;
    let alice = world.user("alice");
    let began = Instant::now();
    let load = |protocol| {
        let alice = alice.clone();
        let make = move || Call::get(HOST, "/v1/users/alice/orders").bearer(&alice);
        Load::start(world.gateway.gateway(), protocol, rate / 2, make)
    };
    let loads = [load(Protocol::Http1), load(Protocol::Http2)];
    let (end, ended) = oneshot::channel();
    let held = tokio::spawn(hold_stream(world.gateway.gateway(), alice.clone(), ended));
    let deadline = least * 3 + wait::DEADLINE;
    for proxy in [&world.gateway, &world.orders, &world.billing] {
        wait::until_within(deadline, "five rotations", async || {
            let renewals = proxy.metric("countersign_identity_renewals_total", &[]).await;
            (renewals >= RENEWALS && began.elapsed() >= least).then_some(())
        })
        .await;
    }
    end.send(()).unwrap();
    let pieces = held.await.unwrap();
    let mut sent = 1;
    for load in loads {
        let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        sent += outcome.sent;
    }
    assert!(pieces > 3, "the held stream moved {pieces} pieces");
    for proxy in [&world.gateway, &world.orders, &world.billing] {
        wait::until_true("one record for each request", || proxy.decisions().len() == sent).await;
    }
}

/// A stream that stays open and keeps moving until it is told to end.
async fn hold_stream(
    gateway: std::net::SocketAddr,
    alice: String,
    mut ended: oneshot::Receiver<()>,
) -> usize {
    let (sender, body) = client::stream();
    let mut conn = Conn::h2(gateway).await.unwrap();
    let call = Call::post(HOST, "/v1/users/alice/echo", "").bearer(&alice).body(body);
    let mut response = conn.start(call).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut pieces = 0;
    while ended.try_recv().is_err() {
        let piece = format!("piece {pieces};");
        sender.send(Ok(Frame::data(piece.clone().into()))).await.unwrap();
        let mut back = Vec::new();
        while back.len() < piece.len() {
            let frame = wait::ends("a piece", response.body_mut().frame()).await;
            back.extend(frame.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(back, piece.as_bytes());
        pieces += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    drop(sender);
    let rest = wait::ends("the end", response.into_body().collect()).await.unwrap();
    assert_eq!(rest.to_bytes().len(), 0);
    pieces
}

/// New authority, new certificate, new key, one file at a time: no restart, no bad moment.
#[tokio::test]
async fn bundle_swap_without_restart() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let (next, known) = (Authority::new("lab.test"), lab.ca.leaf("shop", "web"));
    let newcomer = next.leaf("shop", "web");
    let attempt = async |leaf: &countersign_integration::Leaf| -> bool {
        let config = tls::client(Some(leaf), &[tls::MESH_H2]);
        let Ok(mut conn) = Conn::tls(orders.inbound(), config).await else { return false };
        conn.send(Call::get("orders.shop", "/")).await.is_ok_and(|reply| reply.status == 200)
    };
    assert!(!attempt(&newcomer).await);
    lab.write_text("bundle.pem", &format!("{}{}", lab.ca.pem(), next.pem()));
    wait::until("the new authority", async || attempt(&newcomer).await.then_some(())).await;
    assert!(attempt(&known).await, "the old one still counts");
    lab.write_text("bundle.pem", next.pem());
    next.leaf("shop", "orders").write(lab.folder(), "shop.orders.id");
    wait::until("the old authority to be gone", async || (!attempt(&known).await).then_some(()))
        .await;
    assert!(attempt(&newcomer).await);
}

/// A certificate without its key is half a rotation: the old pair serves until both are there.
#[tokio::test]
async fn files_source_survives_torn_rotation() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let fresh = lab.ca.leaf("shop", "orders");
    let presented = async || {
        let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
        let stream = client::tls_stream(orders.inbound(), config).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let old = presented().await;
    lab.write_text("shop.orders.id.pem", &fresh.chain_pem);
    wait::until_true("the complaint", || orders.log().contains("identity source failed")).await;
    assert_eq!(presented().await, old);
    lab.write_text("shop.orders.id.key", &fresh.key_pem);
    wait::until("the new pair", async || (presented().await == fresh.chain[0]).then_some(())).await;
}

/// A connection does not outlive the certificate that opened it.
#[tokio::test]
async fn attack_keeps_http_connection_past_certificate_end() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let short = lab.ca.issue(Request::new(&[&lab.id("shop", "web")]).lives_s(6));
    let mut conn = lab.peer(&orders, &short).await;
    assert_eq!(conn.send(Call::get("orders.shop", "/")).await.unwrap().status, 200);
    wait::until_true("the end of the connection", || conn.is_closed()).await;
    ended(&orders).await;
    // The last second of validity counts; after it nothing opens a connection again.
    wait::until("the certificate to be refused", async || {
        let config = tls::client(Some(&short), &[tls::MESH_H2]);
        let conn = Conn::tls(orders.inbound(), config).await;
        let Ok(mut conn) = conn else { return Some(()) };
        conn.send(Call::get("orders.shop", "/")).await.is_err().then_some(())
    })
    .await;
    orders.metric_reaches("countersign_tls_handshakes_total", &["result=\"expired\""], 1.0).await;
}

async fn ended(orders: &Proxy) {
    wait::until("no connection", async || {
        let open = orders.metric("countersign_connections", &["direction=\"inbound\""]).await;
        (open == 0.0).then_some(())
    })
    .await;
}
