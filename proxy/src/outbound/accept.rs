//! A connection of the app: what it speaks, and what it was meant for.
//!
//! Invariant: nothing the app writes is trusted; its reserved headers are taken out before any
//! stage reads a request. What is declared for a destination beats what the bytes look like.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::{ListenMode, WELL_KNOWN_TCP, limits};
use countersign_policy::doc::{PortProtocol, Unknown};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadLimits};
use crate::http::serve::{self, Ending, Exchange};
use crate::inbound::accept::connection_age;
use crate::intercept::arrival::{self, At};
use crate::intercept::detect::Detected;
use crate::intercept::guard::Side;
use crate::intercept::peek::{Look, Peeked, peek};
use crate::intercept::prefixed::Prefixed;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::discover::Found;
use crate::outbound::tcp;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::{Direction, OpenConnection, PeerSeries};
use crate::worker::Worker;

/// An outbound listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address it listens on.
    pub address: SocketAddr,
    /// How it learns what was meant.
    pub mode: ListenMode,
    /// The one destination it stands for, `namespace/name`; without one the request names it.
    pub bound_to: Option<String>,
}

/// One connection of the app.
pub struct Connection {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    original: Option<SocketAddr>,
    own: OnceCell<bool>,
    series: PeerSeries,
    _open: OpenConnection,
}

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// HTTP, and nothing else is understood: only its requests say what they are for.
    Requests,
    /// HTTP, as declared for the destination.
    Http,
    /// Bytes, as declared or well known: not looked at.
    Bytes,
    /// The first bytes tell.
    Anything,
}

/// Serves one accepted connection to its end.
pub async fn connection(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    stream: TcpStream,
    from: SocketAddr,
) {
    let at = At { side: Side::Outbound, mode: listener.mode, address: listener.address };
    // This future lives as long as the connection. Stages that are over by then are boxed.
    let arrival = Box::pin(arrival::take(&worker, at, stream, from));
    let Some((stream, captured)) = arrival.await else { return };
    let original = listener.mode.is_captured().then(|| captured.orig_dst().0);
    let series = worker.metrics.no_peer();
    let open = worker.metrics.connection(Direction::Outbound);
    let conn = Connection { worker, listener, original, own: OnceCell::new(), series, _open: open };
    let expected = conn.expected(conn.known(&conn.worker.snapshot()).as_ref());
    if expected == Expected::Bytes {
        return Box::pin(tcp::serve(conn, stream)).await;
    }
    conn.look(stream, expected).await;
}

impl Connection {
    /// The worker that serves this connection.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The destination this listener is bound to.
    pub fn bound_to(&self) -> Option<&str> {
        self.listener.bound_to.as_deref()
    }

    /// The address the app dialled; `None` in explicit mode.
    pub fn orig_dst(&self) -> Option<SocketAddr> {
        self.original
    }

    /// The port the app dialled, or that of the listener it dialled instead.
    pub fn port(&self) -> u16 {
        self.original.unwrap_or(self.listener.address).port()
    }

    /// Whether what no document knows may pass, without mesh TLS and without context.
    pub(super) fn passes_unknown(&self, snap: &Snapshot) -> bool {
        let namespace = &self.worker.shared.config.namespace;
        snap.documents.mesh.outbound_unknown(namespace) == Unknown::Pass
    }

    /// What this connection leads to, as far as its address tells.
    pub(super) fn known(&self, snap: &Snapshot) -> Option<Found> {
        match (self.bound_to(), self.original) {
            (Some(name), _) => {
                let destination = snap.destinations.by_name(name)?;
                Some(Found { destination: Arc::clone(destination), only: None })
            }
            (None, Some(original)) => snap
                .destinations
                .by_address(original)
                .or_else(|| self.is_own(original).then(|| snap.destinations.at_own(original))?),
            (None, None) => None,
        }
    }

