//! A mutually authenticated connection to the destination.
//!
//! Invariant: only an identity expected of the destination is accepted; on a wrong one nothing is
//! retried, nothing is learned and plaintext is never tried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_workload_id::WorkloadId;
use http::Version;

use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::discover::{Destination, Endpoint};
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::Direction;
use crate::tls::Alpn;
use crate::tls::peer::MeshPeer;
use crate::upstream::connect::ConnectError;
use crate::upstream::opening::LeaseError;
use crate::upstream::pool::{Lease, Target};
use crate::upstream::transport;
use crate::worker::Worker;

/// At most this many endpoints are tried for one request.
const ENDPOINTS_TRIED_MAX: usize = 2;

/// A connection whose other end proved who it is.
pub struct Secured {
    /// The connection.
    pub lease: Lease,
    /// Who proved to be on the other end; `None` outside the mesh.
    pub peer: Option<MeshPeer>,
    /// Protocol inside TLS.
    pub alpn: Alpn,
    /// What was dialled, to dial it again.
    pub target: Target,
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
        self.peer.as_ref().map(MeshPeer::id).ok_or_else(outside)
    }
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
    let Some(tls) = &snap.tls else {
        let detail = "this proxy has no valid certificate";
        return Err(refused(Refusal::IdentityUnavailable, detail));
    };
    journal.callee(destination);
    let alpn = transport::alpn(destination.preserve_http1, version);
    let limit = Duration::from_millis(worker.shared.config.limits.request_ms_max);
    let begun = Instant::now();
    let mut last = refused(Refusal::UpstreamUnreachable, "the destination has no endpoint");
    let tried = match only {
        Some(addr) => destination.endpoint(addr).into_iter().collect(),
        None => destination.endpoints.clone(),
    };
    for Endpoint { addr, expected } in tried.into_iter().take(ENDPOINTS_TRIED_MAX) {
        let Some(expected) = expected else {
            let detail = "the destination is outside the mesh";
            return Err(refused(Refusal::UpstreamUnreachable, detail));
        };
        if snap.destinations.loops(addr) {
            return Err(refused(Refusal::LoopDetected, format!("{addr} is our own listener")));
        }
        let target = Target::Mesh {
            addr,
            expected,
            alpn,
            tls: Arc::clone(tls),
            generation: snap.certs_generation(),
        };
        let left = limit.saturating_sub(begun.elapsed());
        let Ok(secured) = tokio::time::timeout(left, again(worker, &target, journal)).await else {
            let detail = format!("no connection to {addr} within {limit:?}");
            return Err(refused(Refusal::UpstreamUnreachable, detail));
        };
        match secured {
            Ok(secured) => return Ok(Secured { spent: begun.elapsed(), ..secured }),
            Err(error) if may_try_another(&error) => last = of_error(&error),
            Err(error) => return Err(of_error(&error)),
        }
    }
    Err(last)
}

/// Takes a connection to one endpoint.
///
/// # Errors
/// [`LeaseError`], already counted.
pub async fn again(
    worker: &Worker,
    target: &Target,
    journal: &mut Journal,
) -> Result<Secured, LeaseError> {
    let addr = target.addr();
    let alpn = match target {
        Target::Mesh { alpn, .. } => *alpn,
        Target::App { .. } => Alpn::Http1,
    };
    let lease = match worker.pool.lease(target).await {
        Ok(lease) => lease,
        Err(error) => {
            failed(worker, addr, &error);
            return Err(error);
        }
    };
    if lease.is_new() {
        worker.metrics.handshake(Direction::Outbound, "ok");
    }
    let Some(peer) = lease.peer().cloned() else {
        let detail = "the connection has no proven peer".to_owned();
        return Err(ConnectError::UnexpectedIdentity { addr, detail }.into());
    };
    journal.presented(&peer);
    Ok(Secured { lease, peer: Some(peer), alpn, target: target.clone(), spent: Duration::ZERO })
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

/// Another endpoint is tried only where nobody answered; a wrong identity is an answer.
fn may_try_another(error: &LeaseError) -> bool {
    match error {
        LeaseError::Connect { error, .. } => {
            matches!(**error, ConnectError::Tcp { .. } | ConnectError::TimedOut { .. })
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
