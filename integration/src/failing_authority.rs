//! An authority that fails on command, for what no real one can be made to do: the first few
//! requests of every renewal refused, or all of them from some moment on. It speaks as much of the
//! Vault API as the source `vault` needs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::client::{Body, full};
use crate::pki::Authority;
use crate::{App, lab};

/// What became of one request for a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// Who asked: the name of the role.
    pub role: String,
    /// The request, which names the key.
    pub csr: String,
    /// Whether it was granted.
    pub granted: bool,
}

/// The authority and what it was asked.
pub struct FailingAuthority {
    app: App,
    state: Arc<State>,
}

struct State {
    ca: Authority,
    life_s: u64,
    refusals: usize,
    dead: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    refused: Mutex<HashMap<String, usize>>,
}

impl FailingAuthority {
    /// Grants certificates of `life_s` seconds, each after refusing `refusals` requests for it.
    pub fn start(life_s: u64, refusals: usize) -> FailingAuthority {
        let state = Arc::new(State {
            ca: Authority::new(lab::DOMAIN),
            life_s,
            refusals,
            dead: AtomicBool::new(false),
            asked: Mutex::default(),
            refused: Mutex::default(),
        });
        let of_app = Arc::clone(&state);
        let app = App::serving(move |request| {
            let state = Arc::clone(&of_app);
            Box::pin(async move { state.answer(request).await })
        });
        FailingAuthority { app, state }
    }

    /// Its own authority, for certificates of peers.
    pub fn ca(&self) -> &Authority {
        &self.state.ca
    }

    /// The identity source of a workload that uses it.
    ///
    /// # Panics
    /// When the token file cannot be written.
    pub fn source(&self, folder: &Path, role: &str) -> Value {
        let token = folder.join(format!("{role}.token"));
        std::fs::write(&token, "a.token.of-ours").unwrap();
        json!({"vault": {
            "address": format!("http://{}", self.app.address),
            "role": role,
            "ttl": format!("{}s", self.state.life_s),
            "login": {"jwt": {"role": role, "tokenFile": token}},
        }})
    }

    /// From now on nothing is answered but 503, or everything again.
    pub fn dead(&self, dead: bool) {
        self.state.dead.store(dead, Ordering::Relaxed);
    }

    /// Every request for a certificate so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if self.dead.load(Ordering::Relaxed) {
            return answer(503, &json!({"errors": ["Vault is sealed"]}));
        }
        let path = head.uri.path();
        if let Some(role) = path.strip_prefix("/v1/pki/sign/") {
            return self.sign(role, &serde_json::from_slice(&body)?);
        }
        match path {
            "/v1/auth/jwt/login" => answer(
                200,
                &json!({"auth": {
                    "client_token": "token", "lease_duration": 3600, "renewable": true}}),
            ),
            // Before 1.11 there is no list of issuers.
            "/v1/pki/issuers" => answer(403, &json!({"errors": ["permission denied"]})),
            "/v1/pki/ca_chain" => Ok(Response::new(full(self.ca.pem().to_owned()))),
            _ => answer(404, &json!({"errors": []})),
        }
    }

    fn sign(&self, role: &str, body: &Value) -> anyhow::Result<Response<Body>> {
        let csr = body["csr"].as_str().unwrap_or_default().to_owned();
        let granted = {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = refused.entry(role.to_owned()).or_default();
            let granted = *refused == self.refusals;
            *refused = if granted { 0 } else { *refused + 1 };
            granted
        };
        let asked = Asked { role: role.to_owned(), csr: csr.clone(), granted };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        if !granted {
            return answer(500, &json!({"errors": ["the disk is full"]}));
        }
        let certificate = self.ca.sign_request(&csr, self.life_s);
        answer(200, &json!({"data": {"certificate": certificate, "issuing_ca": self.ca.pem()}}))
    }
}

fn answer(status: u16, body: &Value) -> anyhow::Result<Response<Body>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(full(body.to_string()))?)
}
