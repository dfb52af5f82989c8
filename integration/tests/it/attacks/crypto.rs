//! Bulk work for whoever verifies (T24): unknown keys, bad signatures, hop records and certificates.
//!
//! All of it costs bounded work, nothing that is bad is remembered, nothing is ever fetched, apps
//! never see it, and peers with sound tokens are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::row::{certificate, record, sha256, signed, signed_under, thumbprint};
use countersign_integration::token::base64url;
use countersign_integration::{App, Authority, Lab, Proxy, Tokens};
use serde_json::json;
use tokio::net::TcpListener;

const HOST: &str = "orders.shop";
const VERIFIED: &str = "countersign_context_verified_total";

async fn verified(proxy: &Proxy) -> f64 {
    proxy.metric(VERIFIED, &[]).await
}

/// The sound token of the gateway, with whatever else the call carries.
async fn sound(lab: &Lab, peer: &mut Conn, headers: &[(&str, &str)]) -> client::Reply {
    let token = lab.gateway.mint(&lab.id("shop", "orders"));
    let mut call = Call::get(HOST, "/").context(&token);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    peer.send(call).await.unwrap()
}

/// A list of eight records that is sound but for the signature of the first, again and again: its
/// peer is cut short, and others are served meanwhile.
#[tokio::test]
async fn attack_sends_eight_bad_hop_records() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let holders: Vec<_> = (0..8)
        .map(|number| {
            let name = format!("h{number}");
            let key = Tokens::of(&lab.ca, "shop", &name);
            (lab.id("shop", &name), key)
        })
        .collect();
    let stranger = Tokens::of(&lab.ca, "shop", "x");
    let token = lab.gateway.mint(&holders[0].0);
    let mut list: Vec<String> = Vec::new();
    for (number, (id, key)) in holders.iter().enumerate() {
        let next = holders.get(number + 1).map_or(lab.id("shop", "orders"), |(id, _)| id.clone());
        let by = if number == 0 { &stranger } else { key };
        let claims = record(&token, &list, id, &next);
        list.push(signed_under(by, &thumbprint(key.leaf()), &claims));
    }
    let certs: Vec<_> = holders.iter().map(|(_, key)| certificate(key.leaf())).collect();
    let mut last = lab.peer(&orders, holders[7].1.leaf()).await;
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let (mut refused, mut limited) = (0, 0);
    for round in 0..300 {
        let call = Call::get(HOST, "/").context(&token);
        let call = call.header("countersign-hops", &list.join(", "));
        let call = call.header("countersign-certs", &certs.join(", "));
        match last.send(call).await.unwrap().status {
            401 => refused += 1,
            429 => limited += 1,
            other => panic!("{other}"),
        }
        if round % 50 == 0 {
            assert_eq!(sound(&lab, &mut gateway, &[]).await.status, 200);
        }
    }
    assert!(refused >= 20 && limited > 0, "{refused} refused, {limited} cut short");
    assert_eq!(app.seen().len(), 6, "a forged path reached the app");
}

/// Resident anonymous memory of a process, bytes.
fn resident(proxy: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Megabytes of invented certificate chains, each another: none is kept, none reaches the app.
#[tokio::test]
async fn attack_floods_hop_certificates() {
    const CHAINS: usize = 3_000;
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let own = Authority::new("lab.test");
    let leaf = own.leaf("shop", "hop");
    let der = STANDARD.encode(&leaf.chain[0]);
    let mut peer = lab.peer(&orders, &lab.ca.leaf("shop", "web")).await;
    let chain = |number: usize| {
        // Another chain each time, as long as a header value may be.
        let mut text = format!("{number:08}");
        while text.len() + der.len() + 2 < 15 * 1024 {
            text.push_str(", ");
            text.push_str(&der);
        }
        text
    };
    for number in 0..100 {
        peer.send(Call::get(HOST, "/").header("countersign-certs", &chain(number))).await.unwrap();
    }
    let before = resident(&orders);
    for number in 0..CHAINS {
        let call = Call::get(HOST, "/").header("countersign-certs", &chain(1_000 + number));
        let reply = peer.send(call).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.seen("countersign-certs"), None);
    }
    let grown = resident(&orders).saturating_sub(before);
    let sent = CHAINS * 15 * 1024;
    assert!(grown < sent / 4, "{grown} bytes grown by {sent} bytes of certificates");
    assert_eq!(verified(&orders).await, 0.0);
    // Where records name them they are looked at, and their peer is cut short.
    let web = Tokens::of(&lab.ca, "shop", "web");
    let mut peer = lab.peer(&orders, web.leaf()).await;
    let mut limited = 0;
    for _ in 0..100 {
        let invented = Tokens::of(&own, "shop", "first");
        let token = lab.gateway.mint(&lab.id("shop", "first"));
        let claims = record(&token, &[], &lab.id("shop", "first"), &lab.id("shop", "web"));
        let first = [signed(&invented, &claims)];
        let claims = record(&token, &first, &lab.id("shop", "web"), &lab.id("shop", "orders"));
        let list = format!("{}, {}", first[0], signed(&web, &claims));
        let call = Call::get(HOST, "/").context(&token).header("countersign-hops", &list);
        let call = call.header("countersign-certs", &certificate(invented.leaf()));
        let reply = peer.send(call).await.unwrap();
        assert_eq!(reply.header("countersign-certs"), None, "asked for an invented certificate");
        match reply.status {
            401 => {}
            429 => limited += 1,
            other => panic!("{other}: {}", reply.text()),
        }
    }
    assert!(limited > 0, "the flood was borne to its end");
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    allowed(&orders, &sound(&lab, &mut gateway, &[]).await).await;
}

