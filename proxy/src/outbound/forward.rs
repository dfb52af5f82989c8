//! Sends a request to another sidecar, with its context, and prepares the response.
//!
//! Serves the gateway too; `exchange` makes the tries, `hand_on` writes the context for each.
//! Invariant: of the peer's reserved response fields only a well-formed `Countersign-Decision`
//! passes.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::host::canonical_host;
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, Uri, Version, request};
use hyper::body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::http::body::{Guards, ProxyBody};
use crate::http::hygiene::{self, Sender};
use crate::http::lasting::Lasting;
use crate::http::translate::{self, AppSpeaks};
use crate::http::upgrade::{self, Switch};
use crate::journal::Journal;
use crate::judged;
use crate::outbound::discover::{Destination, ToPeer};
use crate::outbound::encrypt::{self, Secured};
use crate::outbound::exchange::{Answer, Tries, Try};
use crate::outbound::hand_on::Carries;
use crate::outbound::reached::{Name, Reached, To};
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::{Direction, RemovedFrom};
use crate::tls::Alpn;
use crate::tls::peer::MeshPeer;
use crate::upstream::breaker::Failure;
use crate::upstream::endpoints::Visit;
use crate::upstream::upload::{self, Awaited, Fault, Late, Patience};
use crate::worker::{InFlight, Worker};

/// A cleaned request on its way out.
pub struct Outgoing {
    /// The head, cleaned.
    pub parts: request::Parts,
    /// The body, untouched.
    pub body: Incoming,
    /// The one authority.
    pub authority: Authority,
    /// The context it carries.
    pub carries: Carries,
    /// The request's place under the in-flight cap.
    pub slot: InFlight,
    /// The protocol the app asks to switch to.
    pub switch: Option<Switch>,
    /// The address the app dialled; `None` in explicit mode.
    pub dialled: Option<SocketAddr>,
}

/// Sends the request and waits for the response head.
///
/// # Errors
/// `upstream_timeout`, `upstream_failed`, `request_malformed`, `body_too_large`.
pub async fn to_callee(
    worker: &Rc<Worker>,
    secured: Secured,
    destination: &Destination,
    outgoing: Outgoing,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let (request, call) = ready(worker, &secured, destination, outgoing, journal)?;
    let last = Try { visit: None, addr: secured.endpoint.addr, peer: None };
    let last = RefCell::new(last);
    let tries = Tries { worker, destination, carries: &call.carries, last: &last };
    let answer = {
        // Pinned here: who waits for it would keep room for it twice.
        let sending = pin!(tries.run(secured, request, journal));
        upload::head(sending, &call.upload, call.patience).await
    };
    let last = last.into_inner();
    answered(worker, destination, (call, last), answer, journal)
}

/// What is left of a request that has been sent.
struct Call {
    upload: Awaited,
    patience: Patience,
    client_h1: bool,
    authority: Authority,
    carries: Carries,
    slot: InFlight,
    switch: Option<Switch>,
    dialled: Option<SocketAddr>,
}

/// Makes the request that is sent. All that is over before then happens here, so that the future
/// which waits for the answer keeps none of it.
fn ready(
    worker: &Rc<Worker>,
    secured: &Secured,
    destination: &Destination,
    outgoing: Outgoing,
    journal: &mut Journal,
) -> Result<(Request<ProxyBody>, Call), Refused> {
    let Outgoing { mut parts, body, authority, carries, slot, switch, dialled } = outgoing;
    let client_h1 = parts.version < Version::HTTP_2;
    prepare(&mut parts, secured.alpn, &authority, destination, journal.direction)?;
    let deadline = journal.deadline(&mut parts.headers, Refusal::UpstreamTimeout)?;
    let limits = &worker.shared.config.limits;
    let head = Duration::from_millis(limits.request_ms_max).saturating_sub(secured.spent);
    let patience = Patience {
        head: Some(head).filter(|_| !hygiene::is_grpc(&parts.headers)),
        idle: Duration::from_millis(limits.body_idle_ms_max),
        until: deadline,
    };
    let mut body = ProxyBody::stream(body)
        .counting(count_trailers(worker, journal.direction))
        .within(limits)
        .deadline(deadline);
    if journal.direction == Direction::Gateway {
        body = body.at_most(limits.gateway_body_bytes_max());
    }
    let upload = Awaited::new(body.begin_upload());
    let mut request = Request::from_parts(parts, body);
    if let Some(switch) = &switch {
        switch.restore(&mut request);
    }
    let call = Call { upload, patience, client_h1, authority, carries, slot, switch, dialled };
    Ok((request, call))
}

