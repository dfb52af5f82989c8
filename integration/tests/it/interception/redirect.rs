//! The redirect itself: what `init` does, what is captured, what the loop guard and the self-test
//! make of it.

mod init;
mod segment;

use countersign_integration::client::{Call, raw};
use countersign_integration::documents::anybody;
use countersign_integration::netns::{Family, Mode, Pod};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::{App, Conn, Pair, Proxy, wait};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const HOST: &str = "orders.shop";

/// Lets in one workload of `shop` and nobody else.
fn only(account: &str) -> Value {
    json!([{"name": "only", "effect": "allow", "context": "optional", "match":
        {"caller": {"anyOf": [{"namespace": "shop", "serviceAccount": account}]}}}])
}

/// What readiness says about the redirect.
async fn about_redirect(proxy: &Proxy) -> String {
    let Some((_, body)) = proxy.ready().await else { return String::new() };
    let missing = body["missing"].as_array().cloned().unwrap_or_default();
    let about = missing.into_iter().find(|entry| entry["condition"] == "redirect");
    about.map(|entry| entry["why"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

async fn until_redirect_says(proxy: &Proxy, text: &str) -> String {
    let what = format!("readiness that says `{text}`");
    wait::until(&what, || async {
        let said = about_redirect(proxy).await;
        said.contains(text).then_some(said)
    })
    .await
}

/// Changes the rules of a pod behind the proxy's back.
fn nft(pod: &Pod, text: &str) {
    pod.space().nft(text);
}

#[tokio::test]
async fn ipv6_is_captured() {
    let Some(pair) = Pair::new("ipv6_is_captured") else { return };
    let app = App::mirror_on(pair.billing.listen_all(Pair::PORT));
    let _orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let billing = pair.sidecar(&pair.billing, only("orders"), Mode::Redirect).start().await;
    for family in Family::BOTH {
        let mut conn = pair.orders.h1(pair.billing.at(family, Pair::PORT)).await.unwrap();
        let reply = conn.send(Call::get("billing.shop", "/")).await.unwrap();
        let record = allowed(&billing, &reply).await;
        assert_eq!(record["peer"]["id"], pair.lab.id("shop", "orders"), "{family:?}: {record}");
        for metric in ["ipv4", "ipv6"] {
            let label = format!("family=\"{metric}\"");
            assert_eq!(billing.metric("countersign_redirect_ok", &[&label]).await, 1.0);
        }
    }
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn self_call_is_policed() {
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let Some(pair) = Pair::new("self_call_is_policed") else { return };
        let app = App::mirror_on(pair.orders.listen_all(Pair::PORT));
        let orders = pair.sidecar(&pair.orders, only("billing"), mode).start().await;
        for family in Family::BOTH {
            let itself = pair.orders.at(family, Pair::PORT);
            let mut conn = pair.orders.h1(itself).await.unwrap();
            let reply = conn.send(Call::get(HOST, "/")).await.unwrap();
            let record = refused(&orders, &reply, "policy_denied").await;
            assert_eq!(record["peer"]["id"], pair.lab.id("shop", "orders"), "{mode:?} {record}");
        }
        assert!(app.seen().is_empty());
        pair.sidecar(&pair.orders, only("orders"), mode);
        orders.reload();
        wait::until("the new policy", || async {
            let mut conn = pair.orders.h1(pair.orders.at(Family::V6, Pair::PORT)).await.ok()?;
            let reply = conn.send(Call::get(HOST, "/")).await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        // Loopback is the app's own business.
        let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], Pair::PORT));
        let reply = pair.orders.h1(loopback).await.unwrap().send(Call::get(HOST, "/")).await;
        assert_eq!(reply.unwrap().seen("countersign-caller"), None, "{mode:?}");
    }
}

#[tokio::test]
async fn loopback_only_app_stays_private() {
    let Some(pair) = Pair::new("loopback_only_app_stays_private") else { return };
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], Pair::PORT));
    let app = App::mirror_on(pair.billing.listen(loopback));
    let _orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
    let mut conn = pair.orders.h1(pair.billing.at(Family::V4, Pair::PORT)).await.unwrap();
    let reply = conn.send(Call::get("billing.shop", "/")).await.unwrap();
    refused(&billing, &reply, "app_not_listening").await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn pod_ip_app_is_reachable() {
    let Some(pair) = Pair::new("pod_ip_app_is_reachable") else { return };
    let apps = Family::BOTH.map(|family| {
        let own = pair.billing.at(family, Pair::PORT);
        App::mirror_on(pair.billing.listen(own))
    });
    let _orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let _billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
    for (family, app) in Family::BOTH.into_iter().zip(&apps) {
        let mut conn = pair.orders.h1(pair.billing.at(family, Pair::PORT)).await.unwrap();
        let reply = conn.send(Call::get("billing.shop", "/")).await.unwrap();
        assert_eq!(reply.status, 200, "{family:?}: {}", reply.text());
        assert_eq!(app.seen().len(), 1, "{family:?}");
    }
}

