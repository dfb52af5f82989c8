//! Kubernetes without nodes: a real API server with role-based access and a real etcd.
//!
//! Tests make namespaces, service accounts, nodes and pods of their own in it and play the kubelet:
//! a pod is bound to its node when it is made, and nothing ever runs in it. One cluster is shared
//! by the tests of a run ([`shared`]), each in namespaces of its own; a test that stops the server
//! starts one for itself. Whoever reads the keys of tokens must not insist on `application/json`:
//! the server calls them `application/jwk-set+json`. A TokenReview may be ten seconds old.

mod certificates;
mod server;
mod signing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::client::{Call, Conn};
use crate::{tls, wait};
use certificates::Certificates;
use server::{Folder, Server};
pub use signing::{Outcome, Signing};

/// A running cluster; dropping it stops it.
pub struct Cluster {
    server: Server,
    certificates: Certificates,
    folder: Folder,
}

/// A pod that was made in a cluster.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What the API server calls it.
    pub uid: String,
    /// Its service account.
    pub account: String,
}

/// An answer of the API server.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The body of an answer that is a success.
    ///
    /// # Panics
    /// When it is none.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {:#}", self.status, self.body);
        self.body
    }
}

/// The cluster of this test run, started by whoever asks first; `None` where the programs are
/// missing, which is said in the name of `test`.
///
/// # Panics
/// When the test-bed is required and missing, or the server does not start.
pub async fn shared(test: &str) -> Option<&'static Cluster> {
    static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
    let found = SHARED.get_or_init(|| Cluster::start(test)).await;
    if found.is_none() {
        eprintln!("skipped {test}: no Kubernetes API server");
    }
    found.as_ref()
}

impl Cluster {
    /// A new cluster; `None` where the programs are missing.
    ///
    /// # Panics
    /// When the test-bed is required and missing, or the server does not start.
    pub async fn start(test: &str) -> Option<Cluster> {
        let programs = server::Programs::find(test)?;
        let folder = Folder::new();
        let certificates = Certificates::new(folder.path());
        let server = Server::new(programs, folder.path());
        let cluster = Cluster { server, certificates, folder };
        cluster.resume().await;
        cluster.open_discovery().await;
        Some(cluster)
    }

    /// Stops the API server: nobody can ask anything until [`Cluster::resume`].
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts the API server, which knows everything it knew, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn resume(&self) {
        self.server.run();
        wait::until_within(Duration::from_secs(90), "the API server", || async {
            self.server.assert_running();
            let answer = self.try_ask(Method::GET, "/readyz", None, None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Its URL, with the address instead of a name.
    pub fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// Host and port, as a pod's environment has them.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address
    }

    /// The issuer of service account tokens; discovery is open to everybody there.
    pub fn issuer(&self) -> String {
        self.server.issuer()
    }

    /// The authority of the API server's certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A folder for files that belong to the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the API server logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Asks as the administrator.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn admin(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let asked = format!("{method} {path}");
        let answer = self.try_ask(method, path, body, None).await;
        answer.unwrap_or_else(|error| panic!("{asked}: {error:#}"))
    }

    /// Asks with a bearer token and nothing else.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn with_token(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let asked = format!("{method} {path}");
        let answer = self.try_ask(method, path, body, Some(token)).await;
        answer.unwrap_or_else(|error| panic!("{asked}: {error:#}"))
    }

    /// Reads something as nobody.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn anonymous(&self, path: &str) -> Answer {
        let conn = Conn::tls(self.server.address, tls::client(None, &[b"http/1.1"])).await;
        let answer = exchange(conn.unwrap(), call(Method::GET, path, None, None)).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    /// Asks as the kubelet of a node.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn as_kubelet(
        &self,
        node: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let leaf = self.certificates.kubelet(node);
        let config = tls::client(Some(&leaf), &[b"http/1.1"]);
        let conn = Conn::tls(self.server.address, config).await;
        let answer = exchange(conn.unwrap(), call(method, path, body, None)).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    /// Makes an object.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        self.admin(Method::POST, path, Some(object)).await.ok()
    }

    /// Makes the objects of a manifest, several documents of YAML in the text of a page.
    ///
    /// # Panics
    /// When the API server refuses one.
    pub async fn apply_yaml(&self, path: &str, yaml: &str) {
        let mut call = call(Method::POST, path, None, None);
        call.headers.insert("content-type", http::HeaderValue::from_static("application/yaml"));
        let call = call.body(crate::client::full(yaml.to_owned()));
        exchange(self.connect().await.unwrap(), call).await.unwrap().ok();
    }

