//! Requests for a port where this process answers itself, instead of an app.
//!
//! Invariant: takes a [`Permit`] by value, as `forward` does: mutual TLS, token checks, policy and
//! audit came first. What is served here is on no public listener.

use bytes::Bytes;
use countersign_config::AppService;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, request};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::decide::Permit;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::tokens;

/// A permitted request for a service of this process.
pub struct Called<'a> {
    /// Its head.
    pub parts: &'a request::Parts,
    /// The same, cleaned.
    pub head: &'a Head,
    /// Its body, unread.
    pub body: Incoming,
    /// The right to be answered.
    pub permit: Permit,
}

/// Answers a permitted request.
///
/// # Errors
/// `route_unknown` for a path nobody answers at; what the service itself refuses.
pub async fn answer(
    conn: &Connection,
    service: AppService,
    called: Called<'_>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let Called { parts, head, body, permit: _permit } = called;
    match (service, head.path.path()) {
        (AppService::Issuer, tokens::endpoint::PATH) if snap.tokens.is_some() => {
            tokens::endpoint::serve(conn, parts, body, head, journal).await
        }
        (AppService::Issuer, path)
            if parts.method == Method::GET || parts.method == Method::HEAD =>
        {
            let keys = conn.worker().shared.published.at(path);
            keys.map(key_set).ok_or_else(nothing_there)
        }
        (AppService::Issuer, _) => Err(nothing_there()),
    }
}

fn nothing_there() -> Refused {
    Refused::new(Refusal::RouteUnknown, Stage::Forward, "nothing is served at this path")
}

/// The public keys of this issuer, which verifiers fetch again and again.
fn key_set(text: Bytes) -> Response<ProxyBody> {
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(ProxyBody::full(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
