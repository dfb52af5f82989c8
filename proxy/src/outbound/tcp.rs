//! One opaque connection of the app to whatever it dialled.
//!
//! Invariant: a known mesh destination is reached over mutual TLS or not at all; no context goes
//! along. Bytes to an unknown address leave only where the mesh says `pass`, and never to an
//! address that a document knows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_config::limits;
use countersign_policy::doc::PortProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::audit::{Callee, Text};
use crate::clock::Now;
use crate::intercept::watched::Watched;
use crate::journal::OpaqueJournal;
use crate::judged;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
use crate::outbound::discover::{Endpoint, Found, ToPeer};
use crate::outbound::encrypt;
use crate::outbound::reached::{Name, Reached, To};
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::Registered;
use crate::relay::{self, OnTcp, reset};
use crate::telemetry::Direction;
use crate::tls::ahead::Ahead;
use crate::upstream::connect::{self, ConnectError};
use crate::upstream::dial;
use crate::upstream::endpoints::Visit;
use crate::upstream::opening::{Count, LeaseError};
use crate::worker::Worker;

/// At most this many endpoints are tried for one connection.
const ENDPOINTS_TRIED_MAX: usize = 2;

/// The connection onward.
enum Upstream {
    /// TLS: to another sidecar, or to a service outside the mesh; counted at its endpoint.
    Tls(Box<TlsStream<Ahead<TcpStream>>>, Option<Count>),
    /// Bytes, to an unknown address that may be passed.
    Plain(TcpStream),
}

/// Serves the connection to its end.
pub(super) async fn serve<IO>(conn: Connection, client: IO)
where
    IO: AsyncRead + AsyncWrite + OnTcp + Unpin,
{
    let snap = conn.worker().snapshot();
    let declared = conn.known(&snap).and_then(|found| found.destination.protocol);
    let mut client = Watched::new(client, declared == Some(PortProtocol::Tcp));
    let mut journal = account(&conn, &snap);
    // Boxed: what is large here is over when bytes begin to flow.
    let (upstream, registered) = match Box::pin(open(&conn, &snap, &mut journal)).await {
        Ok(opened) => opened,
        Err(refused) => {
            reset(&client);
            return journal.refused(&refused);
        }
    };
    // What lasts keeps no snapshot alive.
    drop(snap);
    let limits = conn.worker().relay(Direction::Outbound);
    journal.counting(&limits.moved);
    match upstream {
        Upstream::Tls(mut server, _held) => {
            let end = relay::run(&mut client, &mut *server, &limits, registered.ended()).await;
            journal.closed(&end, &client, &*server);
        }
        Upstream::Plain(mut server) => {
            let end = relay::run(&mut client, &mut server, &limits, registered.ended()).await;
            journal.closed(&end, &client, &server);
        }
    }
}

/// Refuses a connection whose bytes cannot be served.
pub(super) fn refuse(conn: Connection, client: &impl OnTcp, refused: &Refused) {
    reset(client);
    account(&conn, &conn.worker().snapshot()).refused(refused);
}

fn account(conn: &Connection, snap: &Snapshot) -> OpaqueJournal {
    OpaqueJournal::open(conn.worker(), snap, Direction::Outbound, conn.port())
}

async fn open(
    conn: &Connection,
    snap: &Snapshot,
    journal: &mut OpaqueJournal,
) -> Result<(Upstream, Registered), Refused> {
    match (conn.known(snap), conn.orig_dst()) {
        (Some(found), _) => known(conn, &found, snap, journal).await,
        (None, Some(original)) => pass(conn, original, snap, journal).await,
        (None, None) => {
            let name = conn.bound_to().unwrap_or_default();
            Err(unknown(format!("no Destination document {name}")))
        }
    }
}

