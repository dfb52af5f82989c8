//! PodCertificate and ClusterTrustBundle of a real API server. Nobody runs a kubelet here, so the
//! test does what one does: it asks under the node's certificate, and writes what it was given.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_certs_client::svid;
use countersign_integration::client::Call;
use countersign_integration::components::kubernetes::{self, Cluster, Pod};
use countersign_integration::kubelet_writer::Volume;
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Authority, Lab, Leaf, documents, wait};
use http::Method;
use serde_json::{Value, json};

use super::{presented, uses};

const API: &str = "/apis/certificates.k8s.io";
/// A signer nobody else in this cluster is.
const SIGNER: &str = "countersign.dev/pod-certificate-test";
const NODE: &str = "node-of-pod-certificates";

/// A node's kubelet with one pod.
struct Kubelet<'c> {
    cluster: &'c Cluster,
    pod: Pod,
    volume: Volume,
}

impl Kubelet<'_> {
    /// Asks for a certificate on the key of `leaf`; gives the request's name.
    async fn request(&self, leaf: &Leaf) -> String {
        let Pod { namespace, name, uid, account } = &self.pod;
        let about = async |path: &str| {
            let found = self.cluster.admin(Method::GET, path, None).await.ok();
            found["metadata"]["uid"].clone()
        };
        let account_uid =
            about(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}")).await;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &leaf.key).unwrap();
        let proof = key.sign(&SystemRandom::new(), uid.as_bytes()).unwrap();
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1alpha1", "kind": "PodCertificateRequest",
            "metadata": {"generateName": "req-", "namespace": namespace},
            "spec": {
                "signerName": SIGNER, "podName": name, "podUID": uid,
                "serviceAccountName": account, "serviceAccountUID": account_uid,
                "nodeName": NODE, "nodeUID": about(&format!("/api/v1/nodes/{NODE}")).await,
                "maxExpirationSeconds": 86_400,
                "pkixPublicKey": STANDARD.encode(svid::spki(&leaf.chain[0]).unwrap()),
                "proofOfPossession": STANDARD.encode(proof.as_ref()),
            },
        });
        let path = self.path();
        let made = self.cluster.as_kubelet(NODE, Method::POST, &path, Some(&object)).await.ok();
        made["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// What a signer does with it.
    async fn issue(&self, name: &str, leaf: &Leaf) {
        let path = format!("{}/{name}", self.path());
        let mut object = self.cluster.admin(Method::GET, &path, None).await.ok();
        let facts = svid::facts(&leaf.chain[0]).unwrap();
        let time = |unix_s: u64| {
            let done = std::process::Command::new("date")
                .args(["-u", "-d", &format!("@{unix_s}"), "+%Y-%m-%dT%H:%M:%SZ"])
                .output();
            String::from_utf8(done.unwrap().stdout).unwrap().trim().to_owned()
        };
        object["status"] = json!({
            "conditions": [{
                "type": "Issued", "status": "True", "reason": "Issued", "message": "",
                "lastTransitionTime": time(facts.not_before),
            }],
            "certificateChain": leaf.chain_pem,
            "notBefore": time(facts.not_before), "notAfter": time(facts.not_after),
            "beginRefreshAt": time((facts.not_before + facts.not_after) / 2),
        });
        let status = format!("{path}/status");
        self.cluster.admin(Method::PUT, &status, Some(&object)).await.ok();
    }

    /// Writes the volume from what the API server says now.
    async fn write(&self, name: &str, leaf: &Leaf) {
        let path = format!("{}/{name}", self.path());
        // The API server learns a moment after it whose node a new request belongs to.
        let issued = wait::until("the request to be the node's", async || {
            let answer = self.cluster.as_kubelet(NODE, Method::GET, &path, None).await;
            (answer.status != 403).then(|| answer.ok())
        })
        .await;
        let chain = issued["status"]["certificateChain"].as_str().unwrap();
        let selector =
            format!("{API}/v1beta1/clustertrustbundles?fieldSelector=spec.signerName={SIGNER}");
        let bundles = self.cluster.admin(Method::GET, &selector, None).await.ok();
        let bundles = bundles["items"].as_array().unwrap().iter();
        let mut roots: Vec<&str> =
            bundles.map(|bundle| bundle["spec"]["trustBundle"].as_str().unwrap()).collect();
        roots.sort_unstable();
        let identity = format!("{}{chain}", leaf.key_pem);
        self.volume.write(&[("identity.pem", &identity), ("trust.pem", &roots.concat())]);
    }

    fn path(&self) -> String {
        format!("{API}/v1alpha1/namespaces/{}/podcertificaterequests", self.pod.namespace)
    }
}

/// Puts the root of an authority where kubelets find it.
async fn publish(cluster: &Cluster, name: &str, ca: &Authority) {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": format!("{}:{name}", SIGNER.replace('/', ":"))},
        "spec": {"signerName": SIGNER, "trustBundle": ca.pem()},
    });
    cluster.create(&format!("{API}/v1beta1/clustertrustbundles"), &object).await;
}

/// Issued, renewed, and moved to a new root by way of both.
#[tokio::test]
async fn a_pod_certificate_of_a_real_api_server_is_an_identity() {
    let test = "a_pod_certificate_of_a_real_api_server_is_an_identity";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let lab = Lab::new();
    let namespace = cluster.namespace("shop").await;
    cluster.service_account(&namespace, "orders").await;
    cluster.node(NODE, "eu", "eu-1").await;
    let pod = cluster.pod(&namespace, "orders-0", "orders", NODE).await;
    let volume = Volume::new(&lab.folder().join("volume"));
    let kubelet = Kubelet { cluster, pod, volume };
    let id = lab.id(&namespace, "orders");
    let renew = async |ca: &Authority, seconds: u64| {
        let leaf = ca.issue(Request::new(&[&id]).lives_s(seconds));
        let name = kubelet.request(&leaf).await;
        kubelet.issue(&name, &leaf).await;
        kubelet.write(&name, &leaf).await;
        leaf
    };

    publish(cluster, "one", &lab.ca).await;
    let first = renew(&lab.ca, 7_200).await;
    let app = App::mirror();
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access(&namespace, documents::anybody()));
    let files: Value = json!({
        "certificate": kubelet.volume.path("identity.pem"),
        "bundle": kubelet.volume.path("trust.pem"),
    });
    let proxy = Spec::new(lab.folder(), &namespace, "orders", json!({"files": files}))
        .documents(&[&mesh, &access])
        .inbound(app.address)
        .start()
        .await;
    assert_eq!(presented(&lab, &proxy).await, first.chain[0]);
    let second = renew(&lab.ca, 8_000).await;
    uses(&proxy, &second).await;

    // The next root is there before anything is issued under it.
    let next = Authority::new(lab.ca.domain());
    publish(cluster, "two", &next).await;
    let third = renew(&next, 9_000).await;
    uses(&proxy, &third).await;
    assert_eq!(presented(&lab, &proxy).await, third.chain[0]);
    let reply = lab.call_as("shop", "cart", &proxy, Call::get("orders.shop", "/")).await;
    assert_eq!(reply.status, 200, "a peer under the old root");
    assert!(!proxy.log().contains("identity source failed"), "{}", proxy.log());
}
