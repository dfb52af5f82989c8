//! Old root, both, new root in one mount, by the commands of the page, under load.

use std::time::Duration;

use countersign_integration::Duo;

use super::{DOMAIN, Stage};

#[tokio::test]
async fn a_mount_changes_its_root_under_load() {
    let Some(stage) = Stage::new("a_mount_changes_its_root_under_load", "shop").await else {
        return;
    };
    stage.follow("approle-method", "", &[]).await;
    let logins = [stage.approle("web").await, stage.approle("orders").await];
    let duo = Duo::start(stage.folder.path(), DOMAIN, "shop", |account| {
        stage.identity(account, logins[usize::from(account == "orders")].clone())
    })
    .await;
    let load = duo.load(100);
    stage.bao.follow("rotate", &[], &[]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.bao.follow("switch", &[], &[]).await;
    // Two more certificates: the last one of the first root is gone from both sides.
    duo.rotations(2, Duration::from_secs(90)).await;
    stage.bao.follow("remove", &[], &[]).await;
    duo.rotations(1, Duration::from_secs(60)).await;
    let sent = load.stop().await;
    println!("root rotation: {sent} requests");
    assert_eq!(duo.call().await.status, 200);
}