#[tokio::test]
async fn dialling_15001_15006_from_outside() {
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let Some(pair) = Pair::new("dialling_15001_15006_from_outside") else { return };
        let billing = pair.sidecar(&pair.billing, anybody(), mode).start().await;
        let hello = b"GET / HTTP/1.1\r\nHost: billing.shop\r\n\r\n";
        let mut closed = 0.0;
        for family in Family::BOTH {
            for port in [15000, 15001, 15004, 15006] {
                let stream = pair.orders.connect(pair.billing.at(family, port)).await.unwrap();
                assert_eq!(raw(stream, hello).await, "", "{mode:?} {family:?} {port}");
                closed += 1.0;
                let guard = "countersign_loop_guard_total";
                billing.metric_reaches(guard, &["own_port"], closed).await;
            }
            // The app of the pod itself: its own address is captured, loopback is not.
            let stream = pair.billing.connect(pair.billing.at(family, 15006)).await.unwrap();
            assert_eq!(raw(stream, hello).await, "", "{mode:?} {family:?} own 15006");
            closed += 1.0;
            billing.metric_reaches("countersign_loop_guard_total", &["own_port"], closed).await;
        }
        for text in ["127.0.0.1:15001", "[::1]:15001"] {
            let stream = pair.billing.connect(text.parse().unwrap()).await.unwrap();
            assert_eq!(raw(stream, hello).await, "", "{mode:?} {text}");
        }
        billing.metric_reaches("countersign_loop_guard_total", &["not_redirected"], 2.0).await;
        assert!(billing.decisions().is_empty(), "nothing was taken for a request");
    }
}

/// What answers on 15022 is the redirect: nobody listens there.
#[tokio::test]
async fn a_probe_on_15022_is_answered_with_readiness() {
    let Some(pair) = Pair::new("a_probe_on_15022_is_answered_with_readiness") else { return };
    let billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
    for family in Family::BOTH {
        let mut conn = pair.orders.h1(pair.billing.at(family, 15022)).await.unwrap();
        let reply = conn.send(Call::get("probe", "/ready")).await.unwrap();
        assert_eq!((reply.status, reply.json()["ready"].clone()), (200, json!(true)));
    }
    assert!(billing.decisions().is_empty(), "no policy was asked");
    nft(&pair.billing, "flush chain inet countersign inbound");
    let refused = pair.orders.connect(pair.billing.at(Family::V4, 15022)).await;
    assert!(refused.is_err(), "without the rule nobody answers");
}

/// A proxy that is not in the path of its pod serves nobody, whoever reaches it.
#[tokio::test]
async fn nothing_is_served_before_the_redirect_is_proven() {
    let Some(pair) = Pair::new("nothing_is_served_before_the_redirect_is_proven") else { return };
    let app = App::mirror_on(pair.billing.listen_all(Pair::PORT));
    let spec = pair.sidecar(&pair.billing, only("orders"), Mode::Redirect).without_rules();
    let _orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let file = spec.write();
    pair.billing.redirect(&file);
    take_out(&pair.billing, "outbound", "outbound/self-test4");
    let billing = spec.launch();
    until_redirect_says(&billing, "outbound/self-test4").await;
    let mut conn = pair.orders.h1(pair.billing.at(Family::V4, Pair::PORT)).await.unwrap();
    let waiting = tokio::spawn(async move { conn.send(Call::get("billing.shop", "/")).await });
    billing.metric_reaches("countersign_worker_connections", &[], 0.0).await;
    assert!(app.seen().is_empty() && billing.decisions().is_empty());
    pair.billing.redirect(&file);
    billing.until_ready().await;
    // The caller's handshake may have run out of time meanwhile; a fresh call must do.
    let _ = waiting.await.unwrap();
    let mut conn = pair.orders.h1(pair.billing.at(Family::V4, Pair::PORT)).await.unwrap();
    assert_eq!(conn.send(Call::get("billing.shop", "/")).await.unwrap().status, 200);
}

