//! Sends the permitted request to the app and hands back its response.
//!
//! Invariant: takes a [`Permit`] by value; the app is dialled at its configured address only. App
//! responses are never rewritten, but nothing reserved that an app writes gets out.

use std::pin::pin;
use std::time::Duration;

use countersign_config::limits;
use http::{Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use crate::clock::Now;
use crate::http::body::{Guards, ProxyBody};
use crate::http::hygiene;
use crate::http::translate::{self, Restored};
use crate::http::upgrade::{self, Switch};
use crate::inbound::accept::Connection;
use crate::inbound::decide::Permit;
use crate::inbound::enrich::Enriched;
use crate::journal::Journal;
use crate::outbound::encrypt;
use crate::outbound::forward::of_late;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::RemovedFrom;
use crate::tls::Alpn;
use crate::upstream::connect::ConnectError;
use crate::upstream::opening::LeaseError;
use crate::upstream::pool::{Checkout, Lease, SendFailed, Target};
use crate::upstream::retry::{self, Kept};
use crate::upstream::upload::{self, Awaited, Patience};
use crate::worker::InFlight;

/// A permitted request and everything that goes with it.
pub struct Arrived {
    /// The head, as the app is to see it.
    pub enriched: Enriched,
    /// The body, untouched.
    pub body: Incoming,
    /// The right to forward it.
    pub permit: Permit,
    /// Its place under the in-flight cap.
    pub slot: InFlight,
    /// The protocol the caller asks to switch to.
    pub switch: Option<Switch>,
}

/// A request that is ready to be sent to the app.
pub struct Leaving {
    request: Request<ProxyBody>,
    target: Target,
    patience: Patience,
    guards: Guards,
    answering: Answering,
}

impl Leaving {
    /// Makes a permitted request ready. No limit of its body has to wait for a connection.
    ///
    /// # Errors
    /// `body_too_large`, `request_malformed`, or `app_timeout` where its deadline has passed.
    pub fn of(conn: &Connection, arrived: Arrived, journal: &Journal) -> Result<Leaving, Refused> {
        let Arrived { enriched, body, permit, slot, switch } = arrived;
        let config = &conn.worker().shared.config;
        let limits = &config.limits;
        let end = end_of(&permit, journal.started);
        let body = ProxyBody::stream(body).counting(conn.count_trailers());
        let mut body = body.within(limits).until(end);
        if let Some(max) = limits.body_bytes_max {
            declared_at_most(&body, max)?;
            body = body.at_most(max);
        }
        let upload = Awaited::new(body.begin_upload());
        let (mut request, speaks, mut guards) = enriched.into_request(body);
        if let Some(switch) = &switch {
            switch.restore(&mut request);
        }
        let deadline = journal.deadline(request.headers_mut(), Refusal::AppTimeout)?;
        request.body_mut().end_at(deadline);
        let head = Duration::from_millis(limits.request_ms_max);
        let patience = Patience {
            head: Some(head).filter(|_| !hygiene::is_grpc(request.headers())),
            idle: Duration::from_millis(limits.body_idle_ms_max),
            until: deadline,
        };
        let client = conn.captured().client().0;
        let h2 = speaks == Restored::Http2 && switch.is_none();
        let keep = conn.alpn() == Some(Alpn::Http1);
        let target = Target::app(config, conn.app(), h2, client).keeping_case(keep);
        guards.in_flight = Some(slot);
        let answering = Answering { upload, end, switch, deadline };
        Ok(Leaving { request, target, patience, guards, answering })
    }
}

/// Forwards the request and prepares the response for the caller.
///
/// # Errors
/// `app_not_listening`, `app_timeout`, `app_failed`, `body_too_large`, `overloaded`.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
pub fn to_app(
    conn: &Connection,
    leaving: Leaving,
    journal: &mut Journal,
) -> impl Future<Output = Result<Response<ProxyBody>, Refused>> {
    async move {
        let answer = {
            let exchange = pin!(exchange(conn, leaving.request, &leaving.target));
            upload::head(exchange, &leaving.answering.upload, leaving.patience).await
        };
        let (response, checkout) = answer.map_err(|late| of_late(late, Refusal::AppTimeout))??;
        let mut guards = leaving.guards;
        guards.checkout = Some(checkout);
        respond(conn, response, guards, leaving.answering, journal)
    }
}

/// When the permit ends, for exchanges that are still streaming then (a time window, an age limit).
fn end_of(permit: &Permit, now: Now) -> Option<Instant> {
    let end_ms = u64::try_from(permit.decision().valid_until?).ok()?;
    Some(Instant::now() + Duration::from_millis(end_ms.saturating_sub(now.millis())))
}

/// A body that says it is too long is refused before any of it is sent.
fn declared_at_most(body: &ProxyBody, max: u64) -> Result<(), Refused> {
    match body.size_hint().exact() {
        Some(length) if length > max => {
            let detail = format!("{length} bytes declared, the limit is {max}");
            Err(refuse(Refusal::BodyTooLarge, detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// Sends once, and once more where that is provably safe (the app had closed the idle connection)
/// and the budget allows it.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn exchange(
    conn: &Connection,
    request: Request<ProxyBody>,
    target: &Target,
) -> impl Future<Output = Result<(Response<Incoming>, Checkout), Refused>> {
    async move {
        conn.worker().retries.borrow_mut().request();
        let first = lease(conn, target).await?;
        // Only a connection that has served before can have been closed meanwhile.
        let kept = if first.is_new() { None } else { Kept::of(&request) };
        match first.send(request).await {
            Ok(answer) => Ok(answer),
            Err(failed) => Box::pin(once_more(conn, *failed, kept, target)).await,
        }
    }
}

async fn once_more(
    conn: &Connection,
    failed: SendFailed,
    kept: Option<Kept>,
    target: &Target,
) -> Result<(Response<Incoming>, Checkout), Refused> {
    let broken = |error: &hyper::Error| refuse(Refusal::AppFailed, error.to_string());
    let error = broken(&failed.error);
    let (request, why) = retry::again(failed, kept).map_err(|error| broken(&error))?;
    if !encrypt::may_retry(conn.worker(), why) {
        return Err(error);
    }
    lease(conn, target).await?.send(request).await.map_err(|again| broken(&again.error))
}

/// An app that is just starting gets a few seconds to listen.
async fn lease(conn: &Connection, target: &Target) -> Result<Lease, Refused> {
    let mut waited_ms = 0;
    let mut pause_ms = 100;
    loop {
        let error = match conn.worker().pool.lease(target).await {
            Ok(lease) => return Ok(lease),
            Err(LeaseError::Crowded { limit, .. }) => {
                conn.worker().metrics.limit_hit(limit);
                return Err(refuse(Refusal::Overloaded, limit));
            }
            Err(LeaseError::Connect { error, .. }) => error,
        };
        match *error {
            ConnectError::Tcp { .. } | ConnectError::TimedOut { .. }
                if waited_ms < limits::APP_WAIT_MS_MAX =>
            {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                waited_ms += pause_ms;
                pause_ms = (pause_ms * 2).min(1_000);
            }
            ConnectError::Tcp { .. } | ConnectError::TimedOut { .. } => {
                return Err(refuse(Refusal::AppNotListening, error.to_string()));
            }
            _ => return Err(refuse(Refusal::AppFailed, error.to_string())),
        }
    }
}

/// What an answer belongs to.
struct Answering {
    upload: Awaited,
    /// When its permit ends.
    end: Option<Instant>,
    switch: Option<Switch>,
    /// When its call ends.
    deadline: Option<Instant>,
}

fn respond(
    conn: &Connection,
    response: Response<Incoming>,
    guards: Guards,
    answering: Answering,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let Answering { upload, end, switch, deadline } = answering;
    let (mut parts, body) = response.into_parts();
    let clean = hygiene::inbound_response(&mut parts)
        .map_err(|error| refuse(Refusal::AppFailed, error.to_string()))?;
    journal.reserved_removed(RemovedFrom::Response, clean.presented.dropped);
    let switched = upgrade::answered(switch, &mut parts, &clean.hop)
        .map_err(|error| refuse(Refusal::AppFailed, error.to_string()))?;
    if conn.alpn() == Some(Alpn::H2) {
        translate::response_to_h2(&mut parts);
    }
    parts.version = Version::default();
    if let Some(switched) = switched {
        let tunnel = switched.into_body(conn.worker().relay_limits(), guards, end);
        return Ok(Response::from_parts(parts, tunnel));
    }
    let body = ProxyBody::guarded(body, guards)
        .counting(conn.count_trailers())
        .within(&conn.worker().shared.config.limits)
        .until(end)
        .deadline(deadline)
        .grpc(hygiene::is_grpc(&parts.headers))
        .answering(upload.answered());
    Ok(Response::from_parts(parts, body))
}

fn refuse(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Forward, detail)
}
