//! Mutual TLS with whoever calls the app.
//!
//! Invariant: a handshake is computed only for a complete ClientHello, and only so many in one turn
//! of the loop, so that everybody else is served in between. Nobody holds a place while waiting for
//! the client: silent ones are bounded by the cap on connections and by their time. Waiting for a
//! place counts against the time of the handshake.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use countersign_workload_id::TrustDomain;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::clock::Now;
use crate::live::Snapshot;
use crate::tls::ahead::Ahead;
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
    pub(super) stream: Box<TlsStream<Ahead<TcpStream>>>,
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

/// The handshake with another sidecar, at a listener that accepts these other trust domains.
///
/// # Errors
/// [`Failed`].
pub(super) async fn mesh(
    worker: &Worker,
    (snap, accepted): (&Snapshot, &[TrustDomain]),
    hello: Hello,
    stream: TcpStream,
    until: Instant,
) -> Result<Done, Failed> {
    let config = snap.mesh_tls(Now::read()).and_then(|tls| tls.server(accepted));
    finish(worker, hello, stream, config.ok_or_else(no_certificate)?, until).await
}

/// The handshake with a TLS client that has a certificate of the mesh.
///
/// # Errors
/// [`Failed`].
pub(super) async fn terminate(
    worker: &Worker,
    (snap, accepted): (&Snapshot, &[TrustDomain]),
    hello: Hello,
    stream: TcpStream,
    until: Instant,
) -> Result<Done, Failed> {
    let config = snap.mesh_tls(Now::read()).and_then(|tls| tls.terminate(accepted));
    finish(worker, hello, stream, config.ok_or_else(no_certificate)?, until).await
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
    // Boxed, and the stream too: a connection should not keep room for stages it has left.
    let work =
        Box::pin(paced(&worker.handshakes, || worker.metrics.limit_hit("HANDSHAKES_MAX"), async {
            let start = StartHandshake::from_parts(hello.accepted, Ahead::new(stream));
            start.into_stream(config).await
        }));
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

/// Does `work` with a place wherever it computes, and without one while it waits. A place is free
/// again when the loop has gone round.
async fn paced<T>(places: &Semaphore, crowded: impl Fn(), work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if places.available_permits() == 0 {
            crowded();
        }
        // Never closed, so there is always a place in the end.
        let mut place = Some(places.acquire().await);
        let done = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        yield_now().await;
        if let Poll::Ready(done) = done {
            return done;
        }
        // What came meanwhile is computed with the same place, and whatever comes later wakes this
        // task, as `work` was polled last.
        let done = poll_fn(|cx| match place.take() {
            Some(_place) => work.as_mut().poll(cx).map(Some),
            None => Poll::Ready(None),
        });
        if let Some(done) = done.await {
            return done;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::sync::oneshot;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn whoever_waits_for_the_client_holds_no_place() {
        run(async {
            let places = Semaphore::new(1);
            let (answer, client) = oneshot::channel();
            let silent = paced(&places, || {}, client);
            let honest = async {
                // The silent one came first.
                yield_now().await;
                for number in 0..3 {
                    assert_eq!(paced(&places, || {}, async { number }).await, number);
                }
                answer.send("at last").expect("still waiting");
            };
            let (silent, ()) = tokio::join!(silent, honest);
            assert_eq!(silent, Ok("at last"));
            assert_eq!(places.available_permits(), 1);
        });
    }

    #[test]
    fn no_more_than_so_many_are_computed_in_one_turn() {
        run(async {
            let places = Semaphore::new(2);
            let (turn, crowded) = (Cell::new(0), Cell::new(0));
            let computed = RefCell::new(vec![0; 20]);
            let work = || async {
                computed.borrow_mut()[turn.get()] += 1;
            };
            let count = || crowded.set(crowded.get() + 1);
            let one = || paced(&places, count, work());
            let turns = async {
                for _ in 0..19 {
                    yield_now().await;
                    turn.set(turn.get() + 1);
                }
            };
            tokio::join!(biased; turns, one(), one(), one(), one(), one());
            let computed = computed.into_inner();
            assert!(computed.iter().all(|count| *count <= 2), "{computed:?}");
            assert_eq!((computed.iter().sum::<i32>(), crowded.get()), (5, 3));
        });
    }
}