    /// A namespace of a name that nobody else has, which starts with `prefix`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn namespace(&self, prefix: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.named_namespace(&name).await;
        name
    }

    /// A namespace of this name, for a cluster of one's own.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn named_namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }

    /// A service account.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn service_account(&self, namespace: &str, name: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let object = json!({
            "metadata": {"name": name}, "automountServiceAccountToken": false,
        });
        self.create(&path, &object).await;
    }

    /// A node with the labels that say where it is; one that exists is left as it is.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn node(&self, name: &str, region: &str, zone: &str) {
        let node = json!({"metadata": {"name": name, "labels": {
            "topology.kubernetes.io/region": region, "topology.kubernetes.io/zone": zone,
        }}});
        let answer = self.admin(Method::POST, "/api/v1/nodes", Some(&node)).await;
        assert!([201, 409].contains(&answer.status), "{answer:?}");
    }

    /// A pod on a node that exists, under a service account that exists.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> Pod {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let made = self
            .create(
                &path,
                &json!({
                    "metadata": {"name": name, "labels": {"app": name}},
                    "spec": {
                        "serviceAccountName": account, "nodeName": node,
                        "automountServiceAccountToken": false,
                        "containers": [{"name": "app", "image": "app"}],
                    },
                }),
            )
            .await;
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: made["metadata"]["uid"].as_str().unwrap().to_owned(),
            account: account.to_owned(),
        }
    }

    /// Removes a pod at once.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete_pod(&self, pod: &Pod) {
        self.end_pod(pod, 0).await;
    }

    /// Tells a pod to end; it stays, terminating, because nobody stops its containers.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn terminate_pod(&self, pod: &Pod) {
        self.end_pod(pod, 600).await;
    }

    async fn end_pod(&self, pod: &Pod, grace_s: u32) {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let options = json!({"gracePeriodSeconds": grace_s});
        self.admin(Method::DELETE, &path, Some(&options)).await.ok();
    }

    /// A token of a service account for `audiences`, bound to a pod if one is given; without
    /// audiences it is one for the API server.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audiences: &[&str],
        pod: Option<&Pod>,
        expiration_s: u64,
    ) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let mut spec = json!({"audiences": audiences, "expirationSeconds": expiration_s});
        if let Some(Pod { name, uid, .. }) = pod {
            spec["boundObjectRef"] =
                json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
        }
        let object = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let made = self.create(&path, &object).await;
        made["status"]["token"].as_str().unwrap().to_owned()
    }

    /// The token of a pod as its projected volume would have it: for the pod's own account.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn pod_token(&self, pod: &Pod, audiences: &[&str]) -> String {
        self.token(&pod.namespace, &pod.account, audiences, Some(pod), 3600).await
    }

    /// Whoever can reach the server may read the keys of its tokens.
    async fn open_discovery(&self) {
        let binding = json!({
            "metadata": {"name": "open-discovery"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "system:service-account-issuer-discovery",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
                "name": "system:unauthenticated",
            }],
        });
        self.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    }

    async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let conn = match token {
            None => self.connect().await?,
            Some(_) => {
                let config = tls::client(None, &[b"http/1.1"]);
                Conn::tls(self.server.address, config).await?
            }
        };
        exchange(conn, call(method, path, body, token)).await
    }

    async fn connect(&self) -> anyhow::Result<Conn> {
        let config = tls::client(Some(&self.certificates.admin), &[b"http/1.1"]);
        Conn::tls(self.server.address, config).await
    }
}

fn call(method: Method, path: &str, body: Option<&Value>, token: Option<&str>) -> Call {
    let body = body.map(Value::to_string).unwrap_or_default();
    let call = Call::post("localhost", path, body).method(method);
    let call = call.header("content-type", "application/json");
    match token {
        Some(token) => call.bearer(token),
        None => call,
    }
}

async fn exchange(mut conn: Conn, call: Call) -> anyhow::Result<Answer> {
    let reply = conn.send(call).await?;
    // Health checks answer with plain text.
    let body = serde_json::from_slice(&reply.body).unwrap_or_else(|_| json!(reply.text()));
    Ok(Answer { status: reply.status, body })
}
