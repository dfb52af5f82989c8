//! Mutual TLS with whoever calls the app.
//!
//! Invariant: a handshake is computed only for a complete ClientHello, and only so many at once;
//! waiting for a place counts against the time of the handshake.

use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::live::Snapshot;
use crate::tls::hello::{self, Hello};
use crate::tls::peer::MeshPeer;
use crate::tls::verify::{handshake_reason, peer_refused};
use crate::worker::Worker;

/// Why there is no connection.
pub(super) struct Failed {
    /// Label of `countersign_tls_handshakes_total`.
    pub(super) reason: &'static str,
    /// What happened, for the log.
    pub(super) detail: String,
}

/// A finished handshake.
pub(super) struct Done {
    /// The connection.
    pub(super) stream: Box<TlsStream<TcpStream>>,
    /// Who is on the other end.
    pub(super) peer: MeshPeer,
}

impl Done {
    /// The protocol agreed on.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }
}

const LATE: &str = "no handshake in time";

fn late() -> Failed {
    Failed { reason: "timeout", detail: LATE.to_owned() }
}

/// Reads the rest of the ClientHello.
///
/// # Errors
/// [`Failed`] when it does not come, or is none.
pub(super) async fn hello(
    stream: &mut TcpStream,
    seen: Bytes,
    until: Instant,
) -> Result<Hello, Failed> {
    let read = timeout_at(until, hello::read(stream, seen)).await.map_err(|_| late())?;
    read.map_err(|error| Failed { reason: error.reason, detail: error.detail })
}

/// The handshake with another sidecar.
///
/// # Errors
/// [`Failed`].
pub(super) async fn mesh(
    worker: &Worker,
    snap: &Snapshot,
    hello: Hello,
    stream: TcpStream,
    until: Instant,
) -> Result<Done, Failed> {
    let tls = snap.tls.as_ref().ok_or_else(no_certificate)?;
    finish(worker, hello, stream, Arc::clone(&tls.server), until).await
}

/// The handshake with a TLS client that has a certificate of the mesh.
///
/// # Errors
/// [`Failed`].
pub(super) async fn terminate(
    worker: &Worker,
    snap: &Snapshot,
    hello: Hello,
    stream: TcpStream,
    until: Instant,
) -> Result<Done, Failed> {
    let tls = snap.tls.as_ref().ok_or_else(no_certificate)?;
    finish(worker, hello, stream, Arc::clone(&tls.terminate), until).await
}

fn no_certificate() -> Failed {
    let detail = "this proxy has no certificate".to_owned();
    Failed { reason: "identity_unavailable", detail }
}

async fn finish(
    worker: &Worker,
    hello: Hello,
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    until: Instant,
) -> Result<Done, Failed> {
    if worker.handshakes.available_permits() == 0 {
        worker.metrics.limit_hit("HANDSHAKES_MAX");
    }
    // Boxed, and the stream too: a connection should not keep room for stages it has left.
    let work = Box::pin(async {
        // Never closed, so there is always a place in the end.
        let _place = worker.handshakes.acquire().await;
        let start = StartHandshake::from_parts(hello.accepted, stream);
        start.into_stream(config).await
    });
    let stream = timeout_at(until, work).await.map_err(|_| late())?.map_err(|error| {
        let detail = match peer_refused(&error) {
            Some(refused) => crate::upstream::connect::explain(refused),
            None => error.to_string(),
        };
        Failed { reason: handshake_reason(&error), detail }
    })?;
    let peer = MeshPeer::of_verified_chain(stream.get_ref().1.peer_certificates())
        .map_err(|error| Failed { reason: error.reason(), detail: error.to_string() })?;
    Ok(Done { stream: Box::new(stream), peer })
}
