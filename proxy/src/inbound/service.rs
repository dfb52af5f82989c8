//! Requests for a port where this process answers itself, instead of an app.
//!
//! Invariant: takes a [`Permit`] by value, as `forward` does: mutual TLS, token checks, policy and
//! audit came first. What is served here is on no public listener.

use countersign_config::AppService;
use http::{Response, request};
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
            tokens::endpoint::serve(conn, parts, body, head, snap, journal).await
        }
        (AppService::Issuer, _) => {
            let detail = "nothing is served at this path";
            Err(Refused::new(Refusal::RouteUnknown, Stage::Forward, detail))
        }
    }
}
