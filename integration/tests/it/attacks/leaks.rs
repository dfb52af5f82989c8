//! Secrets in any output of the whole mesh, and in what a crash would print (T12).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use countersign_ctxtoken::{
    Constraints, KeyRef, Limits, LocalSigner, Minter, NewContext, Origin, Rctx, ScopePattern,
    SubPattern, Subject, Tctx, TokenIds, UnixTime, UserName,
};
use countersign_integration::client::Call;
use countersign_integration::world::Setting;
use countersign_integration::{Authority, Conn, World, token};
use countersign_workload_id::{TrustDomain, WorkloadId};

/// Every part of a token that gives it away: the whole, and each of its parts of some length.
fn sentinels(token: &str) -> Vec<String> {
    let parts = token.split('.').map(str::to_owned);
    parts.chain([token.to_owned()]).filter(|part| part.len() > 40).collect()
}

/// Every file below `folder`, with its text.
fn outputs(folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ["out", "err", "audit"].contains(&kind) {
            let text = std::fs::read(&path).unwrap();
            all.push((path.display().to_string(), String::from_utf8_lossy(&text).into_owned()));
        }
    }
    all
}

/// With everything logged that can be, requests allowed and refused, and every page read: no
/// token, credential or secret query is in any output.
#[tokio::test]
async fn attack_reads_tokens_from_any_output() {
    let world = World::with(&Setting { log: "trace", ..Setting::default() }).await;
    let alice = world.user("alice");
    let mut curl = Conn::h1(world.gateway.gateway()).await.unwrap();
    let mut secrets = sentinels(&alice);
    let secret = |name: &str| format!("sentinel-{name}-6f1d1c0a");
    secrets.extend(["query", "cookie", "header", "basic"].map(secret));
    let target = format!("/v1/users/alice/orders?q={}", secret("query"));
    let call = |bearer: &str| {
        Call::get("api.example.com", &target)
            .bearer(bearer)
            .header("cookie", &format!("session={}", secret("cookie")))
            .header("x-api-key", &secret("header"))
    };
    let reply = curl.send(call(&alice)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let broken = format!("{}AAAA", &alice[..alice.len() - 4]);
    secrets.extend(sentinels(&broken));
    assert_eq!(curl.send(call(&broken)).await.unwrap().status, 401);
    let basic = Call::get("api.example.com", &target);
    let basic = basic.header("authorization", &format!("Basic {}", secret("basic")));
    assert_eq!(curl.send(basic).await.unwrap().status, 401);

    // The token between the sidecars: service B's sidecar got it, and refuses it from others.
    let handle = world.app_a.last().header("countersign-context").unwrap().to_owned();
    assert!(world.app_a.last().header("txn-token").is_none());
    secrets.push(handle);

    let mut pages = Vec::new();
    for proxy in [&world.gateway, &world.orders, &world.billing] {
        for target in ["/", "/api/v1/decisions", "/api/v1/status"] {
            pages.push((target.to_owned(), proxy.admin(target).await.text()));
        }
        for record in proxy.decisions() {
            let target = format!("/api/v1/why/{}", record["id"].as_str().unwrap());
            pages.push((target.clone(), proxy.admin(&target).await.text()));
        }
        pages.push(("/metrics".to_owned(), proxy.metrics().await));
    }
    for (place, text) in outputs(world.folder()).into_iter().chain(pages) {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} holds {secret}");
        }
        assert_eq!(token::jws_in(&text), None, "{place} holds a token");
    }
}

/// What holds a token or a key has no text but a name, so a panic that prints it tells nothing.
#[test]
fn attack_reads_tokens_from_panic_text() {
    let ca = Authority::new("lab.test");
    let leaf = ca.leaf("edge", "gateway");
    let id: WorkloadId = ca.id("edge", "gateway").parse().unwrap();
    let domain = TrustDomain::parse("lab.test").unwrap();
    let signer = Arc::new(LocalSigner::from_pkcs8_der(&leaf.key).unwrap());
    let allow = Constraints {
        origins: vec![Origin::User],
        subs: vec![SubPattern::parse("user:*").unwrap()],
        scopes: vec![ScopePattern::parse("orders.*").unwrap()],
        impersonate: vec![],
        max_ttl_s: 60,
    };
    let chain = KeyRef::X5c(leaf.chain.iter().map(|der| der.to_vec()).collect());
    let limits = Limits::default();
    let minter = Minter::new(id.clone(), domain, allow, chain, signer.clone(), None, &limits);
    let minter = minter.unwrap();
    let context = NewContext {
        sub: Subject::User(UserName::new(None, "alice").unwrap()),
        scope: vec!["orders.read".to_owned()],
        req_wl: id.clone(),
        rctx: Rctx::new(Origin::User, id),
        tctx: Tctx::default(),
        act: None,
    };
    let txn = "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2".to_owned();
    let token = minter.mint(&context, TokenIds { txn, jti: [7; 16] }, UnixTime(1000), 60).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| panic!("{token:?} {signer:?} {minter:?}")));
    let text = *panicked.unwrap_err().downcast::<String>().unwrap();
    for secret in sentinels(token.expose()) {
        assert!(!text.contains(&secret), "{text}");
    }
    assert_eq!(token::jws_in(&text), None);
}

/// The names and labels of metrics, and every trace line, after requests full of secrets.
#[tokio::test]
async fn attack_reads_tokens_from_spans_and_metrics() {
    let world = World::with(&Setting { log: "trace", ..Setting::default() }).await;
    let alice = world.user("alice");
    let mut curl = Conn::h2(world.gateway.gateway()).await.unwrap();
    for path in ["/v1/users/alice/orders", "/v1/users/alice/nothing", "/v2"] {
        let call = Call::get("api.example.com", path).bearer(&alice);
        curl.send(
            call.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        )
        .await
        .unwrap();
    }
    for proxy in [&world.gateway, &world.orders, &world.billing] {
        let told = proxy.metrics().await + &proxy.log();
        for secret in sentinels(&alice) {
            assert!(!told.contains(&secret));
        }
        assert_eq!(token::jws_in(&told), None);
        let labels = proxy.metrics().await;
        for personal in ["alice", "0af7651916cd43dd8448eb211c80319c", "127.0.0.1"] {
            assert!(!labels.contains(personal), "{personal} in a label");
        }
    }
}