    /// Whether the app dialled its own pod, at an address no configuration names.
    fn is_own(&self, original: SocketAddr) -> bool {
        let ask = || {
            let ip = original.ip();
            !ip.is_loopback() && self.worker.own_addresses.contains(ip, &self.worker.shared.config)
        };
        *self.own.get_or_init(ask)
    }

    fn expected(&self, known: Option<&Found>) -> Expected {
        let declared = known.map(|found| found.destination.protocol);
        match (declared, self.original) {
            (Some(Some(PortProtocol::Http | PortProtocol::Grpc)), _) => Expected::Http,
            (Some(Some(PortProtocol::Tcp)), _) => Expected::Bytes,
            // Without an address only a request can say what it is for.
            (None, None) => Expected::Requests,
            (Some(None) | None, _) if WELL_KNOWN_TCP.contains(&self.port()) => Expected::Bytes,
            (Some(None) | None, _) => Expected::Anything,
        }
    }

    async fn look(self, mut stream: TcpStream, expected: Expected) {
        // A client of HTTP may open a connection long before it uses it.
        let patience = match expected {
            Expected::Requests | Expected::Http => self.worker.shared.config.limits.h1_head_ms_max,
            Expected::Bytes | Expected::Anything => limits::DETECT_MS_MAX,
        };
        let until = Instant::now() + Duration::from_millis(patience);
        // Silent connections wait without a buffer.
        if let Ok(Err(_)) = tokio::time::timeout_at(until, stream.readable()).await {
            return;
        }
        let peeked = Box::pin(peek(&mut stream, Look::Everything, until)).await;
        let Ok(peeked) = peeked else { return };
        let Peeked { what, seen, timed_out } = peeked;
        if timed_out {
            self.worker.undetected.timed_out(&self.worker.metrics, self.port());
        }
        match (what, expected) {
            (Detected::Http2, _) => self.http2(stream, seen).await,
            (Detected::Http1, _) => self.http1(stream, seen).await,
            // Who says nothing asks nothing.
            (_, Expected::Requests | Expected::Http) if seen.is_empty() => {}
            // The parser says what is wrong.
            (_, Expected::Requests) => self.http1(stream, seen).await,
            (_, Expected::Http) => {
                let detail = "the app does not speak HTTP, as the destination does";
                let refused = Refused::new(Refusal::ProtocolMismatch, Stage::Accept, detail);
                tcp::refuse(self, &stream, &refused);
            }
            (_, Expected::Bytes | Expected::Anything) => {
                Box::pin(tcp::serve(self, Prefixed::new(seen, stream))).await;
            }
        }
    }

    async fn http1(self, stream: TcpStream, seen: Bytes) {
        let ending = self.ending();
        serve::http1(stream, seen, Rc::new(self), &ending).await;
    }

    async fn http2(self, stream: TcpStream, seen: Bytes) {
        let ending = self.ending();
        serve::http2(Prefixed::new(seen, stream), Rc::new(self), &ending).await;
    }

    fn ending(&self) -> Ending {
        Ending {
            drain: self.worker.shared.drain_outbound.clone(),
            registered: None,
            age: connection_age(&self.worker),
        }
    }
}

impl Exchange for Connection {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Response<ProxyBody> {
        let snap = self.worker.snapshot();
        let mut journal = Journal::start(&self.worker, &snap, Direction::Outbound, &request);
        let outcome = super::serve(&self, request, &snap, &mut journal).await;
        journal.finish(&self.series, outcome)
    }

    fn next_id(&self) -> DecisionId {
        self.worker.decision_id(Now::read())
    }

    fn head_refused(&self, error: HeadError, id: DecisionId) {
        let journal = Journal::without_request(&self.worker, id, Direction::Outbound);
        journal.refuse_head(error);
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.worker.shared.config.limits)
    }

    fn keeps_header_case(&self) -> bool {
        self.worker.snapshot().destinations.keep_header_case()
    }
}
