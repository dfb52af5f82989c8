//! A connection to a port of the app: what it speaks, who opened it, and where it goes from here.
//!
//! A sidecar speaks mutual TLS with a protocol of ours. Anything else is served for a caller
//! without identity, whom no rule admits unless it says so: plaintext HTTP as requests, the app's
//! own TLS and all other bytes as one opaque connection.
//! Invariant: what is declared for a port beats what the bytes look like; bytes that contradict it
//! are refused. The `Peer` of everything on a connection is the one its handshake proved.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::{AppPort, AppTls, ListenMode, limits};
use countersign_policy::doc::PortProtocol;
use countersign_workload_id::TrustDomain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::clock::Now;
use crate::http::serve::{self, Ending};
use crate::inbound::handshake::{self, Failed};
use crate::inbound::tcp;
use crate::intercept::Captured;
use crate::intercept::arrival::{self, At};
use crate::intercept::detect::Detected;
use crate::intercept::guard::Side;
use crate::intercept::peek::{Look, Peeked, peek};
use crate::intercept::prefixed::Prefixed;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::relay::OnTcp;
use crate::telemetry::Direction;
use crate::tls::Alpn;
use crate::tls::peer::{NoPeer, Peer};
use crate::worker::Worker;

pub use crate::inbound::connection::Connection;

/// An inbound listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address it listens on.
    pub address: SocketAddr,
    /// How it learns which port was meant.
    pub mode: ListenMode,
    /// Other trust domains whose workloads may call here.
    pub trust_domains: Vec<TrustDomain>,
}

/// Serves one accepted connection to its end.
pub async fn connection(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    stream: TcpStream,
    from: SocketAddr,
) {
    let at = At { side: Side::Inbound, mode: listener.mode, address: listener.address };
    // This future lives as long as the connection, so its stages are boxed.
    let arrival = Box::pin(arrival::take(&worker, at, stream, from));
    let Some((stream, captured)) = arrival.await else { return };
    let Some(entry) = Entry::new(worker, listener, captured) else { return };
    // Silent connections wait without a buffer.
    let begun = Instant::now();
    let wait = entry.patience();
    match timeout_at(begun + wait, stream.readable()).await {
        Ok(Err(_)) => {}
        Ok(Ok(())) | Err(_) => {
            let served = Box::pin(entry.look(stream, begun, begun + wait)).await;
            if let Some(served) = served {
                served.await;
            }
        }
    }
}

/// What lasts of a connection: whoever carries its bytes. Everything that led there is over, and
/// takes no room any more.
type Served = Pin<Box<dyn Future<Output = ()>>>;

/// What is known of whoever opened a connection.
struct Opened {
    peer: Peer,
    alpn: Option<Alpn>,
    /// In force before the other end proved anything. Nothing that lasts keeps it.
    snap: Arc<Snapshot>,
}

/// A connection whose first bytes have not been looked at.
pub(super) struct Entry {
    pub(super) worker: Rc<Worker>,
    pub(super) captured: Captured,
    listener: Rc<Listener>,
    /// The port that was meant.
    pub(super) port: u16,
    /// Where the app listens.
    pub(super) app: SocketAddr,
    declared: Option<PortProtocol>,
    tls: AppTls,
    detect: Duration,
}

impl Entry {
    fn new(worker: Rc<Worker>, listener: Rc<Listener>, captured: Captured) -> Option<Entry> {
        let config = &worker.shared.config;
        let original = captured.orig_dst().0;
        let port = original.port();
        let written = config.app_port(port);
        let app = written.and_then(|app| app.address);
        // What this process answers itself is dialled nowhere.
        let app = app.or_else(|| written.and_then(|app| app.service).map(|_| original));
        // In explicit mode the original address is our own listener.
        let app = app.or_else(|| (!config.is_own(original, &[])).then_some(original))?;
        let detect_ms = written.and_then(|app| app.detect_ms).unwrap_or(limits::DETECT_MS_MAX);
        Some(Entry {
            declared: config.port_protocol(port),
            tls: written.map_or_else(AppTls::default, |app: &AppPort| app.tls),
            detect: Duration::from_millis(detect_ms.min(limits::DETECT_MS_MAX)),
            worker,
            captured,
            listener,
            port,
            app,
        })
    }

    /// How long the first bytes may take. A client of HTTP may open a connection long before it
    /// uses it; where the server may speak first, waiting is what must be short.
    fn patience(&self) -> Duration {
        match self.declared {
            Some(PortProtocol::Http | PortProtocol::Grpc) => {
                Duration::from_millis(self.worker.shared.config.limits.h1_head_ms_max)
            }
            Some(PortProtocol::Tcp) | None => self.detect,
        }
    }

