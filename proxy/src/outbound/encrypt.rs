//! A connection to the destination whose other end proved who it is.
//!
//! Invariant: only an identity expected of the chosen endpoint is accepted; on a wrong one nothing
//! is retried, nothing is learned and plaintext is never tried. Another endpoint is tried once, and
//! only before a byte of the request was sent.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_workload_id::WorkloadId;
use http::Version;

use crate::clock::Now;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::discover::{Destination, Endpoint, ToPeer};
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::Registry;
use crate::telemetry::Direction;
use crate::tls::peer::MeshPeer;
use crate::tls::{Alpn, MeshTls};
use crate::upstream::breaker::{self, Failure};
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoints::Visit;
use crate::upstream::mesh::MeshEnds;
use crate::upstream::opening::LeaseError;
use crate::upstream::pool::{Lease, Target};
use crate::upstream::target::Offer;
use crate::upstream::transport;
use crate::worker::Worker;

/// At most this many endpoints are tried for one request.
const ENDPOINTS_TRIED_MAX: usize = 2;

/// A connection whose other end proved who it is.
pub struct Secured {
    /// The connection.
    pub lease: Lease,
    /// Both ends, as they were proven; `None` outside the mesh.
    pub ends: Option<Rc<MeshEnds>>,
    /// Protocol inside TLS.
    pub alpn: Alpn,
    /// How it was found, to find another.
    pub way: Way,
    /// The endpoint that was chosen.
    pub endpoint: Endpoint,
    /// The request at this endpoint, for its breaker; `None` where there is no choice.
    pub visit: Option<Visit>,
    /// How long it took; counts against the time until the response head.
    pub spent: Duration,
}

impl Secured {
    /// The workload a context may be handed to.
    ///
    /// # Errors
    /// `upstream_failed` outside the mesh, where none may go.
    pub fn callee(&self) -> Result<&WorkloadId, Refused> {
        let outside = || refused(Refusal::UpstreamFailed, "no context leaves the mesh");
        self.peer().map(MeshPeer::id).ok_or_else(outside)
    }

    /// Who proved to be on the other end; `None` outside the mesh.
    pub fn peer(&self) -> Option<&MeshPeer> {
        self.ends.as_ref().map(|ends| ends.peer())
    }
}

/// What the connections of one request have in common.
#[derive(Clone)]
pub struct Way {
    only: Option<SocketAddr>,
    offer: Offer,
    tls: Option<Arc<MeshTls>>,
    generation: u64,
    registry: Registry,
}

impl Way {
    /// The way of a second try: its head has the form of the protocol the first one spoke, so no
    /// other may be chosen now.
    #[must_use]
    pub fn speaking(mut self, alpn: Alpn) -> Way {
        match alpn {
            Alpn::H2 => self.offer = Offer::Http2,
            Alpn::Http1 => self.offer = Offer::Http1,
            Alpn::Tcp => {}
        }
        self
    }

    /// The same with the certificates and trust in force now: the first try may have begun long ago.
    ///
    /// # Errors
    /// `identity_unavailable`.
    pub fn as_of_now(mut self, worker: &Worker, destination: &Destination) -> Result<Way, Refused> {
        let snap = worker.snapshot();
        self.tls = own_tls(destination, &snap)?;
        self.generation = snap.peers_generation;
        Ok(self)
    }
}

/// What this end proves itself with; for destinations outside the mesh it may be nothing.
fn own_tls(destination: &Destination, snap: &Snapshot) -> Result<Option<Arc<MeshTls>>, Refused> {
    let tls = snap.mesh_tls(Now::read());
    if destination.is_mesh() && tls.is_none() {
        let detail = "this proxy has no valid certificate";
        return Err(refused(Refusal::IdentityUnavailable, detail));
    }
    Ok(tls.cloned())
}

