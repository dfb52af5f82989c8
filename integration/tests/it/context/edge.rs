//! A gateway over TLS with one identity provider, the sidecar `shop/orders` behind it, and its app:
//! what the tests of users share.

use std::path::Path;

use countersign_integration::client::{Call, Conn, Reply};
use countersign_integration::pki::Request;
use countersign_integration::proxy::Spec;
use countersign_integration::{App, Lab, Leaf, Mesh, Proxy, documents, ports, tls};
use serde_json::{Value, json};

pub(super) const API: &str = "api.example.com";
pub(super) const PATH: &str = "/v1/users/alice/orders";

/// Gateway, sidecar and app.
pub(super) struct Edge {
    pub(super) gateway: Proxy,
    pub(super) orders: Proxy,
    pub(super) app: App,
    pub(super) lab: Lab,
}

/// A provider document: who is trusted, and what its claims mean; `change` has the last word.
pub(super) fn provider(issuer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "issuer": issuer, "audiences": ["https://api.example.com"],
        "algorithms": ["RS256", "ES256"], "tokenTypes": ["at+jwt"],
        "keys": {"discovery": {"allowedHosts": ["127.0.0.1"], "refresh": "1s", "unknownKeyCooldown": "1s"}},
        "claims": {
            "sub": {"type": "string", "as": "id"},
            "groups": {"type": "stringList", "as": "groups", "keep": ["support"]},
        },
    });
    change(&mut spec);
    spec
}

impl Edge {
    /// With the provider `corp`; users of the group `support` may read.
    pub(super) async fn start(spec: Value) -> Edge {
        Edge::with(Lab::new(), &[("corp", spec)], of_group("support"), |spec| spec).await
    }

    /// With any providers, rules and gateway. A provider that is a text is the file of a document
    /// of its own.
    pub(super) async fn with(
        lab: Lab,
        providers: &[(&str, Value)],
        rules: Value,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Edge {
        let app = App::mirror();
        let at = ports::free();
        let id = lab.id("shop", "orders");
        let mesh = mesh(&lab, providers).destination("shop/orders", "orders.shop", at, &[&id]);
        let files = [
            lab.write("mesh.yaml", &mesh.document()),
            lab.write("access.yaml", &documents::access("shop", rules)),
            lab.revoke(json!({})),
        ];
        let mut files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
        files.extend(providers.iter().filter_map(|(_, spec)| spec.as_str().map(Path::new)));
        let orders = lab.proxy("shop", "orders").inbound_at(at, app.address).documents(&files);
        let (certificate, key) =
            lab.ca.issue(Request::new(&[]).dns(API)).write(lab.folder(), "public");
        let gateway = lab.proxy("edge", "gateway").gateway("shop/orders").documents(&files);
        let gateway = change(gateway.with(|config| {
            let public = json!({"certificate": certificate, "key": key});
            config["listeners"]["gateway"][0]["tls"] = public;
        }));
        let (gateway, orders) = (gateway.launch(), orders.launch());
        gateway.until_ready().await;
        orders.until_ready().await;
        Edge { gateway, orders, app, lab }
    }

    /// One request over HTTPS.
    pub(super) async fn call(&self, call: Call) -> Reply {
        self.call_with(None, call).await
    }

    /// One request over HTTPS with a client certificate.
    pub(super) async fn call_with(&self, leaf: Option<&Leaf>, call: Call) -> Reply {
        let config = tls::client(leaf, &[b"http/1.1"]);
        let mut conn = Conn::tls(self.gateway.gateway(), config).await.unwrap();
        conn.send(call).await.unwrap()
    }

    /// One request with a bearer token.
    pub(super) async fn get(&self, token: &str) -> Reply {
        self.call(Call::get(API, PATH).bearer(token)).await
    }
}

/// A mesh whose gateway takes users of these providers and tells the services whatever it knows.
pub(super) fn mesh(lab: &Lab, providers: &[(&str, Value)]) -> Mesh {
    let names: Vec<&str> = providers.iter().map(|(name, _)| *name).collect();
    let inline = providers.iter().filter(|(_, spec)| spec.is_object());
    let listed: Vec<Value> =
        inline.map(|(name, spec)| json!({"name": name, "spec": spec})).collect();
    lab.mesh()
        .gateway()
        .with_gateway(|spec| {
            spec["user"]["providers"] = json!(names);
            let known = ["idp", "acct", "groups", "claims", "client_id", "sc"];
            spec["mint"][0]["emit"]["rctx"] = json!(known);
        })
        .with(|spec| {
            spec["identityProviders"] = json!(listed);
            spec["context"]["headers"] = json!(["groups", "claims"]);
        })
}

/// The gateway may call for users of this group.
pub(super) fn of_group(group: &str) -> Value {
    json!([{
        "name": "group", "effect": "allow", "context": "required", "match": by_gateway(),
        "require": {"user": {"provider": "corp", "anyGroup": [group]}}, "claims": shown(),
    }])
}

/// The gateway may call for anybody.
pub(super) fn for_anybody() -> Value {
    json!([{
        "name": "anybody", "effect": "allow", "context": "required", "match": by_gateway(),
        "claims": shown(),
    }])
}

/// What a rule shows the app of the context.
pub(super) fn shown() -> Value {
    json!({"rctx": ["idp", "acct", "groups", "claims", "client_id", "sc"], "tctx": []})
}

/// Requests of the gateway.
pub(super) fn by_gateway() -> Value {
    json!({"caller": {"anyOf": [{"namespace": "edge", "serviceAccount": "gateway"}]}})
}

/// The context as the app was told it.
pub(super) fn context(reply: &Reply) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = reply.seen("countersign-claims");
    let header = header.unwrap_or_else(|| panic!("{}: {}", reply.status, reply.text()));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}