/// Records that name certificates nobody has, and say where to get them: nothing is fetched; who
/// only names them is asked for them, each time anew.
#[tokio::test]
async fn attack_names_unknown_hop_certificates() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let bait = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/certificate.pem", bait.local_addr().unwrap());
    let fetched = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&fetched);
    tokio::spawn(async move {
        while bait.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let thief = Tokens::of(&lab.ca, "shop", "thief");
    let mut peer = lab.peer(&orders, thief.leaf()).await;
    let stolen = lab.gateway.mint(&lab.id("shop", "web"));
    let claims = record(&stolen, &[], &lab.id("shop", "web"), &lab.id("shop", "thief"));
    for name in ["x5u", "jku", "x5c", "jwk"] {
        let mut header = json!({"alg": "ES256", "typ": "csign-hop+jwt", "kid": sha256("no one")});
        header[name] = json!(url);
        let call = Call::get(HOST, "/").context(&stolen);
        let call = call.header("countersign-hops", &thief.sign_with(&header, &claims));
        let call = call.header("countersign-certs", &url);
        refused(&orders, &peer.send(call).await.unwrap(), "hops_malformed").await;
    }
    for number in 0..300 {
        let unknown = sha256(number.to_string());
        let first = [signed_under(&thief, &unknown, &claims)];
        let own = record(&stolen, &first, &lab.id("shop", "thief"), &lab.id("shop", "orders"));
        let list = format!("{}, {}", first[0], signed(&thief, &own));
        let call = Call::get(HOST, "/").context(&stolen).header("countersign-hops", &list);
        let reply = peer.send(call).await.unwrap();
        assert_eq!(reply.status, 401, "{}", reply.text());
        let asked = format!("\"{unknown}\"");
        assert_eq!(reply.header("countersign-certs"), Some(asked.as_str()));
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 0, "a certificate was fetched");
    assert!(app.seen().is_empty());
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    allowed(&orders, &sound(&lab, &mut gateway, &[]).await).await;
}

/// Tokens by the thousand, each naming another key: one peer's flood is cut short, all of it is
/// verified against nothing, and nothing is remembered of it.
#[tokio::test]
async fn attack_floods_unknown_kids_at_the_sidecar() {
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let mut flooder = lab.peer(&orders, &lab.ca.leaf("shop", "flooder")).await;
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    let mut limited = 0;
    for number in 0..1_000 {
        let header =
            json!({"alg": "ES256", "typ": "txntoken+jwt", "kid": format!("{number:0>16}")});
        let token = format!(
            "{}.{}.{}",
            base64url(&header.to_string()),
            base64url(&claims.to_string()),
            "A".repeat(86)
        );
        let reply = flooder.send(Call::get(HOST, "/").context(&token)).await.unwrap();
        match reply.status {
            401 => {}
            429 => limited += 1,
            other => panic!("{other}: {}", reply.text()),
        }
        if number % 100 == 0 {
            assert_eq!(sound(&lab, &mut gateway, &[]).await.status, 200);
        }
    }
    assert!(limited > 0, "the flood was borne to its end");
    let looked_at = orders.metric("countersign_refusals_total", &["reason=\"key_unknown\""]).await;
    assert_eq!(looked_at + limited as f64, 1_000.0);
    assert_eq!(app.seen().len(), 10);
}
