//! A connection from another sidecar: mutual TLS, ALPN, then HTTP. Plaintext is accepted only to
//! be judged as a caller without identity, which no rule admits unless it says so.
//!
//! Invariant: the `Peer` of every request on a connection is the one its handshake proved.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use countersign_workload_id::WorkloadId;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadLimits};
use crate::http::serve::{self, Ending, Exchange};
use crate::http::upgrade::Allowed;
use crate::intercept::Captured;
use crate::intercept::prefixed::{Prefixed, Version, read_version};
use crate::journal::Journal;
use crate::judged;
use crate::live::Snapshot;
use crate::registry::Registered;
use crate::telemetry::{Direction, OpenConnection, PeerSeries, RemovedFrom};
use crate::tls::Alpn;
use crate::tls::peer::{MeshPeer, NoPeer, Peer};
use crate::tls::verify::handshake_reason;
use crate::worker::Worker;

/// An inbound listener: which port it stands for, and the app behind it.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The port policy sees.
    pub port: u16,
    /// Where the app listens.
    pub app: SocketAddr,
}

/// One connection and everything its requests share.
pub struct Connection {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    captured: Captured,
    peer: Peer,
    series: PeerSeries,
    alpn: Option<Alpn>,
    /// The identity this end proved on this connection: whom tokens must have been handed to.
    pub(super) own_id: Option<WorkloadId>,
    registered: Rc<Registered>,
    _open: OpenConnection,
}

/// Serves one accepted connection to its end.
pub async fn connection(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    stream: TcpStream,
    from: SocketAddr,
) {
    let captured = Captured::explicit(from, listener.address);
    let deadline = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
    let mut first = [0];
    let Ok(Ok(1..)) = tokio::time::timeout(deadline, stream.peek(&mut first)).await else { return };
    if first == [0x16] {
        mesh(worker, listener, captured, stream).await;
    } else {
        plaintext(worker, listener, captured, stream).await;
    }
}

async fn mesh(worker: Rc<Worker>, listener: Rc<Listener>, captured: Captured, stream: TcpStream) {
    let deadline = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
    // Taken before: what changes during the handshake is held against the connection.
    let snap = worker.snapshot();
    let handshake = tokio::time::timeout(deadline, handshake(&worker, stream));
    let (stream, peer, alpn) = match handshake.await {
        Ok(Ok(done)) => done,
        Ok(Err((reason, detail))) => return refused_handshake(&worker, captured, reason, &detail),
        Err(_) => return refused_handshake(&worker, captured, "timeout", "no handshake in time"),
    };
    worker.metrics.handshake(Direction::Inbound, "ok");
    let conn = Connection::new(worker, listener, captured, Peer::Mesh(peer), Some(alpn), &snap);
    let ending = conn.ending();
    match alpn {
        Alpn::H2 => serve::http2(stream, Rc::new(conn), &ending).await,
        Alpn::Http1 => serve::http1(stream, Bytes::new(), Rc::new(conn), &ending).await,
        Alpn::Tcp => {}
    }
}

