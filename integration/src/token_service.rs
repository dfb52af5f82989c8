//! A token service of a lab: `jobs/issuer`, a process with no public listener, and whoever asks it.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ctxtoken::{LocalSigner, UnixTime, sign_statement};
use countersign_workload_id::WorkloadId;
use serde_json::{Value, json};

use crate::client::{Call, Reply};
use crate::documents::{self, Mesh};
use crate::lab::Lab;
use crate::pki::Leaf;
use crate::ports;
use crate::proxy::{Proxy, Spec};
use crate::token::{Tokens, now_s};

/// Prefix of the registered token types.
pub const TYPES: &str = "urn:ietf:params:oauth:token-type:";

/// A running token service and the keys of its users.
pub struct TokenService {
    /// The process.
    pub proxy: Proxy,
    /// Signs tokens of the users of `corp`.
    pub users: Tokens,
    /// Its documents, for other processes of the mesh.
    pub mesh: PathBuf,
    id: String,
}

/// The mesh of a token service: both it and the gateway may issue.
pub fn mesh(lab: &Lab, users: &Tokens) -> Mesh {
    let issuer = json!({
        "id": lab.id("jobs", "issuer"), "keys": "x5c",
        "allow": {
            "origin": ["user", "service", "batch", "async"], "sub": ["user:*", "svc:*"],
            "scope": ["orders.*"], "impersonate": ["user:*"],
        },
    });
    lab.gateway_mesh(users).with(|spec| {
        spec["gateways"] = json!([]);
        spec["context"]["issuers"].as_array_mut().unwrap().push(issuer);
    })
}

/// The policy of `jobs/issuer` with these requesters.
pub fn policy(requesters: &Value) -> Value {
    let spec = json!({
        "selector": {"matchLabels": {"app": "issuer"}}, "role": "tokenService",
        "justification": {
            "header": "Countersign-Justification", "kinds": {"ticket": {"pattern": "SUP-[0-9]{1,8}"}},
        },
        "tokenService": {"providers": ["corp"], "requesters": requesters},
    });
    documents::document("ContextPolicy", "issuer", Some("jobs"), spec)
}

impl TokenService {
    /// Serves these requesters.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(lab: &Lab, requesters: Value) -> TokenService {
        TokenService::start_with(lab, &policy(&requesters), |mesh| mesh, |spec| spec).await
    }

    /// Serves by this `ContextPolicy`; `mesh` and `change` have the last word about the documents
    /// and the process.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(
        lab: &Lab,
        policy: &Value,
        mesh: impl FnOnce(Mesh) -> Mesh,
        change: impl FnOnce(Spec) -> Spec,
    ) -> TokenService {
        let users = Tokens::of(&lab.ca, "none", "login");
        let mesh = lab.write("mesh.yaml", &mesh(self::mesh(lab, &users)).document());
        let policy = lab.write("tokens.yaml", policy);
        let access = lab.write("jobs.yaml", &documents::access("jobs", documents::anybody()));
        let address = ports::free();
        let spec = lab.proxy("jobs", "issuer").inbound_at(address, address);
        let spec = spec.with(|config| {
            config["app"] =
                json!([{"port": address.port(), "service": "issuer", "tls": "terminate"}]);
        });
        let spec = change(spec.documents(&[&mesh, &policy, &access]));
        let proxy = spec.start().await;
        TokenService { proxy, users, mesh, id: lab.id("jobs", "issuer") }
    }

    /// Asks with this certificate.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn ask(&self, lab: &Lab, leaf: &Leaf, form: &Form) -> Reply {
        self.send(lab, leaf, form.call()).await
    }

    /// Asks with any request.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn send(&self, lab: &Lab, leaf: &Leaf, call: Call) -> Reply {
        lab.peer(&self.proxy, leaf).await.send(call).await.unwrap()
    }

    /// The statement with which the workload of this leaf asks for a token of its own.
    ///
    /// # Panics
    /// When the key is no P-256 key.
    pub fn statement(&self, id: &str, leaf: &Leaf) -> String {
        let signer = LocalSigner::from_pkcs8_der(&leaf.key).unwrap();
        let parse = |id: &str| WorkloadId::parse(id).unwrap();
        sign_statement(&parse(id), &parse(&self.id), UnixTime(now_s()), &signer).unwrap()
    }

    /// A user's access token that grants these scopes.
    pub fn access_token(&self, name: &str, scope: &str) -> String {
        let mut claims = crate::lab::user_claims(name);
        claims["scope"] = json!(scope);
        self.users.user(&claims)
    }
}

/// The parameters of a request, in the order they are sent.
#[derive(Clone, Debug)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Asks for a context token of the lab with `orders.read` for this subject.
    pub fn new(kind: &str, subject: &str) -> Form {
        let pairs = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", crate::lab::DOMAIN),
            ("requested_token_type", &format!("{TYPES}txn_token")),
            ("scope", "orders.read"),
            ("subject_token_type", &format!("{TYPES}{kind}")),
            ("subject_token", subject),
        ];
        Form(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
    }

    /// With another value of a parameter, or one more.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Form {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// With one more pair, even if the name is there.
    #[must_use]
    pub fn add(mut self, name: &str, value: &str) -> Form {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a parameter.
    #[must_use]
    pub fn without(mut self, name: &str) -> Form {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// The body.
    pub fn body(&self) -> String {
        let pair = |(name, value): &(String, String)| format!("{name}={}", encoded(value));
        self.0.iter().map(pair).collect::<Vec<_>>().join("&")
    }

    /// The whole request.
    pub fn call(&self) -> Call {
        let call = Call::post("tokens.jobs", "/v1/token", self.body());
        call.header("content-type", "application/x-www-form-urlencoded")
    }
}

fn encoded(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| match byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

/// SHA-256 of a token, as a replacement names the one before.
pub fn sha256(token: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    URL_SAFE_NO_PAD.encode(hash)
}

/// The token of an answer.
///
/// # Panics
/// When the request was refused.
pub fn granted(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["token_type"], "N_A", "{body}");
    assert_eq!(body["issued_token_type"], format!("{TYPES}txn_token"), "{body}");
    assert!(body["expires_in"].as_u64().is_some_and(|s| (1..=60).contains(&s)), "{body}");
    assert_eq!(body.get("refresh_token"), None, "{body}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    body["access_token"].as_str().unwrap_or_else(|| panic!("no token: {body}")).to_owned()
}

/// Checks that the service refused for this reason with this code, said nothing more, and recorded
/// it.
///
/// # Panics
/// When anything does not fit.
pub async fn refused(service: &TokenService, reply: &Reply, code: &str, why: &str) -> Value {
    let body = reply.json();
    assert_eq!(body["error"], code, "{body}");
    assert_eq!(body.get("access_token"), None, "{body}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let record = service.proxy.record(&reply.decision()).await;
    let reason = record["reason"].as_str().unwrap_or_default();
    let (row, told) = reason.split_once('/').unwrap_or((reason, ""));
    assert_eq!(told, why, "{record}");
    assert_eq!(u64::from(reply.status), u64::from(crate::outcome::table()[row].http), "{record}");
    assert_eq!(record["decision"], "deny", "{record}");
    let label = format!("result=\"{why}\"");
    service.proxy.metric_reaches("countersign_context_minted_total", &[&label], 1.0).await;
    record
}
