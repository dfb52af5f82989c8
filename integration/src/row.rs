//! Sidecars that call each other over any path, while the test plays the gateway before them.
//!
//! The apps know nothing of contexts: each reads where the request is to go next from `x-route` and
//! calls there with the handle it was given. A `tap` stands among them: a workload of the mesh whose
//! proxy is the test's own and shows what came over the wire.

use std::net::SocketAddr;

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::client::{Body, Call, Conn, Reply, full};
use crate::documents;
use crate::pki::Leaf;
use crate::proxy::{Proxy, Spec};
use crate::token::{Tokens, now_s};
use crate::{App, Lab, ports, tls, wait};

/// The sidecars, by the names of their accounts in the namespace `shop`.
pub struct Row {
    /// Keys and documents.
    pub lab: Lab,
    /// Each with its name.
    pub sidecars: Vec<(String, Proxy)>,
    /// What they stand in front of, in the same order.
    pub apps: Vec<App>,
    /// The workload `tap`.
    pub tap: App,
}

impl Row {
    /// Starts the sidecars `names`; `mesh` and `change` have the last word.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn start(
        names: &[&str],
        mesh: impl FnOnce(&mut Value),
        change: impl Fn(&str, Spec) -> Spec,
    ) -> Row {
        let lab = Lab::new();
        let leaf = lab.ca.leaf("shop", "tap");
        let tap = App::tls(tls::server(&leaf, &[tls::MESH_H2]), |request| Box::pin(show(request)));
        Row::with_tap(lab, tap, names, mesh, change).await
    }

    /// As [`Row::start`], with a tap of the test's own, which has a certificate of `lab`.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn with_tap(
        lab: Lab,
        tap: App,
        names: &[&str],
        mesh: impl FnOnce(&mut Value),
        change: impl Fn(&str, Spec) -> Spec,
    ) -> Row {
        let places: Vec<_> = names.iter().map(|_| ports::free()).collect();
        let mut documents = lab.mesh();
        let all = names.iter().copied().zip(places.iter().copied());
        for (name, at) in all.chain([("tap", tap.address)]) {
            let (full, host) = (format!("shop/{name}"), format!("{name}.shop"));
            documents = documents.destination(&full, &host, at, &[&lab.id("shop", name)]);
        }
        let mesh = lab.write("mesh.yaml", &documents.with(mesh).document());
        let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
        let (mut sidecars, mut apps) = (Vec::new(), Vec::new());
        for (name, at) in names.iter().zip(places) {
            let out = ports::free();
            let app = App::serving(move |request| Box::pin(onward(request, out)));
            let spec = lab.proxy("shop", name).inbound_at(at, app.address).outbound_at(out);
            let spec = change(name, spec.documents(&[&mesh, &access]));
            sidecars.push(((*name).to_owned(), spec.launch()));
            apps.push(app);
        }
        for (_, proxy) in &sidecars {
            proxy.until_ready().await;
        }
        Row { lab, sidecars, apps, tap }
    }

    /// One of the sidecars.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn sidecar(&self, name: &str) -> &Proxy {
        let found = self.sidecars.iter().find(|(own, _)| own == name);
        &found.unwrap_or_else(|| panic!("no sidecar {name}")).1
    }

    /// The key and certificate a sidecar has now.
    ///
    /// # Panics
    /// When its files cannot be read.
    pub fn leaf(&self, name: &str) -> Leaf {
        let file = |end: &str| self.lab.folder().join(format!("shop.{name}.id.{end}"));
        Leaf::read(&file("pem"), &file("key")).unwrap()
    }

    /// What signs records of a sidecar.
    pub fn signer(&self, name: &str) -> Tokens {
        Tokens::new(self.lab.ca.domain(), &self.lab.id("shop", name), self.leaf(name))
    }

    /// A call along this route; the first of it is whom the gateway calls, with a fresh token.
    pub fn call(&self, route: &[&str]) -> Call {
        let first = route.first().copied().unwrap_or_default();
        let token = self.lab.gateway.mint(&self.lab.id("shop", first));
        let call = Call::get(&format!("{first}.shop"), "/v1/orders").context(&token);
        call.header("x-route", &route.get(1..).unwrap_or_default().join(","))
    }

    /// A connection of the gateway to the first of a route.
    pub async fn gateway(&self, first: &str) -> Conn {
        self.lab.peer(self.sidecar(first), self.lab.gateway.leaf()).await
    }

    /// Sends a call along a route on a fresh connection.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(&self, route: &[&str]) -> Reply {
        self.gateway(route[0]).await.send(self.call(route)).await.unwrap()
    }

    /// Waits for so many records of this refusal in the audit of a sidecar amidst a path: the
    /// decision id a caller gets is that of the first sidecar.
    ///
    /// # Panics
    /// When they never come.
    pub async fn refused_amidst(&self, name: &str, reason: &str, least: usize) {
        let proxy = self.sidecar(name);
        let count = || proxy.decisions().iter().filter(|it| it["reason"] == reason).count();
        wait::until_true(&format!("{least} times {reason} at {name}"), || count() >= least).await;
        let label = format!("reason=\"{reason}\"");
        proxy.metric_reaches("countersign_refusals_total", &[&label], 1.0).await;
    }

    /// `namespace/account` of each, the gateway's own hand-over left out: what an audit record has.
    pub fn short(names: &[&str]) -> Value {
        names.iter().map(|name| json!(format!("shop/{name}"))).collect()
    }
}