/// Takes a connection to the destination, trying another endpoint if one cannot be reached.
///
/// # Errors
/// `identity_unavailable`, `upstream_unreachable`, `server_identity_unexpected`, `loop_detected`.
pub async fn lease(
    worker: &Worker,
    destination: &Destination,
    only: Option<SocketAddr>,
    version: Version,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Secured, Refused> {
    let tls = own_tls(destination, snap)?;
    journal.callee(destination);
    worker.retries.borrow_mut().request();
    let way = Way {
        only,
        offer: transport::offer(destination, version),
        tls,
        generation: snap.peers_generation,
        registry: worker.registry.clone(),
    };
    let limit = Duration::from_millis(worker.shared.config.limits.request_ms_max);
    let begun = Instant::now();
    let mut tried: Option<SocketAddr> = None;
    let mut last = None;
    for _ in 0..ENDPOINTS_TRIED_MAX {
        let Some(endpoint) = choose(worker, destination, way.only, tried.as_slice(), begun) else {
            break;
        };
        let addr = endpoint.addr;
        if snap.destinations.loops(addr) {
            return Err(refused(Refusal::LoopDetected, format!("{addr} is our own listener")));
        }
        if tried.replace(addr).is_some() && !may_retry(worker, "connect_failed") {
            break;
        }
        let left = limit.saturating_sub(begun.elapsed());
        let opening = at(worker, destination, endpoint, way.clone(), journal);
        let Ok(secured) = tokio::time::timeout(left, opening).await else {
            let detail = format!("no connection to {addr} within {limit:?}");
            return Err(refused(Refusal::UpstreamUnreachable, detail));
        };
        match secured {
            Ok(secured) => return Ok(Secured { spent: begun.elapsed(), ..secured }),
            Err(error) if may_try_another(&error) => last = Some(of_error(&error)),
            Err(error) => return Err(of_error(&error)),
        }
    }
    let nowhere = "the destination has no endpoint";
    Err(last.unwrap_or_else(|| refused(Refusal::UpstreamUnreachable, nowhere)))
}

/// Takes another connection for a request that is sent once more: to another endpoint where the
/// same may answer, else to the same one again.
///
/// # Errors
/// [`LeaseError`], already counted.
pub async fn again(
    worker: &Worker,
    destination: &Destination,
    (way, before): (Way, &Endpoint),
    journal: &mut Journal,
) -> Result<Secured, LeaseError> {
    let now = Instant::now();
    let other = choose(worker, destination, way.only, &[before.addr], now);
    // A context is for one workload; an endpoint of somebody else could not take it.
    let other = other.filter(|other| other.expected == before.expected);
    let endpoint = other.unwrap_or_else(|| before.clone());
    at(worker, destination, endpoint, way, journal).await
}

/// Takes a connection to the endpoint that has just answered, for the same request once more.
///
/// # Errors
/// [`LeaseError`], already counted.
pub async fn same(
    worker: &Worker,
    destination: &Destination,
    (way, addr): (Way, SocketAddr),
    journal: &mut Journal,
) -> Result<Secured, LeaseError> {
    let gone = || ConnectError::Closed { addr };
    let endpoint = destination.endpoint(addr).ok_or_else(gone)?;
    at(worker, destination, endpoint, way, journal).await
}

/// Whether the budget allows one more retry; counted either way.
pub fn may_retry(worker: &Worker, why: &'static str) -> bool {
    let allowed = worker.retries.borrow_mut().retry();
    if allowed {
        worker.metrics.retry(why);
    } else {
        worker.metrics.limit_hit("RETRY_BUDGET_PCT");
    }
    allowed
}

/// Of two drawn at random the one with fewer requests in flight; what the app dialled itself is
/// no choice.
pub(super) fn choose(
    worker: &Worker,
    destination: &Destination,
    only: Option<SocketAddr>,
    tried: &[SocketAddr],
    now: Instant,
) -> Option<Endpoint> {
    let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.addr);
    if let Some(only) = only {
        return destination.endpoint(only).filter(fresh);
    }
    let endpoints = &destination.endpoints;
    if let [one] = endpoints.as_slice() {
        return Some(one.clone()).filter(fresh);
    }
    let random = u64::from_ne_bytes(worker.random());
    let key = |at| endpoints.get(at).filter(|e| fresh(e)).map(|e| destination.key(e));
    let picked = worker.pool.endpoints.pick(endpoints.len(), random, now, key)?;
    endpoints.get(picked).cloned()
}

/// Takes a connection to one endpoint.
async fn at(
    worker: &Worker,
    destination: &Destination,
    endpoint: Endpoint,
    way: Way,
    journal: &mut Journal,
) -> Result<Secured, LeaseError> {
    let target = target(destination, &endpoint, &way)?;
    if let (Some(own), general) = (&endpoint.expected, &destination.expected)
        && !general.as_ref().is_some_and(|general| Arc::ptr_eq(general, own))
    {
        journal.expecting(Some(own));
    }
    let visit = visit(worker, destination, &endpoint);
    let lease = match worker.pool.lease(&target).await {
        Ok(lease) => lease,
        Err(error) => {
            failed(worker, endpoint.addr, &error);
            could_not_connect(worker, destination, visit, &error);
            return Err(error);
        }
    };
    if lease.is_new() && !matches!(destination.peer, ToPeer::Plain) {
        worker.metrics.handshake(Direction::Outbound, "ok");
    }
    let ends = lease.ends().cloned();
    match &ends {
        Some(ends) => journal.presented(ends.peer()),
        None if destination.is_mesh() => {
            let detail = "the connection has no proven peer".to_owned();
            let addr = endpoint.addr;
            return Err(ConnectError::UnexpectedIdentity {
                addr,
                reason: "unexpected_identity",
                detail,
            }
            .into());
        }
        None => {}
    }
    let alpn = lease.alpn();
    Ok(Secured { lease, ends, alpn, way, endpoint, visit, spent: Duration::ZERO })
}

