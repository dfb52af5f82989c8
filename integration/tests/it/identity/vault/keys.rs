//! Keys that are made in a PKCS#11 token, each for one certificate.

use std::time::Duration;

use countersign_integration::components::softhsm::SoftHsm;
use countersign_integration::{Duo, wait};

use super::{DOMAIN, Stage, says};

const DEADLINE: Duration = Duration::from_secs(120);
const ROTATIONS: usize = 3;

/// Three rotations under load with a new key in the token each time; then the server of the token
/// is killed, the keys end with it, and new ones are asked for before their time.
#[tokio::test]
async fn keys_are_made_in_a_token_and_end_with_their_certificates() {
    let test = "keys_are_made_in_a_token";
    let Some(stage) = Stage::new(test, "shop").await else { return };
    let Some(token) = SoftHsm::new(test, stage.folder.path()) else { return };
    let Some(mut server) = token.serve(test).await else { return };
    stage.follow("approle-method", "", &[]).await;
    let logins = [stage.approle("web").await, stage.approle("orders").await];
    let keys = server.keys(&token.pin_file);
    let (name, address) = server.env();
    let identity = |account: &str| {
        let login = logins[usize::from(account == "orders")].clone();
        let mut identity = stage.identity(account, login);
        identity["key"] = keys.clone();
        identity
    };
    let change = |spec: countersign_integration::proxy::Spec| spec.env(name, address.clone());
    let duo = Duo::launch_with(stage.folder.path(), DOMAIN, "shop", identity, change);
    duo.web.until_ready().await;
    duo.orders.until_ready().await;
    let load = duo.load(100);
    duo.rotations(ROTATIONS, DEADLINE).await;
    let sent = load.stop().await;
    println!("keys made in a token: {sent} requests, {ROTATIONS} rotations of each sidecar");
    for proxy in [&duo.web, &duo.orders] {
        says(proxy, &["keys stay in another process"]).await;
    }
    // They are objects of the sidecars' sessions: nothing of them is stored in the token.
    assert!(!token.objects().contains("Private Key"), "{}", token.objects());

    server.kill();
    server.restart().await;
    // Whoever signs next finds its key gone, or its time comes: a new key either way.
    duo.rotations(1, DEADLINE).await;
    wait::until_within(DEADLINE, "requests again", async || {
        (duo.call().await.status == 200).then_some(())
    })
    .await;
}