    async fn look(self, mut stream: TcpStream, begun: Instant, until: Instant) -> Option<Served> {
        let look = match self.declared {
            Some(PortProtocol::Tcp) => Look::TlsOnly,
            Some(PortProtocol::Http | PortProtocol::Grpc) | None => Look::Everything,
        };
        let peeked = peek(&mut stream, look, until).await.ok()?;
        if peeked.what == Detected::Tls {
            return self.tls(stream, peeked.seen, begun).await;
        }
        self.plaintext(stream, peeked).await
    }

    /// Reads the hello and either ends TLS here or hands its bytes to the app.
    async fn tls(self, mut stream: TcpStream, seen: Bytes, begun: Instant) -> Option<Served> {
        let until = begun + Duration::from_millis(limits::HANDSHAKE_MS_MAX);
        let hello = match Box::pin(handshake::hello(&mut stream, seen, until)).await {
            Ok(hello) => hello,
            Err(failed) => {
                self.handshake_failed(&failed);
                return None;
            }
        };
        match (hello.mesh, self.tls) {
            (true, _) => {
                // Taken before: what changes during the handshake is held against the connection.
                let snap = self.worker.snapshot();
                let by = (&*snap, self.listener.trust_domains.as_slice());
                let done = handshake::mesh(&self.worker, by, hello, stream, until);
                let done = Box::pin(done).await;
                self.mesh(done, snap).await
            }
            (false, AppTls::Terminate) => {
                let snap = self.worker.snapshot();
                let by = (&*snap, self.listener.trust_domains.as_slice());
                let done = handshake::terminate(&self.worker, by, hello, stream, until);
                let done = Box::pin(done).await;
                self.terminated(done, snap).await
            }
            (false, AppTls::Mesh | AppTls::Pass) => {
                let client = Prefixed::new(hello.raw, stream);
                let contradicts = "the client speaks TLS of the app's own";
                let snap = self.worker.snapshot();
                let of = Opened { peer: Peer::None(NoPeer::AppTls), alpn: None, snap };
                self.opaque(client, of, contradicts).await
            }
        }
    }

    async fn mesh(
        self,
        done: Result<handshake::Done, Failed>,
        snap: Arc<Snapshot>,
    ) -> Option<Served> {
        let done = match done {
            Ok(done) => done,
            Err(failed) => {
                self.handshake_failed(&failed);
                return None;
            }
        };
        let Some(alpn) = Alpn::of(done.protocol()) else {
            let detail = "the client offered no protocol of ours that is known here";
            self.handshake_failed(&Failed { reason: "alpn", detail: detail.to_owned() });
            return None;
        };
        self.worker.metrics.handshake(Direction::Inbound, "ok");
        let (declared, peer) = (self.declared, Peer::Mesh(done.peer));
        match alpn {
            Alpn::Tcp => {
                let contradicts = "the caller's sidecar carries bytes";
                self.opaque(done.stream, Opened { peer, alpn: Some(alpn), snap }, contradicts).await
            }
            Alpn::H2 if fits_http(declared, true) => {
                let (conn, ending) = self.requests(peer, Some(alpn), snap);
                let stream = done.stream;
                Some(Box::pin(async move { serve::http2(stream, conn, &ending).await }))
            }
            Alpn::Http1 if fits_http(declared, false) => {
                let (conn, ending) = self.requests(peer, Some(alpn), snap);
                let stream = done.stream;
                let none = Bytes::new();
                Some(Box::pin(async move { serve::http1(stream, none, conn, &ending).await }))
            }
            Alpn::H2 | Alpn::Http1 => {
                let detail = "the caller's sidecar carries HTTP that the port does not speak";
                self.mismatch(done.stream, Opened { peer, alpn: Some(alpn), snap }, detail).await
            }
        }
    }

    /// A client with a certificate of the mesh and no sidecar.
    async fn terminated(
        self,
        done: Result<handshake::Done, Failed>,
        snap: Arc<Snapshot>,
    ) -> Option<Served> {
        let mut done = match done {
            Ok(done) => done,
            Err(failed) => {
                self.handshake_failed(&failed);
                return None;
            }
        };
        self.worker.metrics.handshake(Direction::Inbound, "ok");
        let found = match (done.protocol(), self.declared) {
            (Some(b"h2"), _) => Peeked::known(Detected::Http2),
            (Some(_), _) => Peeked::known(Detected::Http1),
            (None, Some(PortProtocol::Tcp)) => Peeked::known(Detected::Opaque),
            (None, _) => {
                let until = Instant::now() + self.patience();
                peek(&mut done.stream, Look::Everything, until).await.ok()?
            }
        };
        self.found(done.stream, found, Peer::Mesh(done.peer), snap).await
    }

