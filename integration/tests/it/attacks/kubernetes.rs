//! Pods, and those who stole from them, ask the signer for what is not theirs.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_certs_client::{KeyMaker, csr, svid};
use countersign_integration::components::kubernetes::{self, Signing};
use countersign_integration::{process, programs, wait};
use countersign_workload_id::WorkloadId;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::json;

/// Life of the certificates here.
const LIFE_S: u64 = 60;

fn request(id: Option<&str>) -> String {
    let id = id.map(|id| WorkloadId::parse(id).unwrap());
    csr::request(&KeyMaker::Software.make().unwrap(), id.as_ref()).unwrap().pem
}

async fn ask(signing: &Signing<'_>, token: &str, pem: &str) -> String {
    let made = signing.ask(token, pem).await.ok();
    made["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn attack_csr_asks_for_another_identity() {
    let Some(cluster) = kubernetes::shared("attack_csr_asks_for_another_identity").await else {
        return;
    };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let _signer = signing.start().await;
    let pod = signing.pod("orders", "node-1").await;
    let token = signing.project_token(&pod).await;
    let denied = async |pem: &str| {
        let name = ask(&signing, &token, pem).await;
        signing.decided(&name).await.denial()
    };
    for other in [signing.id("billing"), "spiffe://partner.test/ns/shop/sa/orders".to_owned()] {
        let (reason, message) = denied(&request(Some(&other))).await;
        assert_eq!(reason, "OtherIdentity");
        assert!(message.contains(&other) && message.contains(&signing.id("orders")), "{message}");
    }
    // Made by openssl: a name of the web, two URIs, an authority, keys of other kinds.
    let Some(openssl) = programs::system("attack_csr_asks_for_another_identity", "openssl") else {
        return;
    };
    let own = signing.id("orders");
    let extensions = [
        ("subjectAltName=DNS:billing.shop.svc".to_owned(), "no URI"),
        (format!("subjectAltName=URI:{own},DNS:billing.shop.svc"), "no URI"),
        (format!("subjectAltName=URI:{own},URI:{}", signing.id("billing")), "several URIs"),
        ("basicConstraints=critical,CA:TRUE".to_owned(), "authority"),
    ];
    for (extension, word) in extensions {
        let mut command = std::process::Command::new(&openssl);
        command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-nodes", "-keyout", "/dev/null", "-subj", "/O=system:masters/CN=admin"]);
        let done = process::run(command.args(["-addext", &extension]));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (reason, message) = denied(&String::from_utf8_lossy(&done.stdout)).await;
        assert_eq!(reason, "BadRequest", "{extension}");
        assert!(message.contains(word), "{extension}: {message}");
    }
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default().serialize_request(&p384).unwrap();
    assert_eq!(denied(&csr.pem().unwrap()).await.0, "KeyType");

    // Its own identity it gets, named or not.
    for pem in [request(Some(&own)), request(None)] {
        let name = ask(&signing, &token, &pem).await;
        let chain = signing.decided(&name).await.chain();
        assert_eq!(svid::claimed_id(&chain[0]).unwrap().as_str(), own);
    }
}

#[tokio::test]
async fn attack_csr_from_deleted_pod() {
    let Some(cluster) = kubernetes::shared("attack_csr_from_deleted_pod").await else { return };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let gone = signing.pod("gone", "node-1").await;
    let replaced = signing.pod("replaced", "node-1").await;
    let ending = signing.pod("ending", "node-1").await;
    let alive = signing.pod("alive", "node-1").await;
    let mut names = Vec::new();
    for pod in [&gone, &replaced, &ending, &alive] {
        let token = signing.project_token(pod).await;
        names.push(ask(&signing, &token, &request(None)).await);
    }
    // Between request and decision the pods go, and one comes back as another.
    cluster.delete_pod(&gone).await;
    cluster.delete_pod(&replaced).await;
    signing.sibling(&replaced.name, "replaced", "node-1").await;
    cluster.terminate_pod(&ending).await;
    let _signer = signing.start().await;
    let mut reasons = Vec::new();
    for name in &names[..3] {
        reasons.push(signing.decided(name).await.denial().0);
    }
    assert_eq!(reasons, ["PodGone", "PodGone", "PodTerminating"]);
    signing.decided(&names[3]).await.chain();
}

#[tokio::test]
async fn attack_revoked_pod_asks_for_a_certificate() {
    let test = "attack_revoked_pod_asks_for_a_certificate";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let signer = signing.start().await;
    let pod = signing.pod("orders", "node-1").await;
    let sibling = signing.sibling("orders-2", "orders", "node-2").await;
    let tokens = [signing.project_token(&pod).await, signing.project_token(&sibling).await];
    let name = ask(&signing, &tokens[0], &request(None)).await;
    signing.decided(&name).await.chain();

    signing.revoke(json!({"pods": [{"uid": pod.uid}]}));
    wait::until_true("the revocation", || signer.stderr().contains("the documents changed")).await;
    let name = ask(&signing, &tokens[0], &request(None)).await;
    let (reason, message) = signing.decided(&name).await.denial();
    assert_eq!(reason, "PodRevoked");
    assert!(message.contains(&pod.uid), "{message}");
    let name = ask(&signing, &tokens[1], &request(None)).await;
    signing.decided(&name).await.chain();

    // A document that does not parse takes nothing back.
    signing.lab.write_text("revocation.yaml", "kind: Revocation\nspec: {pods: 7}\n");
    wait::until_true("the complaint", || {
        signer.stderr().contains("the documents are not taken over")
    })
    .await;
    let name = ask(&signing, &tokens[0], &request(None)).await;
    assert_eq!(signing.decided(&name).await.denial().0, "PodRevoked");
}

/// A token for the API server is not yet one of a pod, and one for a CA asks nothing there.
#[tokio::test]
async fn attack_uses_api_server_token_at_signer() {
    let test = "attack_uses_api_server_token_at_signer";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let _signer = signing.start().await;
    let pod = signing.pod("orders", "node-1").await;
    // `kubectl create token orders`: the right account, no pod.
    let unbound = cluster.token(&signing.namespace, "orders", &[], None, 3600).await;
    let name = ask(&signing, &unbound, &request(Some(&signing.id("orders")))).await;
    let (reason, message) = signing.decided(&name).await.denial();
    assert_eq!(reason, "NotAPod");
    assert!(message.contains("not bound to a pod"), "{message}");
    // The administrator is nobody's pod either.
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "test-"},
        "spec": {
            "request": STANDARD.encode(request(Some(&signing.id("orders")))),
            "signerName": signing.signer_name,
            "usages": ["digital signature", "client auth", "server auth"],
            // Who asks is what the API server says, not what is written here.
            "username": format!("system:serviceaccount:{}:orders", signing.namespace),
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod.name],
                "authentication.kubernetes.io/pod-uid": [pod.uid],
            },
        },
    });
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = cluster.create(path, &object).await;
    assert_eq!(made["spec"]["username"], "admin");
    let name = made["metadata"]["name"].as_str().unwrap();
    assert_eq!(signing.decided(name).await.denial().0, "NotAPod");

    let for_a_ca = cluster.pod_token(&pod, &["countersign.dev/ca"]).await;
    assert_eq!(signing.ask(&for_a_ca, &request(None)).await.status, 401);
    let for_the_server = signing.project_token(&pod).await;
    let name = ask(&signing, &for_the_server, &request(None)).await;
    signing.decided(&name).await.chain();
}