/// To a destination that a document describes.
async fn known(
    conn: &Connection,
    found: &Found,
    snap: &Snapshot,
    journal: &mut OpaqueJournal,
) -> Result<(Upstream, Registered), Refused> {
    let (worker, destination) = (conn.worker(), &found.destination);
    journal.callee(Callee {
        expected: destination.expected.as_ref().and_then(|expected| expected.single().cloned()),
        presented: None,
        host: Text::Shared(Arc::clone(&destination.name)),
        port: destination.port,
    });
    worker.retries.borrow_mut().request();
    let mut last = refuse_with(Refusal::UpstreamUnreachable, "the destination has no endpoint");
    let mut tried: Option<SocketAddr> = None;
    for _ in 0..ENDPOINTS_TRIED_MAX {
        let (only, now) = (found.only, Instant::now());
        let Some(endpoint) = encrypt::choose(worker, destination, only, tried.as_slice(), now)
        else {
            break;
        };
        let addr = endpoint.addr;
        if snap.destinations.loops(addr) {
            let detail = format!("{addr} is our own listener");
            return Err(refuse_with(Refusal::LoopDetected, detail));
        }
        if tried.replace(addr).is_some() && !encrypt::may_retry(worker, "connect_failed") {
            break;
        }
        let visit = encrypt::visit(worker, destination, &endpoint);
        match connect(conn, found, &endpoint, snap, journal).await? {
            Ok((stream, registered)) => {
                let held = visit.as_ref().map(Visit::hold);
                if let Some(visit) = visit {
                    visit.succeeded();
                }
                return Ok((Upstream::Tls(stream, held), registered));
            }
            Err(error) => {
                let error = LeaseError::from(error);
                encrypt::could_not_connect(worker, destination, visit, &error);
                last = failed(worker, &error);
                if !encrypt::may_try_another(&error) {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// One attempt. The outer error is ours alone: no endpoint would do better.
async fn connect(
    conn: &Connection,
    found: &Found,
    endpoint: &Endpoint,
    snap: &Snapshot,
    journal: &mut OpaqueJournal,
) -> Result<Result<(Box<TlsStream<Ahead<TcpStream>>>, Registered), ConnectError>, Refused> {
    let (worker, destination, addr) = (conn.worker(), &found.destination, endpoint.addr);
    let dialled = conn.orig_dst();
    // An endpoint the app dialled itself belongs to its service; a service's address is its own.
    let name = Name::of(destination, dialled.is_some() && found.only.is_none());
    match (&destination.peer, &endpoint.expected) {
        (ToPeer::Mesh, Some(expected)) => {
            let Some(tls) = snap.mesh_tls(Now::read()) else {
                let detail = "this proxy has no valid certificate";
                return Err(refuse_with(Refusal::IdentityUnavailable, detail));
            };
            let (stream, peer) = match connect::to_mesh_tcp(addr, expected, tls).await {
                Ok(connected) => connected,
                Err(error) => return Ok(Err(error)),
            };
            worker.metrics.handshake(Direction::Outbound, "ok");
            journal.presented(&peer);
            journal.passed_on();
            let to = To::Mesh(name, peer.clone());
            let reached = Reached { dialled, addr, to, exchange: false };
            let registered = judged::opaque_to(worker, &peer, reached, snap);
            Ok(Ok((Box::new(stream), registered)))
        }
        (ToPeer::Outside(tls), _) => {
            let stream = match connect::to_outside_tcp(addr, tls).await {
                Ok(stream) => stream,
                Err(error) => return Ok(Err(error)),
            };
            journal.let_in().await?;
            let to = To::Outside(name, Arc::clone(tls));
            let reached = Reached { dialled, addr, to, exchange: false };
            let registered = judged::reached(&worker.registry, reached, snap.generation);
            Ok(Ok((Box::new(stream), registered)))
        }
        (ToPeer::Mesh | ToPeer::Plain, _) => {
            let detail = format!("nobody is known who may answer at {addr}");
            Err(refuse_with(Refusal::ServerIdentityUnexpected, detail))
        }
    }
}

/// To an address that no document knows, where the mesh lets it pass.
async fn pass(
    conn: &Connection,
    original: SocketAddr,
    snap: &Snapshot,
    journal: &mut OpaqueJournal,
) -> Result<(Upstream, Registered), Refused> {
    let host = Text::Owned(original.ip().to_string().into_boxed_str());
    let callee = Callee { expected: None, presented: None, host, port: original.port() };
    journal.callee(callee);
    if !conn.passes_unknown(snap) {
        return Err(unknown(format!("no Destination has the address {original}")));
    }
    journal.let_in().await?;
    let namespace = conn.worker().shared.config.namespace.as_str().into();
    let to = To::Passed { host: None, namespace };
    let reached = Reached { dialled: Some(original), addr: original, to, exchange: false };
    let registered = judged::reached(&conn.worker().registry, reached, snap.generation);
    let limit = limits::CONNECT_MESH_MS_MAX;
    let dialled = tokio::time::timeout(Duration::from_millis(limit), dial::mesh(original));
    match dialled.await {
        Ok(Ok(stream)) => Ok((Upstream::Plain(stream), registered)),
        Ok(Err(error)) => {
            let detail = format!("could not connect to {original}: {error}");
            Err(refuse_with(Refusal::UpstreamUnreachable, detail))
        }
        Err(_) => {
            let detail = format!("no connection to {original} within {limit} ms");
            Err(refuse_with(Refusal::UpstreamUnreachable, detail))
        }
    }
}

/// Counts a failed attempt and says which refusal it is.
fn failed(worker: &Worker, error: &LeaseError) -> Refused {
    if let LeaseError::Connect { error, .. } = error
        && let Some(reason) = error.handshake_reason()
    {
        worker.metrics.handshake(Direction::Outbound, reason);
    }
    encrypt::of_error(error)
}

fn unknown(detail: String) -> Refused {
    Refused::new(Refusal::DestinationUnknown, Stage::Discover, detail)
}

fn refuse_with(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Encrypt, detail)
}
