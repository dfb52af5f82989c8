//! A real API server and our signer: two sidecars ask for certificates, keep them while they are
//! rotated, and while API server or signer are away. The manifests are those of the page for users.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use countersign_certs_client::svid;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::components::kubernetes::{self, Cluster, Pod, Signing};
use countersign_integration::load::{Load, Protocol};
use countersign_integration::process::{self, Process};
use countersign_integration::{App, Authority, Proxy, documents, lab, ports, programs, tls, wait};
use http::Method;
use serde_json::json;

/// Rotations that must be seen.
const ROTATIONS: f64 = 3.0;
/// For what takes a few lives of a certificate.
const LIVES: Duration = Duration::from_secs(150);

/// Two sidecars, `orders` calling `billing`, each in a pod on a node of its own.
struct Two<'c> {
    signing: Signing<'c>,
    signer: Option<Process>,
    orders: Proxy,
    billing: Proxy,
    pods: [Pod; 2],
    _app: App,
}

impl<'c> Two<'c> {
    async fn start(cluster: &'c Cluster, life_s: u64) -> Two<'c> {
        Two::with(Signing::prepare(cluster, life_s).await).await
    }

    async fn with(signing: Signing<'c>) -> Two<'c> {
        let signer = Some(signing.start().await);
        let pods = [signing.pod("orders", "node-1").await, signing.pod("billing", "node-2").await];
        let (app, at) = (App::mirror(), ports::free());
        let id = signing.id("billing");
        let mesh = signing.lab.mesh().destination(
            &format!("{}/billing", signing.namespace),
            "billing.shop",
            at,
            &[&id],
        );
        let access = documents::access(&signing.namespace, documents::anybody());
        let files = [
            signing.lab.write("two.yaml", &mesh.document()),
            signing.lab.write("access.yaml", &access),
            signing.lab.revoke(json!({})),
        ];
        let files = files.each_ref().map(PathBuf::as_path);
        let orders = signing.sidecar(&pods[0]).documents(&files).outbound().launch();
        let billing = signing.sidecar(&pods[1]).documents(&files);
        let billing = billing.inbound_at(at, app.address).launch();
        orders.until_ready().await;
        billing.until_ready().await;
        Two { signing, signer, orders, billing, pods, _app: app }
    }

    fn load(&self) -> Load {
        let make = || Call::get("billing.shop", "/");
        Load::start(self.orders.outbound(), Protocol::Http1, 100, make)
    }

    /// Waits until both have been given this many certificates more.
    async fn rotate(&self, more: f64) {
        for proxy in [&self.orders, &self.billing] {
            let least = renewals(proxy).await + more;
            wait::until_within(LIVES, "rotations", async || {
                (renewals(proxy).await >= least).then_some(())
            })
            .await;
        }
    }

    /// Waits until a sidecar has this many seconds left.
    async fn until_left(&self, seconds: f64) {
        wait::until_within(LIVES, "the life to pass", async || {
            let ends =
                self.orders.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
            (ends - now_s() < seconds).then_some(())
        })
        .await;
    }
}

async fn renewals(proxy: &Proxy) -> f64 {
    proxy.metric("countersign_identity_renewals_total", &["result=\"ok\""]).await
}

async fn stop(load: Load) {
    let outcome = tokio::task::spawn_blocking(|| load.stop()).await.unwrap();
    assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    assert!(outcome.sent > 100, "only {} requests", outcome.sent);
    println!("{} requests, none failed", outcome.sent);
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn kubernetes_rotates_under_load_and_no_request_fails() {
    let test = "kubernetes_rotates_under_load_and_no_request_fails";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let two = Two::start(cluster, 24).await;
    let load = two.load();
    // The kubelet replaces tokens while certificates are renewed.
    for rotation in 0..ROTATIONS as usize {
        two.signing.project_token(&two.pods[rotation % 2]).await;
        two.rotate(1.0).await;
    }
    stop(load).await;

    // Where the pod runs is attested, by its node's labels.
    let requests = two.signing.requests().await;
    assert!(requests.len() >= 8, "{} requests", requests.len());
    for object in requests {
        let name = object["metadata"]["name"].as_str().unwrap();
        let chain = two.signing.decided(name).await.chain();
        let facts = svid::facts(&chain[0]).unwrap();
        let pod = two.pods.iter().find(|pod| facts.id.as_str() == two.signing.id(&pod.account));
        let location = svid::location(&chain[0]).unwrap().unwrap();
        assert_eq!(location.pod_uid, pod.map(|pod| pod.uid.clone()));
        assert_eq!(location.region.as_deref(), Some("eu"));
        let zone = if facts.id.as_str().ends_with("orders") { "eu-1" } else { "eu-2" };
        assert_eq!(location.zone.as_deref(), Some(zone));
        assert!(facts.not_after - facts.not_before <= 24 + 60, "the signer's own bound holds");
    }
    // And the roots are where every pod finds them.
    let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles/";
    let path = format!("{path}{}", two.signing.bundle_name());
    let bundle = cluster.admin(Method::GET, &path, None).await.ok();
    assert_eq!(bundle["spec"]["trustBundle"], two.signing.lab.ca.pem());
}

/// The API server is away for more than half a certificate's life.
#[tokio::test]
async fn kubernetes_api_server_is_away_for_more_than_half_a_life() {
    let test = "kubernetes_api_server_is_away_for_more_than_half_a_life";
    let Some(cluster) = Cluster::start(test).await else { return };
    // It takes its time to come back.
    let two = Two::start(&cluster, 90).await;
    let load = two.load();
    cluster.stop();
    two.until_left(44.0).await;
    let failed = "countersign_identity_renewals_total";
    two.orders.metric_reaches(failed, &["result=\"error\""], 1.0).await;
    cluster.resume().await;
    two.rotate(1.0).await;
    stop(load).await;
    let log = two.orders.log();
    assert!(log.contains("cannot connect to"), "{log}");
}

/// Nobody signs for more than half a life; the request that waits is signed when somebody does.
#[tokio::test]
async fn kubernetes_signer_is_away_for_more_than_half_a_life() {
    let test = "kubernetes_signer_is_away_for_more_than_half_a_life";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let mut two = Two::start(cluster, 30).await;
    let load = two.load();
    two.signer = None;
    two.until_left(12.0).await;
    two.signer = Some(two.signing.start().await);
    two.rotate(1.0).await;
    stop(load).await;
}

/// Old root, both, new root: the order of the page, while requests run.
#[tokio::test]
async fn kubernetes_roots_change_under_load() {
    let Some(cluster) = kubernetes::shared("kubernetes_roots_change_under_load").await else {
        return;
    };
    let mut signing = Signing::prepare(cluster, 20).await;
    let mounted = signing.lab.write_text("mounted.pem", signing.lab.ca.pem());
    signing.trust = json!({"file": mounted});
    let two = Two::with(signing).await;
    let load = two.load();
    let lab = &two.signing.lab;
    let new = Authority::new(lab::DOMAIN);
    let trusted = async |pem: &str, changes: usize| {
        lab.write_text("roots.pem", pem);
        lab.write_text("mounted.pem", pem);
        for proxy in [&two.orders, &two.billing] {
            let count = || proxy.log().matches("the trust bundle changed").count();
            wait::until_true("the roots to change", || count() >= changes).await;
        }
    };
    trusted(&format!("{}{}", lab.ca.pem(), new.pem()), 1).await;
    new.write_bundle(lab.folder(), "bundle");
    new.write_key(lab.folder(), "ca");
    two.rotate(2.0).await;
    trusted(new.pem(), 2).await;
    two.rotate(1.0).await;
    stop(load).await;
    // The old authority's certificates are nobody's any more.
    let old = lab.ca.leaf("edge", "anybody");
    let config = tls::client(Some(&old), &[tls::MESH_H2]);
    let refused = async {
        let mut conn = Conn::tls(two.billing.inbound(), config).await?;
        conn.send(Call::get("billing.shop", "/")).await
    };
    assert!(refused.await.is_err());
    let anybody = new.leaf("edge", "anybody");
    let config = tls::client(Some(&anybody), &[tls::MESH_H2]);
    let mut conn = Conn::tls(two.billing.inbound(), config).await.unwrap();
    assert_eq!(conn.send(Call::get("billing.shop", "/")).await.unwrap().status, 200);
}

/// The UID that the signer attested is what a revocation of the pod hits: in connections that are
/// open, in new ones, and at the signer.
#[tokio::test]
async fn kubernetes_revoked_pod_is_cut_off() {
    let Some(cluster) = kubernetes::shared("kubernetes_revoked_pod_is_cut_off").await else {
        return;
    };
    let two = Two::start(cluster, 20).await;
    let ask = || client::call(two.orders.outbound(), Call::get("billing.shop", "/"));
    assert_eq!(ask().await.status, 200);
    two.signing.revoke(json!({"pods": [{"uid": two.pods[0].uid}]}));
    two.billing.reload();
    wait::until("the end of orders' calls", || async {
        let status = ask().await.status;
        (status >= 500).then_some(())
    })
    .await;
    // Each call dials anew, now that the connection is gone.
    let revoked = &["result=\"revoked\""];
    wait::until("a handshake that is refused", || async {
        ask().await;
        let refused = two.billing.metric("countersign_tls_handshakes_total", revoked).await;
        (refused >= 1.0).then_some(())
    })
    .await;
    let denied = || two.orders.log().contains("PodRevoked");
    wait::until_true("the signer's denial", denied).await;
}

/// What a pod that is revoked, or has no rights, is told is in its own log.
#[tokio::test]
async fn kubernetes_refusals_reach_the_operator_of_the_pod() {
    let test = "kubernetes_refusals_reach_the_operator_of_the_pod";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let signing = Signing::prepare(cluster, 60).await;
    let pod = signing.pod("orders", "node-1").await;
    signing.revoke(json!({"pods": [{"uid": pod.uid}]}));
    let _signer = signing.start().await;
    let mesh = signing.lab.write("two.yaml", &signing.lab.mesh().document());
    let proxy = signing.sidecar(&pod).documents(&[&mesh]).outbound().launch();
    wait::until_true("the denial", || proxy.process.stderr().contains("PodRevoked")).await;

    // The token of a namespace nobody bound.
    let other = cluster.namespace("other").await;
    cluster.service_account(&other, "orders").await;
    let stranger = cluster.pod(&other, "orders-1", "orders", "node-1").await;
    let token = cluster.pod_token(&stranger, &[]).await;
    signing.lab.write_text(&format!("{}.token", pod.name), &token);
    wait::until_true("the refusal", || proxy.process.stderr().contains("403 Forbidden")).await;
    let log = proxy.process.stderr();
    assert!(log.contains("docs/identity/kubernetes.md"), "{log}");
    signing.lab.write_text(&format!("{}.token", pod.name), "not-a-token");
    wait::until_true("the refusal", || proxy.process.stderr().contains("401 Unauthorized")).await;
    let (status, _) = proxy.ready().await.unwrap();
    assert_eq!(status, 503);
}

/// The configurations of the page are what `countersign check` accepts.
#[tokio::test]
async fn kubernetes_page_shows_configurations_that_are_accepted() {
    let page = include_str!("../../../../docs/identity/kubernetes.md");
    let block = page
        .split("```yaml\n")
        .find(|block| block.starts_with("apiVersion: countersign.dev"))
        .and_then(|block| block.split("```").next());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signer.yaml");
    std::fs::write(&file, block.expect("the page has a SignerConfig")).unwrap();
    let mut command = std::process::Command::new(programs::cli());
    command.arg("check").arg(&file).env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let done = process::run(&mut command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
