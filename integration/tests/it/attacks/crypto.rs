//! Bulk work for whoever verifies (T24): unknown keys, bad signatures, hop records and certificates.
//!
//! Hop records and their certificates are a later feature. What holds today, and must stay true, is
//! asserted here: they cost bounded work, nothing of them is remembered or fetched, apps never see
//! them, and peers with sound tokens are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::token::{base64url, now_s};
use countersign_integration::{App, Authority, Lab, Proxy, Tokens};
use serde_json::json;
use tokio::net::TcpListener;

const HOST: &str = "orders.shop";
const VERIFIED: &str = "countersign_context_verified_total";

/// A hop record as the design describes it, signed by `by`.
fn hop(by: &Tokens, number: usize, header: serde_json::Value) -> String {
    let claims = json!({
        "sub": format!("spiffe://lab.test/ns/shop/sa/hop{number}"),
        "aud": format!("spiffe://lab.test/ns/shop/sa/hop{}", number + 1),
        "iat": now_s(), "n": number, "tth": "A".repeat(43),
    });
    by.sign_with(&header, &claims)
}

fn hop_header(kid: &str) -> serde_json::Value {
    json!({"alg": "ES256", "typ": "csign-hop+jwt", "kid": kid})
}

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

/// Eight hop records with bad signatures beside each token, hundreds of times: one verification per
/// token, none per record; custody is not widened by them, and the app sees none.
#[tokio::test]
async fn attack_sends_eight_bad_hop_records() {
    const ROUNDS: usize = 200;
    let lab = Lab::new();
    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let thief = Tokens::of(&lab.ca, "shop", "thief");
    let records: Vec<String> =
        (0..8).map(|number| hop(&thief, number, hop_header(&thief.kid()))).collect();
    let mut broken: Vec<String> =
        records.iter().map(|record| format!("{}AAAA", &record[..record.len() - 4])).collect();
    broken.push("not.a.record".to_owned());
    let lists = [records.join(", "), broken.join(", "), ",".repeat(64), "x".repeat(6 * 1024)];
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    for round in 0..ROUNDS {
        let list = &lists[round % lists.len()];
        let reply = sound(&lab, &mut gateway, &[("countersign-hops", list)]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.seen("countersign-hops"), None);
    }
    assert_eq!(verified(&orders).await, ROUNDS as f64, "one verification per token");
    // They prove nothing for somebody else's token either.
    let stolen = lab.gateway.mint(&lab.id("shop", "web"));
    let mut peer = lab.peer(&orders, thief.leaf()).await;
    for list in &lists {
        let call = Call::get(HOST, "/").context(&stolen).header("countersign-hops", list);
        refused(&orders, &peer.send(call).await.unwrap(), "custody_broken").await;
    }
    assert_eq!(app.seen().len(), ROUNDS);
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
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    allowed(&orders, &sound(&lab, &mut gateway, &[]).await).await;
}

/// Records that name certificates nobody has, and say where to get them: nothing is fetched, the
/// caller is not asked for them, and the sound token beside them counts.
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
    let mut gateway = lab.peer(&orders, lab.gateway.leaf()).await;
    for number in 0..300 {
        let mut header = hop_header(&base64url(&format!("certificate number {number:014}")));
        for name in ["x5u", "jku", "x5t#S256"] {
            header[name] = json!(url);
        }
        let record = hop(&thief, number % 8, header);
        let headers = [("countersign-hops", &*record), ("countersign-certs", &*url)];
        let reply = sound(&lab, &mut gateway, &headers).await;
        let record = allowed(&orders, &reply).await;
        assert_eq!(record["custody"], true, "{record}");
        for name in ["countersign-hops", "countersign-certs"] {
            assert_eq!(reply.seen(name), None);
        }
    }
    assert_eq!(fetched.load(Ordering::Relaxed), 0, "a certificate was fetched");
    assert_eq!(orders.metric("countersign_refusals_total", &[]).await, 0.0);
    // The same record under a token that is not the presenter's: refused, not asked about.
    let stolen = lab.gateway.mint(&lab.id("shop", "web"));
    let record = hop(&thief, 0, hop_header("unknown"));
    let call = Call::get(HOST, "/").context(&stolen).header("countersign-hops", &record);
    let mut peer = lab.peer(&orders, thief.leaf()).await;
    refused(&orders, &peer.send(call).await.unwrap(), "custody_broken").await;
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
