//! `countersign signer` in a cluster, with the rights that the page for users gives it, and pods
//! whose sidecars ask it for certificates.
//!
//! Each has its own namespaces, signer name and cluster roles, so that many share one cluster.

use std::path::PathBuf;
use std::process::Command;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{Answer, Cluster, Pod};
use crate::lab::Lab;
use crate::process::Process;
use crate::proxy::Spec;
use crate::{documents, lab, programs, wait};

/// The page for users, whose manifests are what the tests apply.
const PAGE: &str = include_str!("../../../../docs/identity/kubernetes.md");
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A signer and the namespace it serves.
pub struct Signing<'c> {
    /// Where it works.
    pub cluster: &'c Cluster,
    /// Its files; its authority is the lab's.
    pub lab: Lab,
    /// The namespace whose pods may ask.
    pub namespace: String,
    /// Its name as a signer.
    pub signer_name: String,
    /// Where its pods get their roots: `{clusterTrustBundle: NAME}`, or `{file: PATH}`.
    pub trust: Value,
    system: String,
    config: PathBuf,
}

impl<'c> Signing<'c> {
    /// Everything but the signer itself, whose certificates live `life_s` seconds.
    ///
    /// # Panics
    /// When the cluster refuses what the page says.
    pub async fn prepare(cluster: &'c Cluster, life_s: u64) -> Signing<'c> {
        let namespace = cluster.namespace("shop").await;
        let lab = Lab::new();
        lab.ca.write_key(lab.folder(), "ca");
        let system = format!("{namespace}-system");
        let signer_name = format!("{namespace}.test/workload");
        lab.write_text("roots.pem", lab.ca.pem());
        let bundle = format!("{}:trust", signer_name.replace('/', ":"));
        let own = Signing {
            cluster,
            config: lab.folder().join("signer.yaml"),
            trust: json!({"clusterTrustBundle": bundle}),
            lab,
            namespace,
            signer_name,
            system,
        };
        own.apply_page().await;
        own.configure(json!({"min": "10s", "max": format!("{life_s}s")}));
        own.signer_token().await;
        for (node, zone) in [("node-1", "eu-1"), ("node-2", "eu-2")] {
            cluster.node(node, "eu", zone).await;
        }
        own
    }

    /// The manifests of the page, under names of this one.
    async fn apply_page(&self) {
        let manifest = PAGE
            .split("```yaml\n")
            .find(|block| block.starts_with("apiVersion: v1\nkind: Namespace"))
            .and_then(|block| block.split("```").next())
            .expect("the page has the manifest");
        for document in manifest.split("---\n") {
            let text = self.rename(document);
            self.cluster.apply_yaml(&self.path_of(&text), &text).await;
        }
    }

    /// The page's names, made this one's own.
    fn rename(&self, text: &str) -> String {
        text.replace("countersign-system", &self.system)
            .replace("name: countersign-", &format!("name: {}-", self.system))
            .replace("countersign.dev:workload:trust", &self.bundle_name())
            .replace("countersign.dev/workload", &self.signer_name)
            .replace("serviceaccounts:shop", &format!("serviceaccounts:{}", self.namespace))
    }

    fn path_of(&self, manifest: &str) -> String {
        let kind = manifest.lines().find_map(|line| line.strip_prefix("kind: "));
        match kind.unwrap_or_default() {
            "Namespace" => "/api/v1/namespaces".to_owned(),
            "ServiceAccount" => format!("/api/v1/namespaces/{}/serviceaccounts", self.system),
            role => {
                let plural = role.to_lowercase() + "s";
                format!("/apis/rbac.authorization.k8s.io/v1/{plural}")
            }
        }
    }

    fn configure(&self, lifetime: Value) {
        let folder = self.lab.folder();
        let document = documents::document(
            "SignerConfig",
            "signer",
            None,
            json!({
                "trustDomain": lab::DOMAIN,
                "kubernetes": {
                    "server": self.cluster.url(), "ca": self.cluster.ca_file(),
                    "tokenFile": folder.join("signer.token"),
                },
                "signerName": self.signer_name,
                "authority": {
                    "certificate": folder.join("bundle.pem"), "key": folder.join("ca.key"),
                    "roots": folder.join("roots.pem"),
                },
                "lifetime": lifetime,
                "clusterTrustBundle": self.bundle_name(),
                "documents": {"files": ["mesh.yaml", "revocation.yaml"]},
            }),
        );
        self.lab.write("mesh.yaml", &self.lab.mesh().document());
        self.lab.revoke(json!({}));
        self.lab.write("signer.yaml", &document);
    }

    /// The `ClusterTrustBundle` the signer publishes.
    pub fn bundle_name(&self) -> String {
        format!("{}:trust", self.signer_name.replace('/', ":"))
    }

    async fn signer_token(&self) {
        let account = format!("{}-signer", self.system);
        let token = self.cluster.token(&self.system, &account, &[], None, 3600).await;
        self.lab.write_text("signer.token", &token);
    }

    /// Starts the signer.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn start(&self) -> Process {
        let mut command = Command::new(programs::cli());
        command.arg("signer").arg("--config").arg(&self.config);
        let signer = Process::start("signer", command, self.lab.folder());
        wait::until("the signer", || async {
            if let Some(status) = signer.exit_status() {
                panic!("the signer ended with {status}\n{}", signer.tail());
            }
            signer.stdout().contains("asking").then_some(())
        })
        .await;
        signer
    }

