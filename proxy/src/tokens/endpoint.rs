//! `POST /v1/token`, as a part of this process answers it behind the inbound pipeline.
//!
//! Invariant: the caller has an identity and policy let it in; a body is read only up to its limit
//! and only for so long. What the form asks for is judged by what holds when it is there: it may come
//! seconds after its head, and meanwhile tokens end and revocations arrive.

use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::{Issued, Request, TokenError, Why, answer, exchange};
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::again;
use crate::inbound::context::Context;
use crate::journal::Journal;
use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::peer::Peer;

/// Where tokens are asked for.
pub const PATH: &str = "/v1/token";

const FORM: &str = "application/x-www-form-urlencoded";

/// Answers one request.
///
/// # Errors
/// Refusals of the pipeline; a refused exchange is one too, with an answer of its own.
pub async fn serve(
    conn: &Connection,
    parts: &request::Parts,
    body: Incoming,
    head: &Head,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    if parts.method != Method::POST {
        let mut response = Response::new(ProxyBody::Empty);
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let Peer::Mesh(requester) = conn.peer() else {
        let detail = "a workload without identity asks for a token";
        return Err(Refused::new(Refusal::PeerUnauthenticated, Stage::Mint, detail));
    };
    let worker = conn.worker();
    let asked = match form(&parts.headers) {
        Ok(()) => Request::parse(&read(body).await?),
        Err(error) => Err(error),
    };
    let (snap, now) = (worker.snapshot(), Now::read());
    again::check_revoked(conn, head, &Context::Absent, &snap, now)?;
    let outcome = match asked {
        Ok(request) => {
            let shown = (&head.presented.hops, &head.presented.certs);
            let granted = exchange(worker, &snap, requester, &request, shown, now).await;
            granted.map(|granted| (granted, request))
        }
        Err(error) => Err(error),
    };
    let result = outcome.as_ref().map_or_else(|error| error.why.reason(), |_| "ok");
    worker.metrics.context_minted(result);
    match outcome {
        Ok((granted, request)) => {
            match &granted.issued {
                Issued::Context(minted) => journal.minted(minted),
                Issued::Grant(made) => journal.deferred(made),
            }
            Ok(answer::granted(granted, &request))
        }
        Err(error) => {
            journal.answer_with(answer::refused(&error));
            Err(error.refused())
        }
    }
}

fn form(headers: &HeaderMap) -> Result<(), TokenError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(FORM) {
        return Ok(());
    }
    Err(Why::FormMalformed.error("the body is no form"))
}

async fn read(body: Incoming) -> Result<Bytes, Refused> {
    let max = limits::TOKEN_FORM_BYTES_MAX;
    let patience = Duration::from_millis(limits::TOKEN_FORM_MS_MAX);
    let refuse = |refusal, detail: String| Refused::new(refusal, Stage::Mint, detail);
    match tokio::time::timeout(patience, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(refuse(Refusal::BodyTooLarge, format!("a form has at most {max} bytes")))
        }
        Ok(Err(error)) => Err(refuse(Refusal::RequestMalformed, error.to_string())),
        Err(_) => Err(refuse(Refusal::RequestTimeout, "the form did not come in time".to_owned())),
    }
}
