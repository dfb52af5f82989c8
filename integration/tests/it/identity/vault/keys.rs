//! Keys that are made in a PKCS#11 token, each for one certificate.

use std::time::Duration;

use countersign_integration::components::softhsm::SoftHsm;
use countersign_integration::components::tpm::Tpm;
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

/// Each sidecar makes the key of its certificate in its own TPM. The module knows no keys of a
/// session, so the key stays there when its sidecar was killed, under the label of such keys. One
/// key each: swtpm alone has no room for a second beside it, a resource manager makes it.
#[tokio::test]
async fn keys_are_made_in_tpms_where_a_killed_sidecar_leaves_them() {
    let test = "keys_are_made_in_tpms";
    let Some(stage) = Stage::new(test, "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let mut nodes = Vec::new();
    for account in ["web", "orders"] {
        let folder = stage.folder.path().join(format!("tpm-{account}"));
        let Some(tpm) = Tpm::new(test, &folder).await else { return };
        let Some(server) = tpm.serve(test).await else { return };
        nodes.push((tpm, server, stage.approle(account).await));
    }
    let node = |account: &str| &nodes[usize::from(account == "orders")];
    let identity = |account: &str| {
        let (tpm, server, login) = node(account);
        let mut identity = stage.identity(account, login.clone());
        identity["key"] = server.keys(&tpm.pin_file);
        identity
    };
    let change = |account: &str, spec: countersign_integration::proxy::Spec| {
        let (name, address) = node(account).1.env();
        spec.env(name, address)
    };
    let duo = Duo::launch_each(stage.folder.path(), DOMAIN, "shop", identity, change);
    duo.web.until_ready().await;
    duo.orders.until_ready().await;
    for _ in 0..5 {
        assert_eq!(duo.call().await.status, 200);
    }
    drop(duo);
    for (mut tpm, server, _) in nodes {
        server.kill();
        // What the killed server had loaded fills the TPM until its next start.
        tpm.kill();
        tpm.restart().await;
        let objects = tpm.objects();
        let keys = objects.split("Private Key Object").skip(1).collect::<Vec<_>>();
        assert!(keys.len() == 1 && keys[0].contains("countersign"), "{objects}");
        assert!(keys[0].contains("never extractable"), "{objects}");
    }
}
