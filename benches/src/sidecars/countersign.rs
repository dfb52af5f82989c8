//! Ours, in explicit mode, with audit records written to a file. With a token, A is a gateway:
//! it finds no user, mints a context for the subject `anon`, signs it with its certificate's key
//! and sends the chain along; B verifies it anew each time, because each is another token.
//! Without one, A is a plain sidecar, and B's rules ask for no context.
//!
//! The documents are written as JSON, which is YAML.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::process::Proxy;
use super::{Pair, RULES, Setting, Variant, free_port, write_json};
use crate::load::{HOST, Protocol, Target};
use crate::pki::{GATEWAY_ID, Leaf, ORDERS_ID, Pki, TRUST_DOMAIN};

const API: &str = "countersign.dev/v1alpha1";
const TEMPLATE: &str = "/v1/users/{user}/orders";
const SCOPE: &str = "orders.read";

/// Starts both proxies. The caller has pinned this thread to the core they shall use.
pub(super) fn start(variant: Variant, setting: &Setting) -> Result<Pair> {
    let at = Addresses { a: free_port()?, b: free_port()?, server: setting.server };
    let files = documents(setting, variant, &at)?;
    start_both(variant, setting, at.a, files)
}

/// Starts both from their files; clients connect to `entry`.
pub(super) fn start_both(
    variant: Variant,
    setting: &Setting,
    entry: SocketAddr,
    files: Files,
) -> Result<Pair> {
    let start = |role: &str, config: &Path| {
        let name = format!("countersign-{variant:?}-{role}");
        Proxy::start(&name, &mut command(config, setting)?, &setting.work)
    };
    let target = |protocol| Target { address: entry, protocol, tokens: None, pod: None };
    let b = start("b", &files.b)?;
    let a = start("a", &files.a)?;
    Ok(Pair::explicit(vec![a, b], target(Protocol::H1), target(Protocol::H2), files.audit))
}

/// What starts one proxy.
pub(super) fn command(config: &Path, setting: &Setting) -> Result<Command> {
    let program = &setting.proxy;
    ensure!(
        program.is_file(),
        "no proxy at {}; build it: cargo build --release --package countersign-proxy",
        program.display()
    );
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    Ok(command)
}

/// Who listens where.
pub(super) struct Addresses {
    pub(super) a: SocketAddr,
    pub(super) b: SocketAddr,
    pub(super) server: SocketAddr,
}

/// The `ProxyConfig` of each, and where both write audit records.
pub(super) struct Files {
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
    pub(super) audit: Vec<PathBuf>,
}

/// Writes all documents of one pair.
pub(super) fn documents(setting: &Setting, variant: Variant, at: &Addresses) -> Result<Files> {
    let pki = &setting.pki;
    let file = |name: &str| setting.work.join(format!("countersign-{variant:?}-{name}"));
    let (mesh_file, access_file) = (file("mesh.yaml"), file("access.yaml"));
    let keys = file("jwks.json");
    std::fs::write(&keys, setting.tokens.jwks())?;
    let orders = (("orders", HOST, ORDERS_ID), at.b);
    write_json(&mesh_file, &mesh(&[orders], &keys))?;
    write_json(&access_file, &access(variant, "orders", ("edge", "gateway")))?;
    let read = json!({"files": [mesh_file, access_file]});

    let (audit_a, audit_b) = (file("a.audit"), file("b.audit"));
    let gateway = match variant {
        Variant::FreshEd25519 => &pki.gateway_ed25519,
        _ => &pki.gateway,
    };
    let mut a = process(gateway, pki, GATEWAY_ID, &audit_a);
    a["namespace"] = json!("edge");
    a["labels"] = json!({"app": "gateway"});
    a["documents"] = read.clone();
    if variant.mints() {
        a["listeners"] = json!({"gateway": [{"address": at.a}]});
        a["gateway"] = json!({"routes": [
            {"host": HOST, "path": {"prefix": "/"}, "destination": "shop/orders"}]});
    } else {
        a["listeners"] = json!({"outbound": [{"address": at.a, "destination": "shop/orders"}]});
    }

    let mut b = process(&pki.orders, pki, ORDERS_ID, &audit_b);
    b["namespace"] = json!("shop");
    b["labels"] = json!({"app": "orders"});
    b["documents"] = read;
    b["listeners"] = json!({"inbound": [{"address": at.b}]});
    b["app"] = json!([{"port": at.b.port(), "address": at.server}]);

    let files = Files { a: file("a.yaml"), b: file("b.yaml"), audit: vec![audit_a, audit_b] };
    write_json(&files.a, &document("ProxyConfig", json!({"name": "a"}), a))?;
    write_json(&files.b, &document("ProxyConfig", json!({"name": "b"}), b))?;
    Ok(files)
}

