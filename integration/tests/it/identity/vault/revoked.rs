//! A certificate that the server revoked opens nothing any more, and what it opened ends.

use std::fs;
use std::process::Command;

use countersign_integration::client::{Call, Conn};
use countersign_integration::{Leaf, process, programs, tls, wait};
use serde_json::json;

use super::Stage;

#[tokio::test]
async fn a_certificate_revoked_at_the_server_ends_its_connections() {
    let test = "a_certificate_revoked_at_the_server_ends_its_connections";
    let Some(openssl) = programs::system(test, "openssl") else { return };
    let Some(stage) = Stage::new(test, "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let orders = stage.proxy("orders", &stage.identity("orders", stage.approle("orders").await));
    orders.until_ready().await;

    let leaf = signed(&stage, openssl).await;
    let config = || tls::client(Some(&leaf), &[tls::MESH_H2]);
    let mut held = Conn::tls(orders.inbound(), config()).await.unwrap();
    // Nobody is behind the sidecar: its answer is enough.
    assert_eq!(held.send(Call::get("orders.shop", "/")).await.unwrap().status, 503);

    stage.bao.follow("revoke", &[], &[]).await;
    orders.metric_reaches("countersign_crl_serials", &[], 1.0).await;
    wait::until_true("the end of the connection", || held.is_closed()).await;
    let refused = ["result=\"revoked\""];
    let metric = "countersign_tls_handshakes_total";
    let before = orders.metric(metric, &refused).await;
    if let Ok(mut again) = Conn::tls(orders.inbound(), config()).await {
        // TLS 1.3: the client hears of the refusal when it reads.
        let answer = again.send(Call::get("orders.shop", "/")).await;
        assert!(answer.is_err(), "{:?}\n{}", answer.map(|a| a.status), orders.metrics().await);
    }
    orders.metric_reaches(metric, &refused, before + 1.0).await;
}

/// A certificate of `web` that lives long enough to be revoked, in `leaf.pem`.
async fn signed(stage: &Stage, openssl: std::path::PathBuf) -> Leaf {
    let folder = stage.bao.folder();
    let mut command = Command::new(openssl);
    command.args(["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt"]);
    command.args(["ec_paramgen_curve:P-256", "-keyout", "leaf.key", "-subj", "/", "-addext"]);
    command.arg(format!("subjectAltName=URI:{}", stage.id("web"))).current_dir(folder);
    let request = String::from_utf8(process::run(&mut command).stdout).unwrap();
    let body = json!({"csr": request, "ttl": "10m"});
    let signed = stage.bao.put("pki/sign/web", &body).await;
    let certificate = folder.join("leaf.pem");
    fs::write(&certificate, signed["data"]["certificate"].as_str().unwrap()).unwrap();
    Leaf::read(&certificate, &folder.join("leaf.key")).unwrap()
}