type Handshake<T> = Result<T, (&'static str, String)>;

async fn handshake(
    worker: &Worker,
    stream: TcpStream,
) -> Handshake<(impl AsyncRead + AsyncWrite + Unpin + Send + 'static, MeshPeer, Alpn)> {
    let failed = |error: std::io::Error| (handshake_reason(&error), chain(&error));
    // The handshake's work starts only once a complete ClientHello is here.
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let hello = hello.await.map_err(failed)?;
    let snap = worker.snapshot();
    let Some(tls) = &snap.tls else {
        return Err(("identity_unavailable", "this proxy has no certificate".to_owned()));
    };
    let stream = hello.into_stream(std::sync::Arc::clone(&tls.server)).await.map_err(failed)?;
    let (_, session) = stream.get_ref();
    let Some(alpn) = Alpn::of(session.alpn_protocol()) else {
        return Err(("alpn", "the client offered no countersign protocol".to_owned()));
    };
    let peer = MeshPeer::of_verified_chain(session.peer_certificates())
        .map_err(|error| (error.reason(), error.to_string()))?;
    Ok((stream, peer, alpn))
}

/// The error with its causes, for the log.
fn chain(error: &std::io::Error) -> String {
    match crate::tls::verify::peer_refused(error) {
        Some(refused) => crate::upstream::connect::explain(refused),
        None => error.to_string(),
    }
}

fn refused_handshake(worker: &Worker, captured: Captured, reason: &'static str, detail: &str) {
    worker.metrics.handshake(Direction::Inbound, reason);
    let client = captured.client().0;
    tracing::info!(reason, %client, detail, "handshake refused");
}

async fn plaintext(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    captured: Captured,
    mut stream: TcpStream,
) {
    let deadline = Duration::from_millis(limits::DETECT_MS_MAX);
    let seen = tokio::time::timeout(deadline, read_version(&mut stream, Vec::new())).await;
    let Ok(Ok((version, seen))) = seen else { return };
    let peer = Peer::None(NoPeer::Plaintext);
    let snap = worker.snapshot();
    let conn = Connection::new(worker, listener, captured, peer, None, &snap);
    let ending = conn.ending();
    match version {
        Version::Http2 => {
            serve::http2(Prefixed::new(seen, stream), Rc::new(conn), &ending).await;
        }
        Version::Http1 => {
            serve::http1(stream, seen, Rc::new(conn), &ending).await;
        }
    }
}

/// Connections end at a random point within ten percent of the maximum age, so that a fleet
/// started together does not reconnect together.
pub fn connection_age(worker: &Worker) -> Duration {
    let [spread] = worker.random::<1>();
    let max = worker.shared.config.limits.conn_age_s_max;
    Duration::from_secs(max - max / 10 + u64::from(spread) * max / 5 / 255)
}

impl Connection {
    fn new(
        worker: Rc<Worker>,
        listener: Rc<Listener>,
        captured: Captured,
        peer: Peer,
        alpn: Option<Alpn>,
        snap: &Snapshot,
    ) -> Connection {
        let registered = Rc::new(judged::connection(&worker, &peer, snap));
        let own_id = worker.snapshot().identity().map(|me| me.id.clone());
        let series = match &peer {
            Peer::Mesh(peer) => {
                let id = peer.id();
                let namespace = id.namespace().unwrap_or("other");
                worker.metrics.peer(namespace, id.service_account().unwrap_or("other"))
            }
            Peer::None(_) => worker.metrics.no_peer(),
        };
        let open = worker.metrics.connection(Direction::Inbound);
        Connection {
            worker,
            listener,
            captured,
            peer,
            series,
            alpn,
            own_id,
            registered,
            _open: open,
        }
    }

    /// When it ends although nobody closed it.
    fn ending(&self) -> Ending {
        Ending {
            drain: self.worker.shared.drain.clone(),
            registered: Some(Rc::clone(&self.registered)),
            age: connection_age(&self.worker),
        }
    }

    /// Its place in the registry.
    pub fn registered(&self) -> &Registered {
        &self.registered
    }

    /// The worker that serves this connection.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Who is on the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What is known of the connection's addresses.
    pub fn captured(&self) -> &Captured {
        &self.captured
    }

    /// The port policy sees.
    pub fn port(&self) -> u16 {
        self.listener.port
    }

    /// Where the app listens.
    pub fn app(&self) -> SocketAddr {
        self.listener.app
    }

    /// What may pass beside requests and answers. Between proxies a switch travels on HTTP/1.1.
    pub fn switches(&self, version: http::Version) -> Allowed<'_> {
        match self.worker.shared.config.app_port(self.port()) {
            Some(app) => {
                let connect = app.connect && version < http::Version::HTTP_2;
                Allowed { upgrades: &app.upgrades, connect }
            }
            None => Allowed::default(),
        }
    }

    /// What is carried inside TLS; `None` for plaintext.
    pub fn alpn(&self) -> Option<Alpn> {
        self.alpn
    }

    /// Counts reserved names removed from trailers.
    pub fn count_trailers(&self) -> impl Fn(usize) + 'static {
        let metrics = Rc::clone(&self.worker.metrics);
        move |count| {
            metrics.reserved_removed(Direction::Inbound, RemovedFrom::Trailer, count as u64);
        }
    }
}

impl Exchange for Connection {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Response<ProxyBody> {
        let snap = self.worker.snapshot();
        let mut journal = Journal::start(&self.worker, &snap, Direction::Inbound, &request);
        journal.at_port(self.listener.port).peer(&self.peer);
        let outcome = super::serve(&self, request, &snap, &mut journal).await;
        journal.finish(&self.series, outcome)
    }

    fn next_id(&self) -> DecisionId {
        self.worker.decision_id(Now::read())
    }

    fn head_refused(&self, error: HeadError, id: DecisionId) {
        let mut journal = Journal::without_request(&self.worker, id, Direction::Inbound);
        journal.at_port(self.listener.port).peer(&self.peer);
        journal.refuse_head(error);
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.worker.shared.config.limits)
    }
}
