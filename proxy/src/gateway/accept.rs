//! A connection from outside: PROXY protocol where it is demanded, TLS where it is configured,
//! then HTTP.
//!
//! Invariant: a PROXY header is read only from the configured balancers, and from them it is
//! mandatory; nobody else can state an address this way. A client holds at most
//! `CONNS_PER_SOURCE_MAX` connections, silent ones included: it is counted before anything is read.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::{GatewayListener, limits};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::gateway::capture::ClientAddress;
use crate::gateway::proxy_protocol::{self, Parsed, PpVersion};
use crate::gateway::sources::Place;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadLimits};
use crate::http::hygiene;
use crate::http::serve::{self, Ending, Exchange};
use crate::inbound::accept::connection_age;
use crate::intercept::prefixed::{Prefixed, Version, read_version};
use crate::journal::Journal;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::{Direction, OpenConnection, PeerSeries};
use crate::tls::clients::ClientCertificate;
use crate::tls::edge::EdgeTls;
use crate::tls::verify::handshake_reason;
use crate::worker::{InFlight, Worker};

/// A public listener.
pub struct Listener {
    /// Its configuration.
    pub config: GatewayListener,
    /// Its certificate, read again when the files change; `None` for plain HTTP.
    pub tls: Option<EdgeTls>,
}

/// One connection from outside.
pub struct Connection {
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    peer: IpAddr,
    proxied: Option<(IpAddr, PpVersion)>,
    sni: Option<String>,
    certificate: Option<ClientCertificate>,
    forwarded_for: ForwardedFor,
    series: PeerSeries,
    _place: Option<Place>,
    _open: OpenConnection,
}

/// The client has as many connections as it may.
struct Crowded;

/// Serves one accepted connection to its end.
pub async fn connection(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    mut stream: TcpStream,
    from: SocketAddr,
) {
    let peer = from.ip().to_canonical();
    let balancer = trusted_balancer(&listener, peer);
    let mut place = None;
    if !balancer {
        let Ok(taken) = take_place(&worker, peer) else { return };
        place = taken;
    }
    let (seen, proxied) = if balancer {
        let deadline = Duration::from_millis(limits::DETECT_MS_MAX);
        match tokio::time::timeout(deadline, read_proxy_header(&mut stream)).await {
            Ok(Ok(read)) => read,
            Ok(Err(why)) => return refused_connection(&worker, from, &why),
            Err(_) => return refused_connection(&worker, from, "no PROXY header in time"),
        }
    } else {
        (Vec::new(), None)
    };
    if let Some((client, _)) = proxied {
        let Ok(taken) = take_place(&worker, client) else { return };
        place = taken;
    }
    let mut conn = |sni, certificate| {
        let series = worker.metrics.no_peer();
        let open = worker.metrics.connection(Direction::Gateway);
        let (worker, listener) = (Rc::clone(&worker), Arc::clone(&listener));
        let place = place.take();
        Rc::new(Connection {
            worker,
            listener,
            peer,
            proxied,
            sni,
            certificate,
            forwarded_for: ForwardedFor::default(),
            series,
            _place: place,
            _open: open,
        })
    };
    let Some(tls) = &listener.tls else {
        return plain(conn(None, None), seen, stream).await;
    };
    let stream = Prefixed::new(seen.into(), stream);
    // Boxed, and the stream too: a connection should not keep room for stages it has left.
    let handshake = Box::pin(shake_hands(&worker, tls, stream, from));
    let Some(Shaken { stream, sni, certificate, version }) = handshake.await else { return };
    http(conn(Some(sni), certificate), version, Bytes::new(), stream).await;
}

/// What a finished TLS handshake shows.
struct Shaken {
    stream: Box<TlsStream<Prefixed<TcpStream>>>,
    sni: String,
    certificate: Option<ClientCertificate>,
    version: Version,
}

async fn shake_hands(
    worker: &Worker,
    tls: &EdgeTls,
    stream: Prefixed<TcpStream>,
    from: SocketAddr,
) -> Option<Shaken> {
    let handshake = TlsAcceptor::from(Arc::clone(&tls.current().server)).accept(stream);
    let deadline = Duration::from_millis(limits::HANDSHAKE_MS_MAX);
    match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok(stream)) => {
            worker.metrics.handshake(Direction::Gateway, "ok");
            let (_, session) = stream.get_ref();
            let sni = session.server_name().unwrap_or_default().to_owned();
            let certificate = ClientCertificate::of_handshake(session.peer_certificates());
            let h2 = session.alpn_protocol() == Some(b"h2");
            let version = if h2 { Version::Http2 } else { Version::Http1 };
            Some(Shaken { stream: Box::new(stream), sni, certificate, version })
        }
        Ok(Err(error)) => {
            worker.metrics.handshake(Direction::Gateway, handshake_reason(&error));
            tracing::debug!(%from, %error, "public handshake failed");
            None
        }
        Err(_) => {
            worker.metrics.handshake(Direction::Gateway, "timeout");
            None
        }
    }
}

fn trusted_balancer(listener: &Listener, peer: IpAddr) -> bool {
    listener.config.proxy_protocol_from.iter().any(|net| net.contains(&peer))
}

/// A place among this client's connections; none for a trusted proxy, which carries many clients'.
fn take_place(worker: &Worker, client: IpAddr) -> Result<Option<Place>, Crowded> {
    let snap = worker.snapshot();
    if snap.gateway.as_ref().is_some_and(|rules| rules.address.trusts(client)) {
        return Ok(None);
    }
    worker.shared.sources.admit(client).map(Some).ok_or_else(|| {
        worker.metrics.limit_hit("CONNS_PER_SOURCE_MAX");
        tracing::debug!(%client, "connection refused: too many of this client");
        Crowded
    })
}

