//! Plain HTTP on loopback, as an agent beside the proxy, in front of the real server; and on command
//! a server that answers nonsense, because OpenBao cannot be made to.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use countersign_integration::client::{Body, Call, Conn, full};
use countersign_integration::components::openbao::OpenBao;
use countersign_integration::{App, tls};
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

/// What is wrong with the answers of [`Between`].
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// The path that contains this is answered with this status and body.
    Answer(&'static str, u16, Bytes),
    /// What was sent comes back in the error.
    Echo(&'static str),
    /// The request to sign is replaced by another.
    Swap(String),
}

/// What the proxy takes for the server.
pub(super) struct Between {
    app: App,
    fault: Arc<Mutex<Fault>>,
}

impl Between {
    pub(super) fn new(bao: &OpenBao) -> Between {
        let fault = Arc::new(Mutex::new(Fault::None));
        let (address, known) = (bao.address(), Arc::clone(&fault));
        let app = App::serving(move |request| {
            let fault = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Box::pin(pass(address, fault, request))
        });
        Between { app, fault }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.app.address)
    }

    pub(super) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Every token of the server that came by.
    pub(super) fn tokens(&self) -> Vec<String> {
        let seen = self.app.seen().into_iter();
        seen.filter_map(|seen| Some(seen.header("x-vault-token")?.to_owned())).collect()
    }

    /// The targets of all requests so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.app.seen().into_iter().map(|seen| seen.target).collect()
    }
}

async fn pass(
    address: std::net::SocketAddr,
    fault: Fault,
    request: Request<Incoming>,
) -> anyhow::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let target = head.uri.to_string();
    let mut body = body.collect().await?.to_bytes();
    match fault {
        Fault::Answer(path, status, answer) if target.contains(path) => {
            return Ok(Response::builder().status(status).body(full(answer))?);
        }
        Fault::Echo(path) if target.contains(path) => {
            let token = head.headers.get("x-vault-token").map(|t| t.to_str().unwrap().to_owned());
            let said = format!("{} {}", token.unwrap_or_default(), String::from_utf8_lossy(&body));
            let errors = json!({"errors": [said]});
            return Ok(Response::builder().status(400).body(full(errors.to_string()))?);
        }
        Fault::Swap(csr) if target.contains("/sign/") => {
            let mut asked: Value = serde_json::from_slice(&body)?;
            asked["csr"] = json!(csr);
            body = asked.to_string().into();
        }
        _ => {}
    }
    let mut call = Call::post("localhost", &target, body).method(head.method);
    for name in ["x-vault-token", "x-vault-namespace"] {
        if let Some(value) = head.headers.get(name) {
            call.headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    let mut conn = Conn::tls(address, tls::client(None, &[b"http/1.1"])).await?;
    let reply = conn.send(call).await?;
    Ok(Response::builder().status(reply.status).body(full(reply.body))?)
}