/// What the configurations of A and B have in common.
pub(super) fn process(own: &Leaf, pki: &Pki, id: &str, audit: &Path) -> Value {
    json!({
        "identity": {"expectedId": id, "source": {"files":
            {"certificate": own.certificate, "key": own.key, "bundle": pki.bundle}}},
        "admin": "none",
        "metrics": "none",
        "workers": 1,
        "audit": {"sink": {"file": audit}},
    })
}

/// Account, host and SPIFFE ID of a destination, and where it is.
type Destination = ((&'static str, &'static str, &'static str), SocketAddr);

/// The mesh, its one gateway and its destinations, and the identity provider that a gateway must
/// have; no request here carries one of its tokens.
pub(super) fn mesh(destinations: &[Destination], keys: &Path) -> Value {
    let provider = json!({"issuer": "https://login.bench.test/", "audiences": ["bench"],
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
    let destination = |((account, host, id), at): &Destination| {
        let spec = json!({
            "hosts": [host],
            "ports": [{"port": at.port(), "protocol": "http"}],
            "endpoints": [{"address": at.ip(), "port": at.port()}],
            "peer": {"mesh": {"identities": [id]}},
        });
        json!({"name": account, "namespace": "shop", "spec": spec})
    };
    let issuer = json!({"id": GATEWAY_ID, "keys": "x5c",
        "allow": {"origin": ["user"], "sub": ["anon"], "scope": [SCOPE]}});
    let spec = json!({
        "trustDomain": TRUST_DOMAIN,
        "context": {"issuers": [issuer]},
        "identityProviders": [{"name": "corp", "spec": provider}],
        "gateways": [{"name": "edge", "namespace": "edge", "spec": gateway}],
        "destinations": destinations.iter().map(destination).collect::<Vec<_>>(),
    });
    document("MeshConfig", json!({"name": "default"}), spec)
}

/// [`RULES`] rules of an app, of which only the last permits the requests, to `caller`.
pub(super) fn access(variant: Variant, app: &str, (namespace, account): (&str, &str)) -> Value {
    let mut rules: Vec<Value> = (1..RULES)
        .map(|number| {
            let caller =
                json!({"namespace": "other", "serviceAccount": format!("caller-{number}")});
            let path = format!("/v{number}/users/{{user}}/orders");
            rule(variant, &format!("rule-{number:02}"), &caller, &path)
        })
        .collect();
    let caller = json!({"namespace": namespace, "serviceAccount": account});
    rules.push(rule(variant, "rule-99", &caller, TEMPLATE));
    let spec = json!({"selector": {"matchLabels": {"app": app}}, "direction": "inbound",
        "rules": rules});
    document("AccessPolicy", json!({"name": app, "namespace": "shop"}), spec)
}

pub(super) fn rule(variant: Variant, name: &str, caller: &Value, path: &str) -> Value {
    let mut rule = json!({
        "name": name, "effect": "allow",
        "match": {"caller": {"anyOf": [caller]},
            "http": {"methods": ["GET", "POST"], "paths": [{"template": path}]}},
    });
    if variant.mints() {
        rule["context"] = json!("required");
        rule["require"] = json!({"token": {"scopes": {"anyOf": [SCOPE]}}});
    } else {
        rule["context"] = json!("none");
    }
    rule
}

pub(super) fn document(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use countersign_config::ProxyConfig;

    use super::*;
    use crate::machine::Cores;
    use crate::tokens::{Algorithm, TokenPool};

    #[test]
    fn the_documents_of_all_pairs_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let setting = Setting {
            work: dir.path().to_path_buf(),
            cores: Cores::pick().unwrap(),
            pki: Pki::create(dir.path()).unwrap(),
            tokens: Rc::new(TokenPool::sign(Algorithm::Es256).unwrap()),
            ed25519_tokens: Rc::new(TokenPool::sign(Algorithm::Ed25519).unwrap()),
            server: at(2003),
            envoy: None,
            proxy: PathBuf::new(),
        };
        let at = Addresses { a: at(2001), b: at(2002), server: setting.server };
        for variant in [Variant::FreshToken, Variant::FreshEd25519, Variant::NoToken] {
            let files = documents(&setting, variant, &at).unwrap();
            for file in [files.a, files.b] {
                ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
            }
        }
    }
}
