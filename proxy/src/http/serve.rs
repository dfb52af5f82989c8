//! Drives one server connection: HTTP/1.1 behind the head check, or HTTP/2, until it ends by
//! itself, at its deadline, or at drain.
//!
//! Invariant: an ending connection finishes what it has begun: HTTP/1.1 answers with
//! `Connection: close`, HTTP/2 sends GOAWAY, and only the grace's end cuts.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::limits;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadGuarded, HeadLimits, refusal_bytes};
use crate::worker::LocalExecutor;

/// When a connection must end although nobody closed it.
pub struct Ending {
    /// Drain of the whole process.
    pub drain: CancellationToken,
    /// Wall-clock second at which the reason for the connection ends, such as a certificate.
    pub not_after: Option<u64>,
    /// Age at which it ends anyway.
    pub age: Duration,
}

impl Ending {
    /// Waits for the first of the three. The wall clock is compared once a second, so a suspended
    /// machine does not extend a connection.
    async fn reached(&self) {
        let until_certificate = async {
            let Some(not_after) = self.not_after else { return std::future::pending().await };
            while Now::read().secs() < not_after {
                let left = not_after.saturating_sub(Now::read().secs());
                tokio::time::sleep(Duration::from_secs(left.clamp(1, 30))).await;
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = until_certificate => {}
            () = tokio::time::sleep(self.age) => {}
        }
    }
}

/// Answers the requests of one connection.
pub trait Exchange: 'static {
    /// One request, one response; refusals are responses too.
    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ProxyBody>>;

    /// A head was refused before it became a request; the guard answered with `id`.
    fn head_refused(&self, error: HeadError, id: DecisionId);

    /// A decision id for a head that is about to be refused.
    fn next_id(&self) -> DecisionId;

    /// The limits of request heads.
    fn head_limits(&self) -> HeadLimits;
}

/// Serves HTTP/1.1; `seen` are bytes already read from `io`.
pub async fn http1<IO, X>(io: IO, seen: Bytes, exchange: Rc<X>, ending: &Ending)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    X: Exchange,
{
    let (guarded, monitor) = HeadGuarded::new(io, seen, exchange.head_limits());
    let id = exchange.next_id();
    let guarded = guarded.answering(Box::new(move |error| refusal_bytes(error, Some(id))));
    let service = {
        let exchange = Rc::clone(&exchange);
        service_fn(move |request| {
            let exchange = Rc::clone(&exchange);
            async move { Ok::<_, Infallible>(exchange.handle(request).await) }
        })
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(Duration::from_millis(limits::H1_IDLE_MS_MAX))
        .max_header_size(limits::H1_HEAD_BYTES_MAX)
        .half_close(true);
    let connection = builder.serve_connection(TokioIo::new(guarded), service);
    let graceful = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
    drive(connection, graceful, ending).await;
    if let Some(error) = monitor.violation() {
        exchange.head_refused(error, id);
    }
}

/// Serves HTTP/2 with prior knowledge.
pub async fn http2<IO, X>(io: IO, exchange: Rc<X>, ending: &Ending)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    X: Exchange,
{
    let service = service_fn(move |request| {
        let exchange = Rc::clone(&exchange);
        async move { Ok::<_, Infallible>(exchange.handle(request).await) }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits::H2_STREAMS_MAX)
        .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::H2_CONN_WINDOW_BYTES)
        .max_frame_size(limits::H2_FRAME_BYTES_MAX)
        .max_header_list_size(limits::H2_HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(limits::H2_RESET_PENDING_MAX)
        .max_local_error_reset_streams(limits::H2_LOCAL_RESET_MAX)
        .max_send_buf_size(limits::H2_SEND_BUF_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(limits::H2_PING_MS))
        .keep_alive_timeout(Duration::from_millis(limits::H2_PING_TIMEOUT_MS));
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let graceful = |connection: Pin<&mut http2::Connection<_, _, LocalExecutor>>| {
        connection.graceful_shutdown()
    };
    drive(connection, graceful, ending).await;
}

async fn drive<C>(connection: C, graceful: impl Fn(Pin<&mut C>), ending: &Ending)
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = ending.reached() => {
            graceful(connection.as_mut());
            let grace = Duration::from_millis(limits::DEADLINE_GRACE_MS_MAX);
            tokio::time::timeout(grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
