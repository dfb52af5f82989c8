//! Going round the sidecar (T2): whoever gets round it wins plaintext of its own and nothing else,
//! because every other sidecar asks who is calling.

use std::net::{Ipv4Addr, SocketAddr};

use countersign_integration::client::{Call, Conn, raw};
use countersign_integration::documents::anybody;
use countersign_integration::netns::{Family, Mode, Pod, user};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Pair, Proxy, wait};
use serde_json::json;
use tokio::net::TcpStream;

/// The two pods, with a sidecar only at the one that is attacked.
struct Siege {
    pair: Pair,
    app: App,
    victim: Proxy,
}

impl Siege {
    async fn new(test: &str) -> Option<Siege> {
        let pair = Pair::new(test)?;
        let app = App::mirror_on(pair.billing.listen_all(Pair::PORT));
        let victim = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
        Some(Siege { pair, app, victim })
    }

    /// Where the app is.
    fn app_at(&self, family: Family) -> SocketAddr {
        self.pair.billing.at(family, Pair::PORT)
    }

    /// Both HTTP versions over plain connections, with headers that claim everything: refused for
    /// want of an identity, and the app hears nothing.
    async fn is_refused(&self, dial: impl AsyncFn() -> TcpStream) {
        let before = self.app.seen().len();
        for h2 in [false, true] {
            let stream = dial().await;
            let mut conn = match h2 {
                true => Conn::h2_over(stream).await.unwrap(),
                false => Conn::h1_over(stream).await.unwrap(),
            };
            let call = Call::get("billing.shop", "/")
                .header("countersign-caller", &self.pair.lab.id("shop", "orders"));
            let reply = conn.send(call).await.unwrap();
            refused(&self.victim, &reply, "peer_unauthenticated").await;
        }
        assert_eq!(self.app.seen().len(), before, "the app saw it");
    }
}

#[tokio::test]
async fn attack_dials_pod_ip_directly() {
    let Some(siege) = Siege::new("attack_dials_pod_ip_directly").await else { return };
    let orders = &siege.pair.orders;
    siege.is_refused(async || orders.connect(siege.app_at(Family::V4)).await.unwrap()).await;
    // Nor does the app's neighbour in the pod get round it by the pod's address; see also
    // `self_call_is_policed`. Bytes that are no HTTP are not passed on either.
    let stream = orders.connect(siege.app_at(Family::V4)).await.unwrap();
    assert_eq!(raw(stream, b"\x00\x01 whatever this is\r\n\r\n").await, "");
    assert!(siege.app.seen().is_empty());
}

/// Every port is captured, not only those that somebody wrote down.
#[tokio::test]
async fn attack_dials_undeclared_port() {
    let Some(siege) = Siege::new("attack_dials_undeclared_port").await else { return };
    let hidden = App::mirror_on(siege.pair.billing.listen_all(31_337));
    for family in Family::BOTH {
        let at = siege.pair.billing.at(family, 31_337);
        siege.is_refused(async || siege.pair.orders.connect(at).await.unwrap()).await;
    }
    assert!(hidden.seen().is_empty());
    siege.victim.metric_reaches("countersign_refusals_total", &["peer_unauthenticated"], 4.0).await;
}

#[tokio::test]
async fn attack_comes_over_ipv6() {
    let Some(siege) = Siege::new("attack_comes_over_ipv6").await else { return };
    let orders = &siege.pair.orders;
    siege.is_refused(async || orders.connect(siege.app_at(Family::V6)).await.unwrap()).await;
}

/// A pod whose rules do not exist yet calls as nobody, on connections that stay open, too; and its
/// sidecar is not ready.
#[tokio::test]
async fn attack_calls_out_before_rules_exist() {
    let Some(siege) = Siege::new("attack_calls_out_before_rules_exist").await else { return };
    let orders = &siege.pair.orders;
    let mut early = orders.h1(siege.app_at(Family::V4)).await.unwrap();
    let call = || Call::get("billing.shop", "/");
    refused(&siege.victim, &early.send(call()).await.unwrap(), "peer_unauthenticated").await;
    let spec = siege.pair.sidecar(orders, anybody(), Mode::Redirect).without_rules();
    let file = spec.write();
    let own = spec.launch();
    let is_not_ready = async || (own.ready().await?.0 == 503).then_some(());
    wait::until("an answer about readiness", is_not_ready).await;
    siege.is_refused(async || orders.connect(siege.app_at(Family::V4)).await.unwrap()).await;
    orders.redirect(&file);
    own.until_ready().await;
    let mut late = orders.h1(siege.app_at(Family::V4)).await.unwrap();
    assert_eq!(late.send(call()).await.unwrap().status, 200, "captured, thus with an identity");
    // What was opened before gains nothing by them. The kernel takes its next segment for the start
    // of a connection and captures that, which ends it.
    if let Ok(reply) = early.send(call()).await {
        refused(&siege.victim, &reply, "peer_unauthenticated").await;
    }
    assert_eq!(siege.app.seen().len(), 1);
}

#[tokio::test]
async fn attack_flushes_redirect_rules() {
    let Some(siege) = Siege::new("attack_flushes_redirect_rules").await else { return };
    let orders = &siege.pair.orders;
    let own = siege.pair.sidecar(orders, anybody(), Mode::Redirect).start().await;
    orders.space().nft("flush ruleset");
    wait::until("readiness to notice", || async {
        let (status, body) = own.ready().await?;
        (status == 503 && body.to_string().contains("bypassed")).then_some(())
    })
    .await;
    for family in ["ipv4", "ipv6"] {
        wait::until(&format!("the gauge of {family}"), async || {
            (own.metric("countersign_redirect_ok", &[family]).await == 0.0).then_some(())
        })
        .await;
    }
    wait::until_true("the reason in the log", || own.log().contains("DP-11")).await;
    siege.is_refused(async || orders.connect(siege.app_at(Family::V4)).await.unwrap()).await;
    orders.redirect(&own.file);
    own.until_ready().await;
}

