//! Identities signed by OpenBao, which is set up by the commands of `docs/identity/vault.md`.

mod between;
mod faults;
mod keys;
mod logins;
mod nonsense;
mod outage;
mod revoked;
mod roots;

use countersign_integration::components::openbao::OpenBao;
use countersign_integration::proxy::Spec;
use countersign_integration::{Mesh, Proxy, documents, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

const DOMAIN: &str = "prod.example.com";

/// OpenBao with a mount and roles for `web` and `orders` in one namespace.
struct Stage {
    folder: TempDir,
    bao: OpenBao,
    namespace: String,
}

impl Stage {
    async fn new(test: &str, namespace: &str) -> Option<Stage> {
        let folder = tempfile::tempdir().unwrap();
        let bao = OpenBao::start(test, folder.path()).await?;
        let stage = Stage { folder, bao, namespace: namespace.to_owned() };
        stage.bao.follow("pki", &[], &[]).await;
        for account in ["web", "orders"] {
            stage.follow("role", account, &[]).await;
        }
        Some(stage)
    }

    /// The commands of the page for another account and namespace than `shop/orders`.
    async fn follow(&self, block: &str, account: &str, variables: &[(&str, &str)]) {
        let id = format!("/ns/{}/sa/{account}", self.namespace);
        let policies = format!("policies={account}");
        let (role, roles) = (format!("/role/{account}"), format!("/roles/{account}"));
        let replace = [
            ("/ns/shop/sa/orders", id.as_str()),
            ("policies=orders", &policies),
            ("/role/orders", &role),
            ("/roles/orders", &roles),
            ("policy write orders", &format!("policy write {account}")),
            ("sign/orders", &format!("sign/{account}")),
            ("names=orders", &format!("names={account}")),
            ("namespaces=shop", &format!("namespaces={}", self.namespace)),
            ("serviceaccount:shop:orders", &format!("serviceaccount:{}:{account}", self.namespace)),
            ("> role-id", &format!("> {account}.role-id")),
            ("> secret-id", &format!("> {account}.secret-id")),
        ];
        self.bao.follow(block, &replace, variables).await;
    }

    fn id(&self, account: &str) -> String {
        format!("spiffe://{DOMAIN}/ns/{}/sa/{account}", self.namespace)
    }

    /// `spec.identity` of an account that logs in like this.
    fn identity(&self, account: &str, login: Value) -> Value {
        json!({"expectedId": self.id(account), "source": {"vault": {
            "address": self.bao.url(), "ca": self.bao.ca_file(), "role": account,
            "ttl": "24s", "trustRefresh": "5s", "login": login,
        }}})
    }

    /// A login by AppRole, with a role of its own and fresh ids.
    async fn approle(&self, account: &str) -> Value {
        self.follow("approle", account, &[]).await;
        let file = |kind: &str| self.bao.folder().join(format!("{account}.{kind}"));
        json!({"appRole": {"roleIdFile": file("role-id"), "secretIdFile": file("secret-id")}})
    }

    /// A sidecar with nothing to do but to get an identity.
    fn proxy(&self, account: &str, identity: &Value) -> Proxy {
        self.spec(account, identity).launch()
    }

    fn spec(&self, account: &str, identity: &Value) -> Spec {
        let mesh = self.folder.path().join(format!("{account}-mesh.yaml"));
        std::fs::write(&mesh, format!("{:#}", Mesh::new(DOMAIN).document())).unwrap();
        let access = self.folder.path().join(format!("{account}-access.yaml"));
        let document = documents::access(&self.namespace, documents::anybody());
        std::fs::write(&access, format!("{document:#}")).unwrap();
        let spec = Spec::new(self.folder.path(), &self.namespace, account, json!(null));
        let app = countersign_integration::ports::free();
        let spec = spec.with(|config| config["identity"] = identity.clone()).inbound(app);
        spec.documents(&[&mesh, &access])
    }
}

/// Waits until a proxy said all of this about its source.
async fn says(proxy: &Proxy, parts: &[&str]) {
    let what = format!("{parts:?} in\n");
    let said = |proxy: &Proxy| {
        proxy.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let end = std::time::Instant::now() + wait::DEADLINE;
    while !said(proxy) {
        assert!(std::time::Instant::now() < end, "{what}{}", proxy.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
