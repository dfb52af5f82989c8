//! Documents as tests write them: JSON, which is YAML.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::netns::Pod;

const API: &str = "countersign.dev/v1alpha1";

/// A `MeshConfig` in the making.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Its `spec`, for what has no function here.
    pub spec: Value,
}

impl Mesh {
    /// Of a trust domain, with the workload `edge/gateway` as the only issuer.
    pub fn new(domain: &str) -> Mesh {
        let issuer = json!({
            "id": format!("spiffe://{domain}/ns/edge/sa/gateway"), "keys": "x5c",
            "allow": {"origin": ["user"], "sub": ["user:*", "anon"], "scope": ["orders.*"]},
        });
        Mesh {
            spec: json!({
                "trustDomain": domain,
                "context": {"issuers": [issuer]},
                "destinations": [],
                "gateways": [],
                "identityProviders": [],
            }),
        }
    }

    /// A destination at one endpoint, called by its host on any port.
    #[must_use]
    pub fn destination(self, name: &str, host: &str, at: SocketAddr, ids: &[&str]) -> Mesh {
        self.destination_speaking(name, host, at, ids, json!({"protocol": "http"}))
    }

    /// A destination whose port says more than `protocol: http`.
    ///
    /// # Panics
    /// When `name` is not `namespace/name`.
    #[must_use]
    pub fn destination_speaking(
        mut self,
        name: &str,
        host: &str,
        at: SocketAddr,
        ids: &[&str],
        mut port: Value,
    ) -> Mesh {
        let (namespace, name) = name.split_once('/').unwrap();
        port["port"] = json!(80);
        let spec = json!({
            "hosts": [host], "ports": [port],
            "endpoints": [{"address": at.ip(), "port": at.port()}],
            "peer": {"mesh": {"identities": ids}},
        });
        self.push("destinations", json!({"name": name, "namespace": namespace, "spec": spec}));
        self
    }

    /// A destination that is a pod, dialled by either of its addresses: these ports with their
    /// protocol, these identities. Its name is its host.
    ///
    /// # Panics
    /// When `name` is not `namespace/name`.
    #[must_use]
    pub fn pod(mut self, name: &str, pod: &Pod, ports: &[(u16, &str)], ids: &[&str]) -> Mesh {
        let (namespace, short) = name.split_once('/').unwrap();
        let mut spec = json!({
            "hosts": [format!("{short}.{namespace}")],
            "ports": [], "endpoints": [],
            "peer": {"mesh": {"identities": ids}},
        });
        let mut add = |list: &str, entry| spec[list].as_array_mut().unwrap().push(entry);
        for (port, protocol) in ports {
            add("ports", json!({"port": port, "protocol": protocol}));
            for ip in pod.ips() {
                add("endpoints", json!({"address": ip, "port": port}));
            }
        }
        self.push("destinations", json!({"name": short, "namespace": namespace, "spec": spec}));
        self
    }

    /// An identity provider named `corp` with these keys.
    #[must_use]
    pub fn provider(mut self, issuer: &str, keys: Value) -> Mesh {
        let spec = json!({
            "issuer": issuer, "audiences": ["https://api.example.com"],
            "algorithms": ["ES256", "RS256"], "tokenTypes": ["at+jwt", "JWT"], "keys": keys,
            "from": [{"header": "Authorization", "scheme": "Bearer"}],
            "claims": {
                "sub": {"type": "string", "as": "id"},
                "uid": {"type": "string", "as": "accountId"},
                "groups": {"type": "stringList", "as": "groups"},
            },
        });
        self.push("identityProviders", json!({"name": "corp", "spec": spec}));
        self
    }

    /// The gateway `edge/gateway`: users of `corp`; it mints for `/v1/users/{user}/**` and for the
    /// gRPC service `shop.Orders`.
    #[must_use]
    pub fn gateway(mut self) -> Mesh {
        let rule = |paths: Value| {
            json!({
                "match": {"http": {"paths": [paths]}}, "scope": "orders.read",
                "emit": {"rctx": ["req_ip", "idp", "acct", "groups", "just"], "tctx": ["m", "p"]},
            })
        };
        let spec = json!({
            "selector": {"matchLabels": {"app": "gateway"}}, "role": "gateway",
            "user": {"providers": ["corp"], "whenMissing": "refuse"},
            "mint": [
                rule(json!({"template": "/v1/users/{user}/**"})),
                rule(json!({"prefix": "/shop.Orders"})),
            ],
        });
        self.push("gateways", json!({"name": "edge", "namespace": "edge", "spec": spec}));
        self
    }

    /// Changes the `spec` of the gateway.
    #[must_use]
    pub fn with_gateway(mut self, change: impl FnOnce(&mut Value)) -> Mesh {
        change(&mut self.spec["gateways"][0]["spec"]);
        self
    }

    /// Changes the whole `spec`.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Mesh {
        change(&mut self.spec);
        self
    }

    /// The document.
    pub fn document(&self) -> Value {
        document("MeshConfig", "default", None, self.spec.clone())
    }

    fn push(&mut self, list: &str, entry: Value) {
        if let Some(list) = self.spec[list].as_array_mut() {
            list.push(entry);
        }
    }
}

/// An `AccessPolicy` for every workload of a namespace.
pub fn access(namespace: &str, rules: Value) -> Value {
    let spec = json!({"selector": {"all": true}, "direction": "inbound", "rules": rules});
    document("AccessPolicy", "access", Some(namespace), spec)
}

/// A rule that allows every workload of the mesh everything, context or not.
pub fn anybody() -> Value {
    json!([{
        "name": "anybody", "effect": "allow", "match": {"caller": {"anyInMesh": true}},
        "context": "optional",
    }])
}

/// A `Revocation` of these entries, in force for as long as any test.
pub fn revocation(mut entries: Value) -> Value {
    entries["expires"] = json!("2126-01-01T00:00:00Z");
    document("Revocation", "now", None, entries)
}

/// A whole document.
pub fn document(kind: &str, name: &str, namespace: Option<&str>, spec: Value) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})
}
