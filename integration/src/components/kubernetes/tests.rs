//! The cluster itself: what tests build on is there.

use serde_json::{Value, json};

use super::{Cluster, shared};
use crate::wait;

/// Claims of a token, unverified.
fn claims(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

async fn review(cluster: &Cluster, token: &str, audience: &str) -> Value {
    let object = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    cluster.create(path, &object).await["status"].clone()
}

#[tokio::test]
async fn tokens_of_a_pod_end_with_it() {
    let Some(cluster) = shared("tokens_of_a_pod_end_with_it").await else { return };
    let namespace = cluster.namespace("shop").await;
    cluster.node("node-1", "eu", "eu-1").await;
    cluster.service_account(&namespace, "orders").await;
    let pod = cluster.pod(&namespace, "orders-1", "orders", "node-1").await;
    let token = cluster.pod_token(&pod, &["elsewhere"]).await;
    let said = claims(&token);
    assert_eq!(said["iss"], cluster.issuer());
    assert_eq!(said["kubernetes.io"]["pod"]["uid"], pod.uid);
    assert_eq!(said["kubernetes.io"]["node"]["name"], "node-1");

    let status = review(cluster, &token, "elsewhere").await;
    assert_eq!(status["authenticated"], true, "{status:#}");
    assert_eq!(status["audiences"], json!(["elsewhere"]));
    cluster.delete_pod(&pod).await;
    // The server remembers for ten seconds that a token was good.
    wait::until("the end of the token", || async {
        let status = review(cluster, &token, "elsewhere").await;
        (status["authenticated"] != true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn everybody_may_read_the_keys_and_nothing_else() {
    let Some(cluster) = shared("everybody_may_read_the_keys").await else { return };
    let document = cluster.anonymous("/.well-known/openid-configuration").await.ok();
    assert_eq!(document["issuer"], cluster.issuer());
    let keys = cluster.anonymous("/openid/v1/jwks").await.ok();
    assert_eq!(keys["keys"][0]["kty"], "RSA");
    assert_eq!(cluster.anonymous("/api/v1/pods").await.status, 403);
}
