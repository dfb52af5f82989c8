//! The three logins, each with two sidecars, three rotations under load and no failed request.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use countersign_integration::Duo;
use countersign_integration::components::kubernetes::{self, Cluster, Pod};
use http::Method;
use serde_json::{Value, json};

use super::{DOMAIN, Stage, says};

const DEADLINE: Duration = Duration::from_secs(120);
const ROTATIONS: usize = 3;

/// A pod of an account, with its projected token for the audience `vault` and no other.
async fn pod(cluster: &Cluster, stage: &Stage, account: &str) -> (Pod, PathBuf) {
    cluster.service_account(&stage.namespace, account).await;
    let pod = cluster.pod(&stage.namespace, account, account, "vault-node").await;
    let file = stage.folder.path().join(format!("{account}.token"));
    fs::write(&file, cluster.pod_token(&pod, &["vault"]).await).unwrap();
    (pod, file)
}

/// The account that reviews tokens for OpenBao.
async fn reviewer(cluster: &Cluster, namespace: &str) -> String {
    cluster.service_account(namespace, "openbao").await;
    let binding = json!({
        "metadata": {"name": format!("openbao-{namespace}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:auth-delegator"},
        "subjects": [{"kind": "ServiceAccount", "name": "openbao", "namespace": namespace}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.create(path, &binding).await;
    cluster.token(namespace, "openbao", &[], None, 3600).await
}

fn login(kind: &str, account: &str, token: &PathBuf) -> Value {
    json!({kind: {"role": account, "tokenFile": token}})
}

/// `web` is reviewed by the cluster, `orders` is known by its token alone; both tokens are for the
/// audience `vault` only.
#[tokio::test]
async fn kubernetes_and_jwt_logins_three_rotations_under_load() {
    let test = "kubernetes_and_jwt_logins_three_rotations_under_load";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let namespace = cluster.namespace("vault").await;
    let Some(stage) = Stage::new(test, &namespace).await else { return };
    cluster.node("vault-node", "eu", "eu-1").await;
    let (web_pod, web_token) = pod(cluster, &stage, "web").await;
    let (_, orders_token) = pod(cluster, &stage, "orders").await;
    let (ca, url, issuer) = (cluster.ca_file(), cluster.url(), cluster.issuer());
    let reviewer = reviewer(cluster, &namespace).await;
    let variables = [
        ("KUBERNETES", url.as_str()),
        ("KUBERNETES_CA", ca.to_str().unwrap()),
        ("REVIEWER", &reviewer),
        ("ISSUER", &issuer),
    ];
    for (kind, account) in [("kubernetes", "web"), ("jwt", "orders")] {
        stage.follow(&format!("{kind}-method"), account, &variables).await;
        stage.follow(kind, account, &variables).await;
    }
    let duo = Duo::start(stage.folder.path(), DOMAIN, &namespace, |account| match account {
        "web" => stage.identity("web", login("kubernetes", "web", &web_token)),
        _ => stage.identity("orders", login("jwt", "orders", &orders_token)),
    })
    .await;
    assert_eq!(
        duo.call().await.seen("countersign-caller").as_deref(),
        Some(stage.id("web").as_str())
    );
    let load = duo.load(100);
    duo.rotations(ROTATIONS, DEADLINE).await;
    let sent = load.stop().await;
    println!("kubernetes and jwt: {sent} requests, {ROTATIONS} rotations of each sidecar");

    // A token of somebody else's, or for somebody else: the server says no, and we say why.
    let other = cluster.token(&namespace, "web", &["elsewhere"], Some(&web_pod), 3600).await;
    fs::write(&web_token, other).unwrap();
    let stranger =
        stage.proxy("web", &stage.identity("web", login("kubernetes", "web", &web_token)));
    says(&stranger, &["log in of", "auth/kubernetes/login", "audience"]).await;
    // The pod's own token, after the pod is gone: refused at the next login, in the same words.
    fs::write(&web_token, cluster.pod_token(&web_pod, &["vault"]).await).unwrap();
    cluster.delete_pod(&web_pod).await;
    let gone = stage.proxy("web", &stage.identity("web", login("kubernetes", "web", &web_token)));
    says(&gone, &["log in of", "403", "does its pod still exist"]).await;
}

/// The token of the server is renewed at two thirds of its lease, replaced when it cannot be
/// renewed any more, and got anew when somebody revoked it.
#[tokio::test]
async fn approle_login_three_rotations_under_load() {
    let Some(stage) = Stage::new("approle_login_three_rotations_under_load", "shop").await else {
        return;
    };
    stage.follow("approle-method", "", &[]).await;
    let logins = [stage.approle("web").await, stage.approle("orders").await];
    for account in ["web", "orders"] {
        let short = json!({"token_policies": account, "token_ttl": "6s", "token_max_ttl": "20s"});
        stage.bao.put(&format!("auth/approle/role/{account}"), &short).await;
    }
    let between = super::between::Between::new(&stage.bao);
    let duo = Duo::start(stage.folder.path(), DOMAIN, "shop", |account| {
        let login = logins[usize::from(account == "orders")].clone();
        let mut identity = stage.identity(account, login);
        if account == "web" {
            identity["source"]["vault"]["address"] = json!(between.url());
        }
        identity
    })
    .await;
    let load = duo.load(100);
    duo.rotations(1, DEADLINE).await;
    let (status, _) = stage
        .bao
        .ask(Method::PUT, "sys/leases/revoke-prefix/auth/approle/login", Some(&json!({})))
        .await;
    assert_eq!(status, 204, "no token of a login lives on");
    duo.rotations(ROTATIONS - 1, DEADLINE).await;
    let sent = load.stop().await;
    println!("approle: {sent} requests, {ROTATIONS} rotations of each sidecar");
    let asked = |path: &str| between.asked().iter().filter(|target| target.contains(path)).count();
    assert!(asked("/auth/token/renew-self") >= 2, "{:?}", between.asked());
    assert!(asked("/auth/approle/login") >= 2, "{:?}", between.asked());
    assert!(asked("/pki/sign/web") > ROTATIONS, "{:?}", between.asked());
    assert_eq!(asked("/issue/"), 0, "the key is never made elsewhere");
    let failed = duo.web.log().contains("identity source failed");
    assert!(!failed, "a revoked token costs no attempt\n{}", duo.web.log());
}
