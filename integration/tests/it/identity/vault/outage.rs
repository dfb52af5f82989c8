//! The server is sealed, then gone, for longer than half the life of a certificate.

use std::time::{Duration, Instant};

use countersign_integration::{Duo, wait};

use super::{DOMAIN, Stage};

/// Half of it is the outage.
const LIFE_S: u64 = 60;

#[tokio::test]
async fn an_outage_longer_than_half_a_life_costs_no_request() {
    let Some(stage) = Stage::new("an_outage_longer_than_half_a_life", "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let logins = [stage.approle("web").await, stage.approle("orders").await];
    let duo = Duo::start(stage.folder.path(), DOMAIN, "shop", |account| {
        let login = logins[usize::from(account == "orders")].clone();
        let mut identity = stage.identity(account, login);
        identity["source"]["vault"]["ttl"] = format!("{LIFE_S}s").into();
        identity
    })
    .await;
    let load = duo.load(100);
    stage.bao.seal().await;
    let sealed_at = Instant::now();
    for proxy in [&duo.web, &duo.orders] {
        // At half of the life both ask for the next certificate.
        let what = ["identity source failed", "Vault is sealed", "bao operator unseal"];
        let told = || proxy.log().lines().any(|line| what.iter().all(|part| line.contains(part)));
        wait::until_within(Duration::from_secs(LIFE_S), "a renewal to fail", async || {
            told().then_some(())
        })
        .await;
    }
    stage.bao.stop();
    tokio::time::sleep_until((sealed_at + Duration::from_secs(LIFE_S / 2 + 1)).into()).await;
    stage.bao.resume().await;
    duo.rotations(1, Duration::from_secs(60)).await;
    let sent = load.stop().await;
    println!("outage: {sent} requests");
    assert_eq!(duo.call().await.status, 200);
}
