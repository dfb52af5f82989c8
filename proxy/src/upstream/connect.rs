//! Opens one connection: TCP, then mutual TLS where the other end is a sidecar, then HTTP.
//!
//! Invariant: a mesh connection exists only after the server proved one of the identities expected
//! for it; there is no fallback to plaintext and nothing is learned from what the peer presented.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::body::ProxyBody;
use crate::http::gathered::Gathered;
use crate::judged;
use crate::registry::{Registered, Registry};
use crate::tls::ahead::Ahead;
use crate::tls::outside::{self, OutsideTls};
use crate::tls::peer::MeshPeer;
use crate::tls::verify::{ExpectedIds, handshake_reason, peer_refused};
use crate::tls::{Alpn, MeshTls};
use crate::upstream::dial::{self, Way};
use crate::upstream::target::Offer;
use crate::upstream::watched::Watched;
use crate::worker::LocalExecutor;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("could not connect to {addr}: {source}")]
    Tcp {
        /// What was dialled.
        addr: SocketAddr,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// TCP or TLS took longer than its limit.
    #[error("no connection to {addr} within {ms} ms")]
    TimedOut {
        /// What was dialled.
        addr: SocketAddr,
        /// The limit that ran out.
        ms: u64,
    },
    /// Somebody answered who should not.
    #[error("{addr} is not who was expected: {detail}")]
    UnexpectedIdentity {
        /// What was dialled.
        addr: SocketAddr,
        /// The broken rule, as a metric label.
        reason: &'static str,
        /// Expected and presented identity, or the broken rule.
        detail: String,
    },
    /// TLS failed for another reason.
    #[error("the TLS handshake with {addr} failed ({reason}): {source}")]
    Tls {
        /// What was dialled.
        addr: SocketAddr,
        /// Closed label.
        reason: &'static str,
        /// What rustls said.
        source: std::io::Error,
    },
    /// The HTTP connection could not start.
    #[error("{addr} does not speak the protocol agreed on: {source}")]
    Http {
        /// What was dialled.
        addr: SocketAddr,
        /// What hyper said.
        source: hyper::Error,
    },
    /// Each connection ended before it could be used.
    #[error("{addr} closes its connections at once")]
    Closed {
        /// What was dialled.
        addr: SocketAddr,
    },
    /// Our own TLS configuration could not be built.
    #[error("TLS cannot be set up: {0}")]
    Config(#[from] crate::tls::TlsBuildError),
}

impl ConnectError {
    /// Label of `countersign_tls_handshakes_total{direction="outbound"}`; `None` before TLS.
    pub fn handshake_reason(&self) -> Option<&'static str> {
        match self {
            ConnectError::UnexpectedIdentity { reason, .. } | ConnectError::Tls { reason, .. } => {
                Some(reason)
            }
            ConnectError::Tcp { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::Http { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Config(_) => None,
        }
    }
}

/// A started HTTP client connection.
pub enum Sender {
    /// HTTP/1.1: one request at a time.
    H1(http1::SendRequest<ProxyBody>),
    /// HTTP/2: many.
    H2(http2::SendRequest<ProxyBody>),
}

/// Opens a plaintext connection to the app.
///
/// # Errors
/// [`ConnectError`] when it is not there, too slow, or not HTTP.
pub async fn to_app(
    addr: SocketAddr,
    (h2, keep_case): (bool, bool),
    (way, client): (Way, SocketAddr),
) -> Result<Sender, ConnectError> {
    let tcp = tcp(addr, limits::CONNECT_APP_MS_MAX, dial::app_by(way, addr, client)).await?;
    start(addr, tcp, h2, keep_case).await
}

/// Opens a plaintext connection to an address that policy lets pass.
///
/// # Errors
/// [`ConnectError`] when nobody is there, or it is not HTTP.
pub async fn to_plain(addr: SocketAddr, h2: bool) -> Result<Sender, ConnectError> {
    let tcp = tcp(addr, limits::CONNECT_MESH_MS_MAX, dial::mesh(addr)).await?;
    start(addr, tcp, h2, true).await
}

/// Opens a TLS connection to a service outside the mesh, which must prove one of its names.
///
/// # Errors
/// [`ConnectError`]; `UnexpectedIdentity` when its certificate is not acceptable.
pub async fn to_outside(
    addr: SocketAddr,
    tls: &OutsideTls,
    offer: Offer,
) -> Result<Sender, ConnectError> {
    let tcp = tcp(addr, limits::CONNECT_MESH_MS_MAX, dial::mesh(addr)).await?;
    let handshake = TlsConnector::from(tls.client(offer)).connect(tls.name(), Ahead::new(tcp));
    let stream = timed(addr, limits::HANDSHAKE_MS_MAX, handshake)
        .await?
        .map_err(|source| outside_error(addr, source))?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(outside::ALPN_H2);
    if offer == Offer::Http2 && !h2 {
        let source = std::io::Error::other("the server does not speak HTTP/2");
        return Err(ConnectError::Tls { addr, reason: "alpn", source });
    }
    start(addr, stream, h2, true).await
}

/// Opens a TLS connection that carries any bytes to a service outside the mesh.
///
/// # Errors
/// [`ConnectError`]; `UnexpectedIdentity` when its certificate is not acceptable.
pub async fn to_outside_tcp(
    addr: SocketAddr,
    tls: &OutsideTls,
) -> Result<TlsStream<Ahead<TcpStream>>, ConnectError> {
    let tcp = tcp(addr, limits::CONNECT_MESH_MS_MAX, dial::mesh(addr)).await?;
    let handshake = TlsConnector::from(tls.for_bytes()).connect(tls.name(), Ahead::new(tcp));
    timed(addr, limits::HANDSHAKE_MS_MAX, handshake)
        .await?
        .map_err(|source| outside_error(addr, source))
}

fn outside_error(addr: SocketAddr, source: std::io::Error) -> ConnectError {
    match handshake_reason(&source) {
        reason @ "bad_certificate" => {
            ConnectError::UnexpectedIdentity { addr, reason, detail: source.to_string() }
        }
        reason => ConnectError::Tls { addr, reason, source },
    }
}

/// Opens a mutual TLS connection to another sidecar, which must be one of `expected`.
///
/// # Errors
/// [`ConnectError`]; `UnexpectedIdentity` when somebody else answered.
pub async fn to_mesh(
    addr: SocketAddr,
    expected: &Arc<ExpectedIds>,
    tls: &MeshTls,
    alpn: Alpn,
    registry: &Registry,
) -> Result<(Sender, MeshPeer), ConnectError> {
    let (stream, peer) = mesh_stream(addr, expected, tls, alpn).await?;
    let registered = judged::callee(registry, &peer, tls.generation());
    let sender = start_while(addr, stream, (alpn == Alpn::H2, true), Some(registered)).await?;
    Ok((sender, peer))
}

/// Opens a mutual TLS connection that carries any bytes to another sidecar, which must be one of
/// `expected`.
///
/// # Errors
/// [`ConnectError`]; `UnexpectedIdentity` when somebody else answered.
pub async fn to_mesh_tcp(
    addr: SocketAddr,
    expected: &Arc<ExpectedIds>,
    tls: &MeshTls,
) -> Result<(TlsStream<Ahead<TcpStream>>, MeshPeer), ConnectError> {
    mesh_stream(addr, expected, tls, Alpn::Tcp).await
}

/// Opens a mutual TLS connection for HTTP/1.1 of this process itself to another sidecar, which must be
/// one of `expected`.
///
/// # Errors
/// [`ConnectError`]; `UnexpectedIdentity` when somebody else answered.
pub async fn to_mesh_http1(
    addr: SocketAddr,
    expected: &Arc<ExpectedIds>,
    tls: &MeshTls,
) -> Result<(TlsStream<Ahead<TcpStream>>, MeshPeer), ConnectError> {
    mesh_stream(addr, expected, tls, Alpn::Http1).await
}

async fn mesh_stream(
    addr: SocketAddr,
    expected: &Arc<ExpectedIds>,
    tls: &MeshTls,
    alpn: Alpn,
) -> Result<(TlsStream<Ahead<TcpStream>>, MeshPeer), ConnectError> {
    let config = tls.client(expected, alpn)?;
    let tcp = tcp(addr, limits::CONNECT_MESH_MS_MAX, dial::mesh(addr)).await?;
    // The name is never sent (SNI is off) and never compared: the verifier checks SPIFFE IDs.
    let name = ServerName::IpAddress(addr.ip().into());
    let handshake = TlsConnector::from(config).connect(name, Ahead::new(tcp));
    let stream = timed(addr, limits::HANDSHAKE_MS_MAX, handshake)
        .await?
        .map_err(|source| tls_error(addr, source))?;
    let (_, session) = stream.get_ref();
    if Alpn::of(session.alpn_protocol()) != Some(alpn) {
        let source = std::io::Error::other("the server did not agree to a countersign protocol");
        return Err(ConnectError::Tls { addr, reason: "alpn", source });
    }
    let peer = MeshPeer::of_verified_chain(session.peer_certificates()).map_err(|error| {
        ConnectError::UnexpectedIdentity { addr, reason: error.reason(), detail: error.to_string() }
    })?;
    Ok((stream, peer))
}

fn tls_error(addr: SocketAddr, source: std::io::Error) -> ConnectError {
    match peer_refused(&source) {
        Some(refused) => ConnectError::UnexpectedIdentity {
            addr,
            reason: refused.reason(),
            detail: explain(refused),
        },
        None => ConnectError::Tls { addr, reason: handshake_reason(&source), source },
    }
}

/// The refusal with its cause, for logs and `why`.
pub(crate) fn explain(refused: &crate::tls::verify::PeerRefused) -> String {
    use std::error::Error as _;
    match refused.source() {
        Some(cause) => format!("{refused}: {cause}"),
        None => refused.to_string(),
    }
}

async fn tcp(
    addr: SocketAddr,
    ms: u64,
    dialling: impl Future<Output = std::io::Result<TcpStream>>,
) -> Result<TcpStream, ConnectError> {
    timed(addr, ms, dialling).await?.map_err(|source| ConnectError::Tcp { addr, source })
}

async fn timed<T>(
    addr: SocketAddr,
    ms: u64,
    work: impl Future<Output = T>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(Duration::from_millis(ms), work)
        .await
        .map_err(|_| ConnectError::TimedOut { addr, ms })
}

/// `keep_case`: what HTTP/1 apps wrote in capitals stays so, where HTTP/1 is spoken all the way.
async fn start<IO>(
    addr: SocketAddr,
    io: IO,
    h2: bool,
    keep_case: bool,
) -> Result<Sender, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    start_while(addr, io, (h2, keep_case), None).await
}

/// Drives a connection until it ends, or is cut with everything on it.
async fn drive(
    addr: SocketAddr,
    connection: impl Future<Output = hyper::Result<()>>,
    registered: Option<Registered>,
) {
    let cut = async {
        match &registered {
            Some(registered) => registered.cut().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%addr, %error, "connection ended");
        },
        reason = cut => tracing::info!(%addr, reason = reason.text(), "connection cut"),
    }
}

