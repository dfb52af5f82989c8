//! Secrets in any output of the whole mesh (T12).

use std::path::Path;

use countersign_integration::client::Call;
use countersign_integration::world::Setting;
use countersign_integration::{Conn, World};

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
        // Any compact JWS at all begins like this.
        if let Some(at) = text.find("eyJ") {
            panic!("{place} holds a token: {}", &text[at..(at + 60).min(text.len())]);
        }
    }
}
