//! Sends the permitted request to the app and hands back its response.
//!
//! Invariant: takes a [`Permit`] by value; the app is dialled at its configured address only. App
//! responses are never rewritten, but nothing reserved that an app writes gets out.

use std::time::Duration;

use countersign_config::limits;
use http::{Request, Response, Version};
use hyper::body::Incoming;

use crate::http::body::{Guards, ProxyBody};
use crate::http::hygiene;
use crate::http::translate::{self, Restored};
use crate::inbound::accept::Connection;
use crate::inbound::decide::Permit;
use crate::inbound::enrich::Enriched;
use crate::journal::Journal;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::RemovedFrom;
use crate::tls::Alpn;
use crate::upstream::connect::ConnectError;
use crate::upstream::pool::{Checkout, Lease, Target};
use crate::worker::InFlight;

/// Forwards the request and prepares the response for the caller.
///
/// # Errors
/// `app_not_listening`, `app_timeout`, `app_failed`.
pub async fn to_app(
    conn: &Connection,
    enriched: Enriched,
    body: Incoming,
    _permit: Permit,
    slot: InFlight,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let body = ProxyBody::stream(body).counting(conn.count_trailers());
    let (request, speaks, mut guards) = enriched.into_request(body);
    let target = Target::App { addr: conn.app(), h2: speaks == Restored::Http2 };
    let sent = exchange(conn, request, &target);
    let limit = Duration::from_millis(conn.worker().shared.config.limits.request_ms_max);
    let (response, checkout) = tokio::time::timeout(limit, sent)
        .await
        .map_err(|_| refuse(Refusal::AppTimeout, format!("no response head in {limit:?}")))??;
    guards.checkout = Some(checkout);
    guards.in_flight = Some(slot);
    respond(conn, response, guards, journal)
}

/// Sends once, and once more on a fresh connection if the app had closed the idle one: then not a
/// byte of the request was sent, so repeating it is safe whatever its method.
async fn exchange(
    conn: &Connection,
    request: Request<ProxyBody>,
    target: &Target,
) -> Result<(Response<Incoming>, Checkout), Refused> {
    let failed = |error: hyper::Error| refuse(Refusal::AppFailed, error.to_string());
    let first = match lease(conn, target).await?.send(request).await {
        Ok(answer) => return Ok(answer),
        Err(failed) => failed,
    };
    let Some(unsent) = first.unsent else { return Err(failed(first.error)) };
    conn.worker().metrics.retry("reused_closed");
    lease(conn, target).await?.send(unsent).await.map_err(|again| failed(again.error))
}

/// An app that is just starting gets a few seconds to listen.
async fn lease(conn: &Connection, target: &Target) -> Result<Lease, Refused> {
    let mut waited_ms = 0;
    let mut pause_ms = 100;
    loop {
        match conn.worker().pool.lease(target).await {
            Ok(lease) => return Ok(lease),
            Err(error @ ConnectError::Tcp { .. }) if waited_ms >= limits::APP_WAIT_MS_MAX => {
                return Err(refuse(Refusal::AppNotListening, error.to_string()));
            }
            Err(ConnectError::Tcp { .. } | ConnectError::TimedOut { .. })
                if waited_ms < limits::APP_WAIT_MS_MAX =>
            {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                waited_ms += pause_ms;
                pause_ms = (pause_ms * 2).min(1_000);
            }
            Err(error @ ConnectError::TimedOut { .. }) => {
                return Err(refuse(Refusal::AppNotListening, error.to_string()));
            }
            Err(error) => return Err(refuse(Refusal::AppFailed, error.to_string())),
        }
    }
}

fn respond(
    conn: &Connection,
    response: Response<Incoming>,
    guards: Guards,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let (mut parts, body) = response.into_parts();
    let clean = hygiene::inbound_response(&mut parts)
        .map_err(|error| refuse(Refusal::AppFailed, error.to_string()))?;
    journal.reserved_removed(RemovedFrom::Response, clean.presented.dropped);
    if conn.alpn() == Some(Alpn::H2) {
        translate::response_to_h2(&mut parts);
    }
    parts.version = Version::default();
    let body = ProxyBody::guarded(body, guards).counting(conn.count_trailers());
    Ok(Response::from_parts(parts, body))
}

fn refuse(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Forward, detail)
}