    async fn plaintext(self, stream: TcpStream, peeked: Peeked) -> Option<Served> {
        if peeked.timed_out {
            self.worker.undetected.timed_out(&self.worker.metrics, self.port);
        }
        let snap = self.worker.snapshot();
        self.found(stream, peeked, Peer::None(NoPeer::Plaintext), snap).await
    }

    /// Serves what was found in the clear, or inside TLS that ended here.
    async fn found<IO>(
        self,
        io: IO,
        peeked: Peeked,
        peer: Peer,
        snap: Arc<Snapshot>,
    ) -> Option<Served>
    where
        IO: AsyncRead + AsyncWrite + OnTcp + Unpin + Send + 'static,
    {
        let Peeked { what, seen, .. } = peeked;
        match what {
            Detected::Http1 if fits_http(self.declared, false) => {
                let (conn, ending) = self.requests(peer, None, snap);
                Some(Box::pin(async move { serve::http1(io, seen, conn, &ending).await }))
            }
            Detected::Http2 if fits_http(self.declared, true) => {
                let (conn, ending) = self.requests(peer, None, snap);
                let io = Prefixed::new(seen, io);
                Some(Box::pin(async move { serve::http2(io, conn, &ending).await }))
            }
            Detected::Http1 | Detected::Http2 => {
                let detail = "the client speaks HTTP that the port does not";
                self.mismatch(io, Opened { peer, alpn: None, snap }, detail).await
            }
            // Who says nothing on a port of HTTP asks nothing.
            Detected::Opaque if seen.is_empty() && self.is_http() => None,
            Detected::Opaque | Detected::Tls | Detected::NeedMore => {
                let contradicts = "the client does not speak HTTP";
                let of = Opened { peer, alpn: None, snap };
                self.opaque(Prefixed::new(seen, io), of, contradicts).await
            }
        }
    }

    fn is_http(&self) -> bool {
        matches!(self.declared, Some(PortProtocol::Http | PortProtocol::Grpc))
    }

    /// A connection that carries requests.
    fn requests(
        self,
        peer: Peer,
        alpn: Option<Alpn>,
        snap: Arc<Snapshot>,
    ) -> (Rc<Connection>, Ending) {
        let conn = Connection::new(self, peer, alpn, &snap);
        let ending = conn.ending();
        (Rc::new(conn), ending)
    }

    fn opened(self, of: Opened) -> Connection {
        Connection::new(self, of.peer, of.alpn, &of.snap)
    }

    /// One opaque connection, unless the port is declared to speak HTTP.
    async fn opaque<IO>(self, client: IO, of: Opened, contradicts: &str) -> Option<Served>
    where
        IO: AsyncRead + AsyncWrite + OnTcp + Unpin + 'static,
    {
        if self.is_http() {
            return self.mismatch(client, of, contradicts).await;
        }
        let conn = self.opened(of);
        Some(Box::pin(tcp::serve(conn, client)))
    }

    /// What came contradicts what is declared.
    async fn mismatch<IO>(self, client: IO, of: Opened, detail: &str) -> Option<Served>
    where
        IO: AsyncRead + AsyncWrite + OnTcp + Unpin,
    {
        let refused = Refused::new(Refusal::ProtocolMismatch, Stage::Accept, detail);
        let conn = self.opened(of);
        tcp::refuse(conn, client, &refused).await;
        None
    }

    fn handshake_failed(&self, failed: &Failed) {
        let Failed { reason, detail } = failed;
        self.worker.metrics.handshake(Direction::Inbound, reason);
        let client = self.captured.client().0;
        let untold = self.worker.told.borrow_mut().tell(client.ip(), reason, Now::read());
        if let Some(untold) = untold {
            tracing::info!(reason, %client, detail, untold, "handshake refused");
        }
    }
}

/// Whether HTTP of this version may come to a port. What is not declared is told from the bytes.
fn fits_http(declared: Option<PortProtocol>, h2: bool) -> bool {
    match declared {
        None | Some(PortProtocol::Http) => true,
        Some(PortProtocol::Grpc) => h2,
        Some(PortProtocol::Tcp) => false,
    }
}

/// Connections end at a random point within ten percent of the maximum age, so that a fleet
/// started together does not reconnect together.
pub fn connection_age(worker: &Worker) -> Duration {
    let [spread] = worker.random::<1>();
    let max = worker.shared.config.limits.conn_age_s_max;
    Duration::from_secs(max - max / 10 + u64::from(spread) * max / 5 / 255)
}