/// Shapes what came of it into the response.
fn answered(
    worker: &Rc<Worker>,
    destination: &Destination,
    (call, last): (Call, Try),
    answer: Result<Result<Answer, Refused>, Late>,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let Try { visit, addr, peer } = last;
    let Call { upload, patience, client_h1, authority, slot, switch, dialled, .. } = call;
    account(worker, destination, visit, &answer);
    let (response, checkout) = answer.map_err(|late| of_late(late, Refusal::UpstreamTimeout))??;
    let guards = Guards { checkout: Some(checkout), in_flight: Some(slot), ..Guards::default() };
    let sender = if destination.is_mesh() { Sender::Mesh } else { Sender::Unauthenticated };
    let to = to(worker, destination, peer, &authority);
    let reached = to.map(|to| Reached { dialled, addr, to, exchange: switch.is_none() });
    let answering = Answering { upload, client_h1, switch, deadline: patience.until, reached };
    respond(worker, (response, sender), guards, answering, journal)
}

/// Tells the endpoint's breaker how the exchange went. What the client did says nothing.
pub(super) fn account(
    worker: &Worker,
    destination: &Destination,
    visit: Option<Visit>,
    answer: &Result<Result<Answer, Refused>, Late>,
) {
    let Some(visit) = visit else { return };
    match answer {
        Ok(Ok((response, _))) if !matches!(response.status().as_u16(), 502..=504) => {
            visit.succeeded();
        }
        Ok(_) | Err(Late::Head(_)) => {
            encrypt::report(worker, destination, visit, Failure::Failed);
        }
        Err(Late::Body(_) | Late::Deadline) => drop(visit),
    }
}

/// The refusal of an exchange that nobody waits for any longer; `silent` is how it is called when
/// the other end said nothing.
pub fn of_late(late: Late, silent: Refusal) -> Refused {
    match late {
        Late::Deadline => refuse(silent, "the call's deadline has passed"),
        Late::Head(limit) => refuse(silent, format!("no response head in {limit:?}")),
        Late::Body(fault @ Fault::Trailers(_)) => {
            refuse(Refusal::HeaderTooLarge, fault.to_string())
        }
        Late::Body(Fault::Deadline) => refuse(silent, Fault::Deadline.to_string()),
        Late::Body(fault @ Fault::TooLarge(_)) => refuse(Refusal::BodyTooLarge, fault.to_string()),
        Late::Body(fault) => refuse(Refusal::RequestTimeout, fault.to_string()),
    }
}

/// Shapes the head for the connection: HTTP/2 with our mark, or HTTP/1.1 with one `Host`.
pub(super) fn prepare(
    parts: &mut request::Parts,
    alpn: Alpn,
    authority: &Authority,
    destination: &Destination,
    direction: Direction,
) -> Result<(), Refused> {
    let malformed = |detail: String| refuse(Refusal::RequestMalformed, detail);
    match alpn {
        Alpn::H2 => {
            let speaks = match (destination.grpc || !destination.is_mesh(), direction) {
                // Our mark stays inside the mesh.
                (true, _) => AppSpeaks::Http2,
                (false, Direction::Gateway) => AppSpeaks::Http1,
                (false, Direction::Inbound | Direction::Outbound) => AppSpeaks::AsClient,
            };
            if matches!(destination.peer, ToPeer::Outside(_)) {
                translate::as_https(parts, authority)
                    .map_err(|error| malformed(error.to_string()))?;
            }
            translate::to_h2(parts, authority, speaks)
                .map_err(|error| malformed(error.to_string()))?;
        }
        Alpn::Tcp => {
            return Err(malformed("a request needs a connection that carries HTTP".to_owned()));
        }
        Alpn::Http1 => {
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|error| malformed(error.to_string()))?;
            parts.headers.insert(HOST, host);
            parts.uri = http1_target(parts, authority);
            parts.version = Version::HTTP_11;
            translate::announce_te(&mut parts.headers);
            translate::take_expect_continue(&mut parts.headers);
        }
    }
    Ok(())
}