fn target(
    destination: &Destination,
    endpoint: &Endpoint,
    way: &Way,
) -> Result<Target, ConnectError> {
    let addr = endpoint.addr;
    let h2 = way.offer == Offer::Http2;
    match (&destination.peer, &endpoint.expected, &way.tls) {
        (ToPeer::Mesh, Some(expected), Some(tls)) => Ok(Target::Mesh {
            addr,
            expected: Arc::clone(expected),
            alpn: if h2 { Alpn::H2 } else { Alpn::Http1 },
            tls: Arc::clone(tls),
            generation: way.generation,
            registry: way.registry.clone(),
        }),
        (ToPeer::Mesh, ..) => {
            let detail = "nobody is expected there".to_owned();
            Err(ConnectError::UnexpectedIdentity { addr, reason: "unexpected_identity", detail })
        }
        (ToPeer::Outside(tls), ..) => {
            Ok(Target::Outside { addr, tls: Arc::clone(tls), offer: way.offer })
        }
        (ToPeer::Plain, ..) => Ok(Target::Plain { addr, h2 }),
    }
}

/// Begins a visit of an endpoint; `None` where there is no choice, so nothing to remember.
pub(super) fn visit(
    worker: &Worker,
    destination: &Destination,
    endpoint: &Endpoint,
) -> Option<Visit> {
    let choice = destination.endpoints.len() > 1;
    choice.then(|| worker.pool.endpoints.of(&destination.key(endpoint)).visit(Instant::now()))
}

/// Tells the endpoint's breaker that no connection came about.
pub(super) fn could_not_connect(
    worker: &Worker,
    destination: &Destination,
    visit: Option<Visit>,
    error: &LeaseError,
) {
    if let (Some(visit), Some(failure)) = (visit, failure_of(error)) {
        report(worker, destination, visit, failure);
    }
}

/// Tells the endpoint's breaker that it failed.
pub fn report(worker: &Worker, destination: &Destination, visit: Visit, failure: Failure) {
    let jitter = u16::from_ne_bytes(worker.random());
    let callee = (&worker.metrics, &destination.name);
    let endpoints = &destination.endpoints;
    let may_open = || {
        let keys = endpoints.iter().map(|endpoint| destination.key(endpoint));
        breaker::may_open(worker.pool.endpoints.open(keys), endpoints.len())
    };
    visit.failed(failure, (Instant::now(), jitter), callee, may_open);
}

/// What a failed attempt says about its endpoint; a full pool says nothing.
fn failure_of(error: &LeaseError) -> Option<Failure> {
    match error {
        LeaseError::Crowded { .. } => None,
        LeaseError::Connect { error, .. } => match **error {
            ConnectError::UnexpectedIdentity { .. } => Some(Failure::WrongIdentity),
            ConnectError::Config(_) => None,
            ConnectError::Tcp { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::Tls { .. }
            | ConnectError::Http { .. }
            | ConnectError::Closed { .. } => Some(Failure::Failed),
        },
    }
}

/// Counts a failure once, however many requests waited for the connection.
fn failed(worker: &Worker, addr: SocketAddr, error: &LeaseError) {
    match error {
        LeaseError::Connect { shared: true, .. } => {}
        LeaseError::Connect { error, shared: false } => {
            if let Some(reason) = error.handshake_reason() {
                worker.metrics.handshake(Direction::Outbound, reason);
            }
            tracing::info!(%addr, %error, "could not connect");
        }
        LeaseError::Crowded { limit, .. } => worker.metrics.limit_hit(limit),
    }
}

/// Another endpoint is tried where no connection came about, whoever was to blame, but never on a
/// wrong identity: that is an answer.
pub(super) fn may_try_another(error: &LeaseError) -> bool {
    match error {
        LeaseError::Connect { error, .. } => {
            !matches!(**error, ConnectError::UnexpectedIdentity { .. } | ConnectError::Config(_))
        }
        LeaseError::Crowded { .. } => true,
    }
}

/// The refusal of a failed connection attempt.
pub fn of_error(error: &LeaseError) -> Refused {
    let refusal = match error {
        LeaseError::Crowded { .. } => Refusal::Overloaded,
        LeaseError::Connect { error, .. } => match **error {
            ConnectError::UnexpectedIdentity { .. } => Refusal::ServerIdentityUnexpected,
            ConnectError::Tcp { .. } | ConnectError::TimedOut { .. } => {
                Refusal::UpstreamUnreachable
            }
            ConnectError::Tls { .. } | ConnectError::Http { .. } | ConnectError::Closed { .. } => {
                Refusal::UpstreamFailed
            }
            ConnectError::Config(_) => Refusal::IdentityUnavailable,
        },
    };
    refused(refusal, error.to_string())
}

fn refused(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Encrypt, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_try_offers_the_protocol_of_the_first_alone() {
        let way = || Way {
            only: None,
            offer: Offer::Either,
            tls: None,
            generation: 0,
            registry: Registry::default(),
        };
        assert_eq!(way().speaking(Alpn::H2).offer, Offer::Http2);
        assert_eq!(way().speaking(Alpn::Http1).offer, Offer::Http1);
    }
}