/// Each rule that the pod itself can test is missed by name, and readiness comes back with it.
#[tokio::test]
async fn the_self_test_names_the_rule_that_is_missing() {
    let Some(pair) = Pair::new("the_self_test_names_the_rule_that_is_missing") else { return };
    let spec = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).without_rules();
    let file = spec.write();
    let orders = spec.launch();
    let said = until_redirect_says(&orders, "ipv4").await;
    assert!(said.contains("ipv6") && said.contains("capture/redirect"), "{said}");
    assert_eq!(orders.metric("countersign_redirect_ok", &["ipv4"]).await, 0.0);
    pair.orders.redirect(&file);
    orders.until_ready().await;
    for (chain, rule) in
        [("outbound", "outbound/self-test6"), ("own", "own/self-call"), ("own", "own/to-app")]
    {
        take_out(&pair.orders, chain, rule);
        let said = until_redirect_says(&orders, rule).await;
        assert!(said.starts_with("bypassed: "), "{said}");
        assert_eq!(orders.metric("countersign_redirect_ok", &["ipv6"]).await, 0.0, "{rule}");
        pair.orders.redirect(&file);
        orders.until_ready().await;
    }
    assert_eq!(orders.log().matches("DP-11").count(), 3, "one line each: {}", orders.log());
}

/// Deletes one rule by its name.
fn take_out(pod: &Pod, chain: &str, rule: &str) {
    let listed = pod.run("nft", &["-a", "list", "chain", "inet", "countersign", chain]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = listed.lines().find(|line| line.contains(&format!("\"{rule}\"")));
    let handle = line.and_then(|line| line.rsplit_once("# handle ")).expect(rule).1;
    nft(pod, &format!("delete rule inet countersign {chain} handle {handle}"));
}

/// A family without a route has nothing to be captured, and its self-test is absent, not failed.
#[tokio::test]
async fn a_family_without_a_route_is_absent() {
    let Some(pair) = Pair::new("a_family_without_a_route_is_absent") else { return };
    pair.orders.space().ip("route del ::/0");
    let orders = pair.sidecar(&pair.orders, anybody(), Mode::Redirect).start().await;
    let page = orders.metrics().await;
    assert!(page.contains("countersign_redirect_ok{family=\"ipv4\"} 1"), "{page}");
    assert!(!page.contains("countersign_redirect_ok{family=\"ipv6\"}"), "{page}");
    // Without any route only a probe from outside can prove anything.
    pair.billing.space().ip("route del ::/0\nroute del default");
    let billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).launch();
    until_redirect_says(&billing, "15022").await;
    let probe = pair.billing.at(Family::V4, 15022);
    let stream = pair.net.node().run(move || std::net::TcpStream::connect(probe)).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut conn = Conn::h1_over(TcpStream::from_std(stream).unwrap()).await.unwrap();
    let status = conn.send(Call::get("probe", "/ready")).await.unwrap().status;
    assert!([200, 503].contains(&status), "{status}: the connection alone may have proven it");
    billing.until_ready().await;
}

/// Skips are exempt in both directions, and only they.
#[tokio::test]
async fn what_is_skipped_goes_past_the_proxy() {
    let Some(pair) = Pair::new("what_is_skipped_goes_past_the_proxy") else { return };
    let skips = json!({
        "skipInboundPorts": [9100], "skipOutboundPorts": [9200],
        "skipOutboundCidrs": ["198.51.100.7/32", "2001:db8:7::7/128"],
    });
    let outside = pair.net.pod_at(
        "outside",
        std::net::Ipv4Addr::new(198, 51, 100, 7),
        "2001:db8:7::7".parse().unwrap(),
    );
    let (_everywhere, _port) =
        (App::mirror_on(outside.listen_all(80)), App::mirror_on(pair.billing.listen_all(9200)));
    let _open = App::mirror_on(pair.orders.listen_all(9100));
    let orders = pair
        .sidecar(&pair.orders, anybody(), Mode::Redirect)
        .with(|spec| spec["interception"] = skips)
        .start()
        .await;
    for family in Family::BOTH {
        for to in [outside.at(family, 80), pair.billing.at(family, 9200)] {
            let mut conn = pair.orders.h1(to).await.unwrap();
            assert_eq!(conn.send(Call::get("any", "/")).await.unwrap().status, 200, "{to}");
        }
        let mut conn = pair.billing.h1(pair.orders.at(family, 9100)).await.unwrap();
        assert_eq!(conn.send(Call::get("any", "/")).await.unwrap().status, 200, "{family:?}");
        let mut conn = pair.billing.h1(pair.orders.at(family, 9101)).await.unwrap();
        let reply = conn.send(Call::get("any", "/")).await.unwrap();
        assert_ne!(reply.status, 200, "the next port is captured");
    }
    wait::until_true("a record of what was captured", || !orders.decisions().is_empty()).await;
}