/// As [`start`], as long as what is registered may last.
async fn start_while<IO>(
    addr: SocketAddr,
    io: IO,
    (h2, keep_case): (bool, bool),
    registered: Option<Registered>,
) -> Result<Sender, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if h2 {
        let (sender, connection) = h2_builder()
            .handshake(TokioIo::new(Gathered::new(Watched::new(io, registered))))
            .await
            .map_err(|source| ConnectError::Http { addr, source })?;
        tokio::task::spawn_local(drive(addr, connection, None));
        return Ok(Sender::H2(sender));
    }
    let (sender, connection) = http1::Builder::new()
        .max_header_size(limits::H1_HEAD_BYTES_MAX)
        .preserve_header_case(keep_case)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| ConnectError::Http { addr, source })?;
    tokio::task::spawn_local(drive(addr, connection.with_upgrades(), registered));
    Ok(Sender::H1(sender))
}

fn h2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::H2_CONN_WINDOW_BYTES)
        .initial_max_send_streams(limits::H2_STREAMS_MAX as usize)
        .max_header_list_size(limits::H2_HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(limits::H2_SEND_BUF_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(limits::H2_PING_MS))
        .keep_alive_timeout(Duration::from_millis(limits::H2_PING_TIMEOUT_MS));
    builder
}
