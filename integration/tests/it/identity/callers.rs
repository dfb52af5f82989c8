//! Callers outside the mesh: service account tokens and JWT-SVIDs at the gateway, against a real
//! API server and a real SPIRE.

mod accounts;
mod svid;

use std::path::Path;

use countersign_integration::client::{Call, Conn, Reply};
use countersign_integration::components::kubernetes::{Cluster, Pod};
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Mesh, Proxy, Tokens, documents, lab, ports, tls, wait};
use serde_json::{Value, json};

const API: &str = "api.example.com";
const PATH: &str = "/v1/users/alice/orders";
/// What a gateway of the lab listens to.
const AUDIENCE: &str = "countersign.dev/lab.test";

/// A gateway that takes callers, the sidecar `shop/orders` behind it, and its app.
struct Edge {
    gateway: Proxy,
    orders: Proxy,
    app: App,
    lab: Lab,
}

impl Edge {
    /// Both from files of the lab; `services` may call.
    async fn start(callers: Value, services: &[String]) -> Edge {
        let lab = Lab::new();
        let users = Tokens::of(&lab.ca, "idp", "keys");
        let mesh = taking(lab.gateway_mesh(&users), callers);
        let of = |lab: &Lab, namespace: &str, account: &str| lab.proxy(namespace, account);
        Edge::with(lab, mesh, services, of).await
    }

    /// With documents and identities of the test's own.
    async fn with(
        lab: Lab,
        mesh: Mesh,
        services: &[String],
        proxy: impl Fn(&Lab, &str, &str) -> Spec,
    ) -> Edge {
        let app = App::mirror();
        let at = ports::free();
        let id = lab.id("shop", "orders");
        let mesh = mesh.destination("shop/orders", "orders.shop", at, &[&id]);
        let files = [
            lab.write("mesh.yaml", &mesh.document()),
            lab.write("access.yaml", &documents::access("shop", rules(services))),
            lab.revoke(json!({})),
        ];
        let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
        let orders = proxy(&lab, "shop", "orders").inbound_at(at, app.address).documents(&files);
        let (certificate, key) =
            lab.ca.issue(Request::new(&[]).dns(API)).write(lab.folder(), "public");
        let gateway = proxy(&lab, "edge", "gateway").gateway("shop/orders").documents(&files);
        let gateway = gateway.with(|config| {
            let public = json!({"certificate": certificate, "key": key});
            config["listeners"]["gateway"][0]["tls"] = public;
            let plain = json!({"address": ports::free()});
            config["listeners"]["gateway"].as_array_mut().unwrap().push(plain);
        });
        let (gateway, orders) = (gateway.launch(), orders.launch());
        gateway.until_ready().await;
        orders.until_ready().await;
        Edge { gateway, orders, app, lab }
    }

    /// One request over HTTPS.
    async fn call(&self, call: Call) -> Reply {
        let config = tls::client(None, &[b"http/1.1"]);
        Conn::tls(self.gateway.gateway(), config).await.unwrap().send(call).await.unwrap()
    }

    /// One request with a bearer token over HTTPS.
    async fn get(&self, token: &str) -> Reply {
        self.call(Call::get(API, PATH).bearer(token)).await
    }

    /// The gateway's record of the request that reached the app last. The decision id that the
    /// client is told is the callee's.
    async fn issued(&self) -> Value {
        wait::until("the record of the issue", async || {
            let mut newest_first = self.gateway.decisions().into_iter().rev();
            newest_first.find(|record| record["kind"] == "issue")
        })
        .await
    }

    /// Revokes these in both proxies, and nothing else any more.
    fn revoke(&self, entries: Value) {
        self.lab.revoke(entries);
        self.gateway.reload();
        self.orders.reload();
    }
}

/// A mesh whose gateway takes callers and may sign for services.
fn taking(mesh: Mesh, callers: Value) -> Mesh {
    let mesh = mesh.with_gateway(|spec| spec["callers"] = callers);
    mesh.with(|spec| {
        let allow = &mut spec["context"]["issuers"][0]["allow"];
        allow["origin"] = json!(["user", "service"]);
        allow["sub"] = json!(["user:*", "svc:*"]);
    })
}

/// Only these services may call, and nobody's user.
fn rules(services: &[String]) -> Value {
    json!([{
        "name": "services", "effect": "allow", "context": "required",
        "match": {"caller": {"anyOf": [{"namespace": "edge", "serviceAccount": "gateway"}]}},
        "require": {
            "user": {"absent": true},
            "token": {
                "origins": ["service"], "services": services, "scopes": {"anyOf": ["orders.read"]},
            },
        },
    }])
}

/// The ID of a service account of the cluster.
fn id_of(pod: &Pod) -> String {
    format!("spiffe://{}/ns/{}/sa/{}", lab::DOMAIN, pod.namespace, pod.account)
}

/// A pod outside the mesh, in a namespace of its own.
async fn pod(cluster: &Cluster) -> Pod {
    let namespace = cluster.namespace("jobs").await;
    cluster.node("node-1", "eu", "eu-1").await;
    cluster.service_account(&namespace, "batch").await;
    cluster.pod(&namespace, "batch-7", "batch", "node-1").await
}

/// A file with a token of the gateway's own for the API server; it may review tokens if asked to.
async fn own_token(cluster: &Cluster, folder: &Path, may_review: bool) -> std::path::PathBuf {
    let namespace = cluster.namespace("edge").await;
    cluster.service_account(&namespace, "gateway").await;
    if may_review {
        let binding = binding()
            .replace("countersign-gateway-reviews-tokens", &format!("reviews-of-{namespace}"))
            .replace("namespace: edge", &format!("namespace: {namespace}"));
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        cluster.apply_yaml(path, &binding).await;
    }
    let token = cluster.token(&namespace, "gateway", &[], None, 3600).await;
    let file = folder.join(format!("{namespace}.token"));
    std::fs::write(&file, format!("{token}\n")).unwrap();
    file
}

/// The rights of a gateway, as the page for operators has them.
fn binding() -> &'static str {
    let page = include_str!("../../../../docs/identity/service-accounts.md");
    let mut blocks = page.split("```yaml\n").filter_map(|block| block.split("```").next());
    blocks.find(|block| block.contains("kind: ClusterRoleBinding")).unwrap()
}

/// The claims of a token, unverified.
fn claims(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}
