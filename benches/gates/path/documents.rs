//! The configuration of both proxies: that of the side-by-side bench in explicit mode. With a token,
//! A is a gateway that mints one per request, and B verifies each for the first time; without one,
//! A is a plain sidecar. 20 rules, of which the last permits. Written as JSON, which is YAML.
//!
//! It stands apart from the bench's on purpose: recorded figures must not move because the bench
//! learns something new.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::HOST;
use crate::identities::{GATEWAY_ID, Identities, Leaf, ORDERS_ID, TRUST_DOMAIN};

const API: &str = "countersign.dev/v1alpha1";
const TEMPLATE: &str = "/v1/users/{user}/orders";
const SCOPE: &str = "orders.read";
const RULES: usize = 20;

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    None,
    /// One that no earlier request carried.
    Fresh,
}

/// The `ProxyConfig` of each.
pub(super) struct Files {
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
}

/// Writes certificates, documents and configurations into `folder`.
pub(super) fn write(
    folder: &Path,
    token: Token,
    entry: SocketAddr,
    inner: SocketAddr,
    app: SocketAddr,
) -> Result<Files> {
    let file = |name: &str| folder.join(name);
    let identities = Identities::create()?;
    put(&file("bundle.pem"), &identities.authority.pem())?;
    let keys = file("jwks.json");
    put(&keys, r#"{"keys": []}"#)?;
    put_json(&file("mesh.yaml"), &mesh(inner, &keys))?;
    put_json(&file("access.yaml"), &access(token))?;
    let read = json!({"files": [file("mesh.yaml"), file("access.yaml")]});

    let mut a = process(folder, "a", &identities.gateway, GATEWAY_ID)?;
    a["namespace"] = json!("edge");
    a["labels"] = json!({"app": "gateway"});
    a["documents"] = read.clone();
    match token {
        Token::Fresh => {
            a["listeners"] = json!({"gateway": [{"address": entry}]});
            a["gateway"] = json!({"routes": [
                {"host": HOST, "path": {"prefix": "/"}, "destination": "shop/orders"}]});
        }
        Token::None => {
            a["listeners"] =
                json!({"outbound": [{"address": entry, "destination": "shop/orders"}]});
        }
    }
    let mut b = process(folder, "b", &identities.orders, ORDERS_ID)?;
    b["namespace"] = json!("shop");
    b["labels"] = json!({"app": "orders"});
    b["documents"] = read;
    b["listeners"] = json!({"inbound": [{"address": inner}]});
    b["app"] = json!([{"port": inner.port(), "address": app}]);

    let files = Files { a: file("a.yaml"), b: file("b.yaml") };
    put_json(&files.a, &document("ProxyConfig", json!({"name": "a"}), a))?;
    put_json(&files.b, &document("ProxyConfig", json!({"name": "b"}), b))?;
    Ok(files)
}

/// What the configurations of A and B have in common.
fn process(folder: &Path, which: &str, own: &Leaf, id: &str) -> Result<Value> {
    let file = |ending: &str| folder.join(format!("{which}.{ending}"));
    put(&file("pem"), &own.certificate.pem())?;
    put(&file("key"), &own.key.serialize_pem())?;
    Ok(json!({
        "identity": {"expectedId": id, "source": {"files":
            {"certificate": file("pem"), "key": file("key"), "bundle": folder.join("bundle.pem")}}},
        "admin": "none",
        "metrics": "none",
        "workers": 1,
        "audit": {"sink": {"file": file("audit")}},
    }))
}

/// The mesh, its one gateway and its one destination, and the identity provider that a gateway
/// must have; no request here carries one of its tokens.
fn mesh(inner: SocketAddr, keys: &Path) -> Value {
    let provider = json!({"issuer": "https://login.gates.test/", "audiences": ["gates"],
        "algorithms": ["ES256"], "tokenTypes": ["JWT"], "keys": {"file": keys},
        "from": [{"header": "Authorization", "scheme": "Bearer"}],
        "claims": {"sub": {"type": "string", "as": "id"}}});
    let gateway = json!({
        "selector": {"matchLabels": {"app": "gateway"}},
        "role": "gateway",
        "user": {"providers": ["corp"], "whenMissing": "anonymous"},
        "mint": [{"match": {"http": {"paths": [{"template": TEMPLATE}]}}, "scope": SCOPE,
            "emit": {"rctx": ["req_ip"], "tctx": ["m", "p"]}}],
    });
    let orders = json!({
        "hosts": [HOST],
        "ports": [{"port": inner.port(), "protocol": "http"}],
        "endpoints": [{"address": inner.ip(), "port": inner.port()}],
        "peer": {"mesh": {"identities": [ORDERS_ID]}},
    });
    let issuer = json!({"id": GATEWAY_ID, "keys": "x5c",
        "allow": {"origin": ["user"], "sub": ["anon"], "scope": [SCOPE]}});
    let spec = json!({
        "trustDomain": TRUST_DOMAIN,
        "context": {"issuers": [issuer]},
        "identityProviders": [{"name": "corp", "spec": provider}],
        "gateways": [{"name": "edge", "namespace": "edge", "spec": gateway}],
        "destinations": [{"name": "orders", "namespace": "shop", "spec": orders}],
    });
    document("MeshConfig", json!({"name": "default"}), spec)
}

fn access(token: Token) -> Value {
    let mut rules: Vec<Value> = (1..RULES)
        .map(|number| {
            let caller =
                json!({"namespace": "other", "serviceAccount": format!("caller-{number}")});
            let path = format!("/v{number}/users/{{user}}/orders");
            rule(token, &format!("rule-{number:02}"), &caller, &path)
        })
        .collect();
    let gateway = json!({"namespace": "edge", "serviceAccount": "gateway"});
    rules.push(rule(token, "rule-99", &gateway, TEMPLATE));
    let spec = json!({"selector": {"matchLabels": {"app": "orders"}}, "direction": "inbound",
        "rules": rules});
    document("AccessPolicy", json!({"name": "gates", "namespace": "shop"}), spec)
}

fn rule(token: Token, name: &str, caller: &Value, path: &str) -> Value {
    let mut rule = json!({
        "name": name, "effect": "allow",
        "match": {"caller": {"anyOf": [caller]},
            "http": {"methods": ["GET"], "paths": [{"template": path}]}},
    });
    match token {
        Token::Fresh => {
            rule["context"] = json!("required");
            rule["require"] = json!({"token": {"scopes": {"anyOf": [SCOPE]}}});
        }
        Token::None => rule["context"] = json!("none"),
    }
    rule
}

fn document(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})
}

fn put_json(path: &Path, value: &Value) -> Result<()> {
    put(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