    /// A pod of the service account `name`, with the file its token is projected to.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn pod(&self, name: &str, node: &str) -> Pod {
        self.cluster.service_account(&self.namespace, name).await;
        self.sibling(&format!("{name}-1"), name, node).await
    }

    /// One more pod of a service account that exists.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn sibling(&self, name: &str, account: &str, node: &str) -> Pod {
        let pod = self.cluster.pod(&self.namespace, name, account, node).await;
        self.project_token(&pod).await;
        pod
    }

    /// Writes a fresh token where the pod's sidecar reads it, as kubelet does.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn project_token(&self, pod: &Pod) -> String {
        let token = self.cluster.pod_token(pod, &[]).await;
        self.lab.write_text(&token_file(pod), &token);
        token
    }

    /// The identity source of a pod's sidecar.
    pub fn source(&self, pod: &Pod) -> Value {
        json!({"kubernetesCsr": {
            "server": self.cluster.url(), "ca": self.cluster.ca_file(),
            "tokenFile": self.lab.folder().join(token_file(pod)),
            "signerName": self.signer_name, "expirationSeconds": 600,
            "trust": self.trust,
        }})
    }

    /// The SPIFFE ID of an account here.
    pub fn id(&self, account: &str) -> String {
        self.lab.id(&self.namespace, account)
    }

    /// The sidecar of a pod, not started.
    pub fn sidecar(&self, pod: &Pod) -> Spec {
        let spec = Spec::new(self.lab.folder(), &self.namespace, &pod.account, self.source(pod));
        let id = self.id(&pod.account);
        spec.with(|config| config["identity"]["expectedId"] = json!(id))
    }

    /// Asks for a certificate as a pod, with any request; gives the object.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, token: &str, csr_pem: &str) -> Answer {
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "test-"},
            "spec": {
                "request": STANDARD.encode(csr_pem), "signerName": self.signer_name,
                "expirationSeconds": 600,
                "usages": ["digital signature", "client auth", "server auth"],
            },
        });
        self.cluster.with_token(token, Method::POST, REQUESTS, Some(&object)).await
    }

    /// Waits until somebody has decided on a request.
    ///
    /// # Panics
    /// When nobody does.
    pub async fn decided(&self, name: &str) -> Outcome {
        wait::until(&format!("a decision on {name}"), || async {
            let object = self.object(name).await;
            let conditions = object["status"]["conditions"].as_array();
            let denied = conditions.and_then(|all| {
                all.iter().find(|found| found["type"] == "Denied" || found["type"] == "Failed")
            });
            if let Some(found) = denied {
                let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
                return Some(Outcome::Denied { reason: text("reason"), message: text("message") });
            }
            let pem = STANDARD.decode(object["status"]["certificate"].as_str()?).unwrap();
            let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            Some(Outcome::Issued(chain.unwrap()))
        })
        .await
    }

    /// A request as it is now.
    ///
    /// # Panics
    /// When it is gone.
    pub async fn object(&self, name: &str) -> Value {
        self.cluster.admin(Method::GET, &format!("{REQUESTS}/{name}"), None).await.ok()
    }

    /// Every request of this signer.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn requests(&self) -> Vec<Value> {
        let selector = self.signer_name.replace('/', "%2F");
        let path = format!("{REQUESTS}?fieldSelector=spec.signerName%3D{selector}");
        let list = self.cluster.admin(Method::GET, &path, None).await.ok();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Takes a revoked pod's certificates, and everything else, out of or into the documents.
    pub fn revoke(&self, entries: Value) {
        self.lab.revoke(entries);
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Somebody said no.
    Denied {
        /// In one word.
        reason: String,
        /// In words.
        message: String,
    },
    /// The certificate and what goes along with it.
    Issued(Vec<CertificateDer<'static>>),
}

impl Outcome {
    /// The chain.
    ///
    /// # Panics
    /// When it was denied.
    pub fn chain(self) -> Vec<CertificateDer<'static>> {
        match self {
            Outcome::Issued(chain) => chain,
            Outcome::Denied { .. } => panic!("{self:?}"),
        }
    }

    /// Reason and message.
    ///
    /// # Panics
    /// When it was granted.
    pub fn denial(self) -> (String, String) {
        match self {
            Outcome::Denied { reason, message } => (reason, message),
            Outcome::Issued(_) => panic!("a certificate was issued"),
        }
    }
}

fn token_file(pod: &Pod) -> String {
    format!("{}.token", pod.name)
}