/// One pod floods: only its last request counts, and its siblings are served.
#[tokio::test]
async fn attack_floods_the_signer_with_requests() {
    let test = "attack_floods_the_signer_with_requests";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let pod = signing.pod("orders", "node-1").await;
    let sibling = signing.sibling("orders-2", "orders", "node-2").await;
    let (token, other) = (signing.project_token(&pod).await, signing.project_token(&sibling).await);
    let mut names = Vec::new();
    for _ in 0..20 {
        names.push(ask(&signing, &token, &request(None)).await);
    }
    let honest = ask(&signing, &other, &request(None)).await;
    let _signer = signing.start().await;
    signing.decided(&honest).await.chain();
    let mut issued = 0;
    for name in &names {
        match signing.decided(name).await {
            kubernetes::Outcome::Issued(_) => issued += 1,
            kubernetes::Outcome::Denied { reason, .. } => assert_eq!(reason, "Superseded"),
        }
    }
    assert_eq!(issued, 1);
}

/// A request may have a megabyte. What fits into no answer that the signer takes holds nobody up.
#[tokio::test]
async fn attack_asks_the_signer_with_megabytes() {
    let test = "attack_asks_the_signer_with_megabytes";
    let Some(cluster) = kubernetes::shared(test).await else { return };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let pod = signing.pod("orders", "node-1").await;
    let honest = signing.pod("billing", "node-2").await;
    let (token, other) = (signing.project_token(&pod).await, signing.project_token(&honest).await);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let filling = vec![b'x'; 1_000_000];
    params.custom_extensions =
        vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], filling)];
    let large = params.serialize_request(&key).unwrap().pem().unwrap();
    let flood = async || {
        let mut names = Vec::new();
        for _ in 0..10 {
            names.push(ask(&signing, &token, &large).await);
        }
        names
    };
    // Before it looks, and in the windows in which it does.
    let mut names = flood().await;
    let first = ask(&signing, &other, &request(None)).await;
    let signer = signing.start().await;
    signing.decided(&first).await.chain();
    names.extend(flood().await);
    let second = ask(&signing, &other, &request(None)).await;
    signing.decided(&second).await.chain();
    for name in &names {
        let (reason, message) = signing.decided(name).await.denial();
        let sized = reason == "BadRequest" && message.contains("too large");
        assert!(sized || reason == "Superseded", "{reason}: {message}");
    }
    assert_eq!(signer.exit_status(), None);
}

/// Somebody with the right to approve cannot make the signer sign what it would deny.
#[tokio::test]
async fn attack_approves_a_request_by_hand() {
    let Some(cluster) = kubernetes::shared("attack_approves_a_request_by_hand").await else {
        return;
    };
    let signing = Signing::prepare(cluster, LIFE_S).await;
    let pod = signing.pod("orders", "node-1").await;
    let token = signing.project_token(&pod).await;
    let name = ask(&signing, &token, &request(Some(&signing.id("billing")))).await;
    let mut object = signing.object(&name).await;
    object["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "ByHand", "message": "m"}]);
    let path = format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/approval");
    cluster.admin(http::Method::PUT, &path, Some(&object)).await.ok();
    let _signer = signing.start().await;
    assert_eq!(signing.decided(&name).await.denial().0, "OtherIdentity");
}