fn refused_connection(worker: &Worker, from: SocketAddr, why: &str) {
    worker.metrics.refusal(Direction::Gateway, Refusal::ClientAddressInvalid.row().reason);
    tracing::info!(%from, why, "connection refused: PROXY protocol");
}

type ProxyHeader = (Vec<u8>, Option<(IpAddr, PpVersion)>);

/// Reads the PROXY header; what follows it comes back with the address.
async fn read_proxy_header(stream: &mut TcpStream) -> Result<ProxyHeader, String> {
    let mut seen = Vec::with_capacity(256);
    loop {
        match proxy_protocol::parse(&seen) {
            Ok(Parsed::Done(header)) => {
                let rest = seen.split_off(header.consumed.min(seen.len()));
                let address =
                    header.source.map(|source| (source.ip().to_canonical(), header.version));
                return Ok((rest, address));
            }
            Ok(Parsed::NeedMore) => {}
            Err(error) => return Err(error.to_string()),
        }
        match stream.read_buf(&mut seen).await {
            Ok(0) => return Err("the connection ended inside the PROXY header".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn plain(conn: Rc<Connection>, seen: Vec<u8>, mut stream: TcpStream) {
    let deadline = Duration::from_millis(limits::H1_HEAD_MS_MAX);
    let read = tokio::time::timeout(deadline, read_version(&mut stream, seen)).await;
    let Ok(Ok((version, seen))) = read else { return };
    http(conn, version, seen, stream).await;
}

async fn http<IO>(conn: Rc<Connection>, version: Version, seen: Bytes, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ending = Ending {
        drain: conn.worker.shared.drain.clone(),
        registered: None,
        age: connection_age(&conn.worker),
    };
    match version {
        Version::Http2 => serve::http2(Prefixed::new(seen, io), conn, &ending).await,
        Version::Http1 => serve::http1(io, seen, conn, &ending).await,
    }
}

impl Connection {
    /// The worker that serves this connection.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Whether this listener only sends clients to HTTPS.
    pub fn redirects(&self) -> bool {
        self.listener.config.redirect_to_https
    }

    /// `https` or `http`, as the client spoke.
    pub fn scheme(&self) -> &'static str {
        if self.sni.is_some() { "https" } else { "http" }
    }

    /// The server name of the TLS connection; `None` for plain HTTP, empty if none was sent.
    pub fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// The certificate whose key the client holds. Only [`Connection::vouched_by`] says whether it
    /// means anything.
    pub fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// The authorities in force, by their names in `clientRoots`, that vouch for the client's
    /// certificate now; empty for one that ended, is unknown to all of them, or was not sent.
    pub fn vouched_by(&self, now: Now) -> Arc<[Arc<str>]> {
        let roots = self.listener.tls.as_ref().and_then(|tls| tls.current().client_roots.clone());
        match (&self.certificate, roots) {
            (Some(certificate), Some(roots)) => certificate.vouched_by(&roots, now),
            (Some(_), None) | (None, _) => Arc::default(),
        }
    }

    /// The TCP peer.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The address in the PROXY header.
    pub fn proxied(&self) -> Option<(IpAddr, PpVersion)> {
        self.proxied
    }

    /// What `X-Forwarded-For` says of `client`.
    pub(super) fn forwarded_for(&self, client: IpAddr) -> HeaderValue {
        self.forwarded_for.of(client)
    }

    /// Behind a trusted proxy a request takes one of its client's places, until it has ended.
    ///
    /// # Errors
    /// `rate_limited` when the client has no place left.
    pub fn placed(&self, slot: InFlight, client: &ClientAddress) -> Result<InFlight, Refused> {
        if !client.src.is_forwarded() {
            return Ok(slot);
        }
        let Some(place) = self.worker.shared.sources.admit(client.ip) else {
            self.worker.metrics.limit_hit("CONNS_PER_SOURCE_MAX");
            let detail = "too many open requests of this client address";
            let refused = Refused::new(Refusal::RateLimited, Stage::Accept, detail);
            return Err(refused.with_sub("per_source"));
        };
        Ok(slot.holding(place))
    }
}

/// What was last written of a client's address: that of the next request of a connection is nearly
/// always the same.
#[derive(Default)]
struct ForwardedFor(RefCell<Option<(IpAddr, HeaderValue)>>);

impl ForwardedFor {
    fn of(&self, client: IpAddr) -> HeaderValue {
        let mut last = self.0.borrow_mut();
        match &*last {
            Some((ip, value)) if *ip == client => value.clone(),
            Some(_) | None => {
                let value = hygiene::forwarded_for(client);
                *last = Some((client, value.clone()));
                value
            }
        }
    }
}

impl Exchange for Connection {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Response<ProxyBody> {
        let snap = self.worker.snapshot();
        let mut journal = Journal::start(&self.worker, &snap, Direction::Gateway, &request);
        journal.at_port(self.listener.config.address.port());
        let outcome = super::serve(&self, request, &snap, &mut journal).await;
        journal.finish(&self.series, outcome)
    }

    fn next_id(&self) -> DecisionId {
        self.worker.decision_id(Now::read())
    }

    fn head_refused(&self, error: HeadError, id: DecisionId) {
        let mut journal = Journal::without_request(&self.worker, id, Direction::Gateway);
        journal.at_port(self.listener.config.address.port());
        journal.refuse_head(error);
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.worker.shared.config.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of several clients come over one connection of a trusted proxy.
    #[test]
    fn each_request_is_forwarded_for_its_own_client() {
        let written = ForwardedFor::default();
        for client in ["203.0.113.7", "203.0.113.7", "198.51.100.9", "203.0.113.7", "2001:db8::1"] {
            assert_eq!(written.of(client.parse().unwrap()), client);
        }
    }
}
