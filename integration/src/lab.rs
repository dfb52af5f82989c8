//! A folder with an authority of its own, in which a test starts proxies from certificate files
//! and plays everybody else: peers, issuers, destinations.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Call, Conn, Reply};
use crate::documents::{self, Mesh};
use crate::pki::{Authority, Leaf};
use crate::proxy::{Proxy, Spec};
use crate::token::Tokens;
use crate::{App, tls};

/// The trust domain of every lab.
pub const DOMAIN: &str = "lab.test";

/// A trust domain in a folder.
pub struct Lab {
    folder: TempDir,
    /// Its authority.
    pub ca: Authority,
    /// The gateway's key, which makes context tokens.
    pub gateway: Tokens,
}

impl Lab {
    /// A new one.
    ///
    /// # Panics
    /// When there is no room for a folder.
    pub fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::new(DOMAIN);
        ca.write_bundle(folder.path(), "bundle");
        let gateway = Tokens::of(&ca, "edge", "gateway");
        Lab { folder, ca, gateway }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The documents most tests start from: the gateway issues, `shop` lets in everybody.
    pub fn mesh(&self) -> Mesh {
        Mesh::new(DOMAIN)
    }

    /// Writes a document.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, document: &Value) -> PathBuf {
        self.write_text(name, &format!("{document:#}"))
    }

    /// Writes a file in one step.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> PathBuf {
        let (path, fresh) = (self.folder().join(name), self.folder().join(format!(".{name}.new")));
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    /// A proxy whose certificate comes from files.
    pub fn proxy(&self, namespace: &str, account: &str) -> Spec {
        let leaf = if (namespace, account) == ("edge", "gateway") {
            self.gateway.leaf().clone()
        } else {
            self.ca.leaf(namespace, account)
        };
        let (certificate, key) = leaf.write(self.folder(), &format!("{namespace}.{account}.id"));
        let bundle = self.folder().join("bundle.pem");
        let source = json!({"files": {"certificate": certificate, "key": key, "bundle": bundle}});
        Spec::new(self.folder(), namespace, account, source)
    }

    /// The sidecar `shop/orders` in front of `app`, with documents that let in everybody; `change`
    /// has the last word.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn orders(&self, app: &App, change: impl FnOnce(Spec) -> Spec) -> Proxy {
        self.orders_with(app, &self.mesh(), documents::anybody(), change).await
    }

    /// The sidecar `shop/orders` in front of `app` under these documents.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn orders_with(
        &self,
        app: &App,
        mesh: &Mesh,
        rules: Value,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Proxy {
        let mesh = self.write("mesh.yaml", &mesh.document());
        let access = self.write("access.yaml", &documents::access("shop", rules));
        let spec = self.proxy("shop", "orders").inbound(app.address).documents(&[&mesh, &access]);
        change(spec).start().await
    }

    /// The sidecar `shop/orders` in front of an app, under these rules and whatever
    /// [`Lab::revoke`] says.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn revocable(
        &self,
        app: SocketAddr,
        rules: Value,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Proxy {
        let mesh = self.write("mesh.yaml", &self.mesh().document());
        let access = self.write("access.yaml", &documents::access("shop", rules));
        let revocation = self.revoke(json!({}));
        let spec = self.proxy("shop", "orders").inbound(app);
        change(spec.documents(&[&mesh, &access, &revocation])).start().await
    }

    /// Revokes these, and nothing else any more.
    pub fn revoke(&self, entries: Value) -> PathBuf {
        self.write("revocation.yaml", &documents::revocation(entries))
    }

    /// The gateway `edge/gateway`, whose users' keys are the lab's own, in front of one
    /// destination; `change` has the last word.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn gateway_to(
        &self,
        mesh: &Mesh,
        destination: &str,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Proxy {
        let mesh = self.write("gateway-mesh.yaml", &mesh.document());
        let spec = self.proxy("edge", "gateway").gateway(destination).documents(&[&mesh]);
        change(spec).start().await
    }

    /// Documents with a gateway whose users' keys are `users`'s.
    pub fn gateway_mesh(&self, users: &Tokens) -> Mesh {
        let mut jwk = users.jwk();
        jwk["use"] = json!("sig");
        let keys = self.write("users.json", &json!({"keys": [jwk]}));
        self.mesh().provider("https://login.example.com", json!({"file": keys})).gateway()
    }

    /// The SPIFFE ID of a workload here.
    pub fn id(&self, namespace: &str, account: &str) -> String {
        self.ca.id(namespace, account)
    }

    /// An HTTP/2 connection of a mesh peer with this certificate.
    ///
    /// # Panics
    /// When TCP or the client's half of the handshake fails.
    pub async fn peer(&self, proxy: &Proxy, leaf: &Leaf) -> Conn {
        let config = tls::client(Some(leaf), &[tls::MESH_H2]);
        Conn::tls(proxy.inbound(), config).await.unwrap()
    }

    /// One request of the mesh peer `namespace/account`.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn call_as(
        &self,
        namespace: &str,
        account: &str,
        proxy: &Proxy,
        call: Call,
    ) -> Reply {
        let leaf = self.ca.leaf(namespace, account);
        self.peer(proxy, &leaf).await.send(call).await.unwrap()
    }

    /// One request of the gateway, with its own certificate.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn call_as_gateway(&self, proxy: &Proxy, call: Call) -> Reply {
        self.peer(proxy, self.gateway.leaf()).await.send(call).await.unwrap()
    }
}

impl Default for Lab {
    fn default() -> Lab {
        Lab::new()
    }
}

/// The claims of a sound user token of provider `corp`.
pub fn user_claims(name: &str) -> Value {
    let now = crate::token::now_s();
    json!({
        "iss": "https://login.example.com", "aud": "https://api.example.com", "sub": name,
        "uid": name, "iat": now, "exp": now + 300,
    })
}