/// SHA-256 of a text, base64url.
pub fn sha256(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_ref()))
}

/// The name of a leaf in records.
pub fn thumbprint(leaf: &Leaf) -> String {
    sha256(&leaf.chain[0])
}

/// The leaf as an item of `Countersign-Certs`.
pub fn certificate(leaf: &Leaf) -> String {
    format!("(:{}:)", STANDARD.encode(&leaf.chain[0]))
}

/// The claims of a sound record number `n` from `sub` to `aud`, after `before`.
pub fn record(token: &str, before: &[String], sub: &str, aud: &str) -> Value {
    let mut claims = json!({
        "sub": sub, "aud": aud, "iat": now_s(), "n": before.len(), "tth": sha256(token),
    });
    if let Some(last) = before.last() {
        claims["prev"] = json!(sha256(last));
    }
    claims
}

/// Signs a record with the key of `by`, under its own certificate.
pub fn signed(by: &Tokens, claims: &Value) -> String {
    signed_under(by, &thumbprint(by.leaf()), claims)
}

/// Signs a record with the key of `by`, naming a certificate.
pub fn signed_under(by: &Tokens, thumbprint: &str, claims: &Value) -> String {
    let header = json!({"alg": "ES256", "typ": "csign-hop+jwt", "kid": thumbprint});
    by.sign_with(&header, claims)
}

/// Answers with what came over the wire.
async fn show(request: Request<Incoming>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    told(&head.headers)
}

fn told(headers: &HeaderMap) -> Result<Response<Body>> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut seen = Map::new();
    for name in headers.keys() {
        let lines: Vec<_> = headers.get_all(name).iter().map(text).collect();
        seen.insert(name.to_string(), json!(lines.join(" | ")));
    }
    Ok(Response::builder().body(full(json!({"headers": seen}).to_string()))?)
}

/// An app that calls the next one of `x-route`, or answers with what it was shown.
async fn onward(request: Request<Incoming>, outbound: SocketAddr) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let route = head.headers.get("x-route").and_then(|route| route.to_str().ok());
    let route = route.unwrap_or_default();
    let (next, rest) = route.split_once(',').unwrap_or((route, ""));
    if next.is_empty() {
        if head.uri.path().ends_with("/echo") {
            return Ok(Response::new(body.map_err(anyhow::Error::from).boxed_unsync()));
        }
        body.collect().await?;
        return told(&head.headers);
    }
    let mut headers = HeaderMap::new();
    for name in ["countersign-context", "content-type", "te"] {
        if let Some(value) = head.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert("x-route", rest.parse()?);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let body = body.map_err(Into::into).boxed_unsync();
    let call = Call { method: head.method, host: format!("{next}.shop"), target, headers, body };
    crate::app::onward(outbound, head.version, call).await
}