/// What stands in the request line: the path, or for CONNECT the authority.
fn http1_target(parts: &request::Parts, authority: &Authority) -> Uri {
    if parts.method == Method::CONNECT {
        return Uri::from(authority.clone());
    }
    let target = parts.uri.path_and_query().cloned();
    target.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// What an answer belongs to.
struct Answering {
    upload: Awaited,
    client_h1: bool,
    switch: Option<Switch>,
    deadline: Option<Instant>,
    reached: Option<Reached>,
}

/// Who answers, for as long as it lasts.
fn to(
    worker: &Worker,
    destination: &Destination,
    peer: Option<MeshPeer>,
    authority: &Authority,
) -> Option<To> {
    let name = || Name::of(destination, false);
    Some(match &destination.peer {
        ToPeer::Mesh => To::Mesh(name(), peer?),
        ToPeer::Outside(tls) => To::Outside(name(), Arc::clone(tls)),
        ToPeer::Plain => To::Passed {
            host: canonical_host(authority.as_str()).ok().map(Into::into),
            namespace: worker.shared.config.namespace.as_str().into(),
        },
    })
}

fn respond(
    worker: &Rc<Worker>,
    (response, sender): (Response<Incoming>, Sender),
    guards: Guards,
    answering: Answering,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let Answering { upload, client_h1, switch, deadline, reached } = answering;
    let (mut parts, body) = response.into_parts();
    let clean = match journal.direction {
        Direction::Gateway => hygiene::gateway_response(&mut parts, sender),
        Direction::Inbound | Direction::Outbound => hygiene::outbound_response(&mut parts, sender),
    };
    let clean = clean.map_err(|error| refuse(Refusal::UpstreamFailed, error.to_string()))?;
    journal.reserved_removed(RemovedFrom::Response, clean.presented.dropped);
    let switched = upgrade::answered(switch, &mut parts, &clean.hop)
        .map_err(|error| refuse(Refusal::UpstreamFailed, error.to_string()))?;
    if client_h1 {
        translate::response_from_h2(&mut parts, &clean.presented.http1);
    }
    parts.version = Version::default();
    if let Some(switched) = switched {
        // Of no generation: judged by the next snapshot that is looked at.
        let lasting = reached.map(|reached| judged::reached(&worker.registry, reached, 0));
        let guards = Guards { lasting: lasting.map(|it| Lasting::alone(it, false)), ..guards };
        let tunnel = switched.into_body(worker.relay_limits(), guards, None);
        return Ok(Response::from_parts(parts, tunnel));
    }
    let grpc = hygiene::is_grpc(&parts.headers);
    let lasting = reached.filter(|_| !body.is_end_stream()).map(|reached| {
        let registered = judged::reached(&worker.registry, reached, journal.generation());
        Lasting::alone(registered, grpc).quiet()
    });
    let body = ProxyBody::guarded(body, Guards { lasting, ..guards })
        .counting(count_trailers(worker, journal.direction))
        .within(&worker.shared.config.limits)
        .deadline(deadline)
        .grpc(grpc)
        .answering(upload.answered());
    Ok(Response::from_parts(parts, body))
}

fn count_trailers(worker: &Worker, direction: Direction) -> impl Fn(usize) + use<> + 'static {
    let metrics = Rc::clone(&worker.metrics);
    move |count| metrics.reserved_removed(direction, RemovedFrom::Trailer, count as u64)
}

fn refuse(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Forward, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_late_names_its_refusal() {
        let of = |late| of_late(late, Refusal::AppTimeout).refusal;
        assert_eq!(of(Late::Head(Duration::ZERO)), Refusal::AppTimeout);
        assert_eq!(of(Late::Body(Fault::TooLarge(1))), Refusal::BodyTooLarge);
        assert_eq!(of(Late::Body(Fault::Stalled)), Refusal::RequestTimeout);
    }
}