/// The proxy's user is exempt from capture. Admission keeps it from others; where it does not, they
/// win plaintext of their own.
#[tokio::test]
async fn attack_runs_container_with_proxy_uid() {
    let Some(siege) = Siege::new("attack_runs_container_with_proxy_uid").await else { return };
    let orders = &siege.pair.orders;
    let own_app = App::mirror_on(orders.listen_all(Pair::PORT));
    let own = siege.pair.sidecar(orders, anybody(), Mode::Redirect).start().await;
    let as_proxy = |to: SocketAddr| ask(orders, &user::SIDECAR.to_string(), to);
    for family in Family::BOTH {
        let answer = as_proxy(siege.app_at(family));
        assert!(answer.starts_with("HTTP/1.1 403"), "{family:?}: {answer}");
        // Its own pod's app is behind the sidecar for this user as for any other.
        let answer = as_proxy(orders.at(family, Pair::PORT));
        assert!(answer.starts_with("HTTP/1.1 403"), "{family:?}: {answer}");
    }
    siege.victim.metric_reaches("countersign_refusals_total", &["peer_unauthenticated"], 2.0).await;
    own.metric_reaches("countersign_refusals_total", &["peer_unauthenticated"], 2.0).await;
    assert!(siege.app.seen().is_empty() && own_app.seen().is_empty());
    // Any other user is captured and speaks with the pod's identity.
    let answer = ask(orders, "1000", siege.app_at(Family::V4));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The head of what a program of `uid` in the pod gets for a plain request.
fn ask(pod: &Pod, uid: &str, to: SocketAddr) -> String {
    let mut command = user::command(uid, &[], "curl");
    command.args(["-s", "-i", "-m", "20", "-H", "Host: billing.shop", &format!("http://{to}/")]);
    let done = pod.space().output(command);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Whatever shares the node's network has no identity there.
#[tokio::test]
async fn attack_joins_host_network() {
    let Some(siege) = Siege::new("attack_joins_host_network").await else { return };
    for family in Family::BOTH {
        let to = siege.app_at(family);
        let dial = async || {
            let stream = siege.pair.net.node().run(move || std::net::TcpStream::connect(to));
            let stream = stream.unwrap();
            stream.set_nonblocking(true).unwrap();
            TcpStream::from_std(stream).unwrap()
        };
        siege.is_refused(dial).await;
    }
}

#[tokio::test]
async fn attack_dials_proxy_port_directly() {
    let Some(siege) = Siege::new("attack_dials_proxy_port_directly").await else { return };
    let (orders, billing) = (&siege.pair.orders, &siege.pair.billing);
    let hello = b"GET / HTTP/1.1\r\nHost: billing.shop\r\n\r\n";
    for family in Family::BOTH {
        for port in [15000, 15001, 15004, 15006] {
            let stream = orders.connect(billing.at(family, port)).await.unwrap();
            assert_eq!(raw(stream, hello).await, "", "{family:?} {port}");
        }
        let own: SocketAddr = match family {
            Family::V4 => "127.0.0.1:15006".parse().unwrap(),
            Family::V6 => "[::1]:15006".parse().unwrap(),
        };
        let stream = billing.connect(own).await.unwrap();
        assert_eq!(raw(stream, hello).await, "", "{own} from inside");
    }
    siege.victim.metric_reaches("countersign_loop_guard_total", &["own_port"], 10.0).await;
    assert!(siege.app.seen().is_empty() && siege.victim.decisions().is_empty());
}

/// Loopback belongs to the pod: nobody outside reaches it, and through the proxy neither.
#[tokio::test]
async fn attack_reaches_for_localhost_of_another_pod() {
    let Some(pair) = Pair::new("attack_reaches_for_localhost_of_another_pod") else { return };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, Pair::PORT));
    let app = App::mirror_on(pair.billing.listen(loopback));
    let orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
    // With a host that names it: the address dialled decides, not the header.
    let mut conn = pair.orders.h1(pair.billing.at(Family::V4, Pair::PORT)).await.unwrap();
    let reply = conn.send(Call::get("127.0.0.1:8080", "/")).await.unwrap();
    assert_ne!(reply.status, 200, "{}", reply.text());
    assert!(app.seen().is_empty());
    drop((orders, billing));
}

/// What is not TCP is not captured. `egressOther: drop` closes the pod for it but for DNS; without
/// it this is a network policy's task.
#[tokio::test]
async fn attack_sends_udp_past_the_proxy() {
    let Some(pair) = Pair::new("attack_sends_udp_past_the_proxy") else { return };
    let send = async |pod: &Pod, port: u16| {
        for (family, nobody) in [(Family::V4, "198.51.100.9"), (Family::V6, "2001:db8:9::9")] {
            let to = SocketAddr::new(nobody.parse().unwrap(), port);
            // Whether a dropped packet is an error to its sender is up to the kernel.
            let _ = pod.udp(family).unwrap().send_to(b"out", to).await;
        }
    };
    let _open = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    send(&pair.orders, 443).await;
    wait::until_true("the documented hole", || pair.net.sunk().udp == 2).await;
    let _closed = pair
        .sidecar(&pair.billing, anybody(), Mode::Redirect)
        .with(|spec| spec["interception"] = json!({"egressOther": "drop"}))
        .start()
        .await;
    send(&pair.billing, 443).await;
    send(&pair.billing, 53).await;
    wait::until_true("names to resolve", || pair.net.sunk().udp >= 4).await;
    assert_eq!(pair.net.sunk().udp, 4, "what was sent before, to port 443, did not leave");
}
