//! Drives one server connection: HTTP/1.1 behind the head check, or HTTP/2, until it ends by
//! itself, at its deadline, or at drain.
//!
//! Invariant: an ending connection finishes what it has begun: HTTP/1.1 answers with
//! `Connection: close`, HTTP/2 sends GOAWAY, and only the grace's end cuts.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_config::{Limits, ProxyConfig, limits};
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::audit::DecisionId;
use crate::http::body::ProxyBody;
use crate::http::gathered::Gathered;
use crate::http::head::{HeadError, HeadGuarded, HeadLimits, HeadMonitor, refusal_bytes};
use crate::http::nap::{Napping, Patience};
use crate::http::streams::Streams;
use crate::http::upgrade::Tunnel;
use crate::registry::{EndReason, Registered};

/// The end of the process as its connections see it, and the limits they live by.
#[derive(Clone)]
pub struct Drain {
    /// Connections say good-bye; new ones are still accepted.
    leave: CancellationToken,
    /// Nothing is accepted any more.
    stop: CancellationToken,
    config: Arc<ProxyConfig>,
}

impl Drain {
    /// Nothing ends yet.
    pub fn new(config: Arc<ProxyConfig>) -> Drain {
        Drain { leave: CancellationToken::new(), stop: CancellationToken::new(), config }
    }

    /// Connections end when it suits them; whoever still comes is served. Set once, never unset.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Ends it: set once, never unset.
    pub fn cancel(&self) {
        self.leave.cancel();
        self.stop.cancel();
    }

    /// Whether connections are to end.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Whether nothing is accepted any more.
    pub fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until connections are to end.
    pub async fn leaving(&self) {
        self.leave.cancelled().await;
    }

    /// Waits until nothing is accepted any more.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// Time between the announcement of a drain and the first good-bye.
    pub fn delay_ms(&self) -> u64 {
        self.limits().drain_delay_ms
    }

    /// Time open requests get at most.
    pub fn most_ms(&self) -> u64 {
        self.limits().drain_ms_max
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }
}

/// When a connection must end although nobody closed it.
#[derive(Clone)]
pub struct Ending {
    /// Drain of the process, or of this direction.
    pub drain: Drain,
    /// Its place in the registry, which tells it when its reason is gone.
    pub registered: Option<Rc<Registered>>,
    /// Age at which it ends anyway.
    pub age: Duration,
}

/// How a connection says good-bye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// With the process: what is open goes on until nothing is accepted any more, and then for as
    /// long as the drain lasts.
    Drain,
    /// At a deadline of its own.
    Deadline,
}

impl Ending {
    /// Waits for the first reason to end that leaves time for what is open.
    pub(crate) async fn reached(&self) -> Leave {
        let ended = async {
            match &self.registered {
                Some(registered) => registered.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain.leaving() => Leave::Drain,
            _ = ended => Leave::Deadline,
            () = tokio::time::sleep(self.age) => Leave::Deadline,
        }
    }

    /// Waits until open requests have had their time.
    pub(crate) async fn over(&self, leave: Leave) {
        match leave {
            Leave::Drain => {
                self.drain.cancelled().await;
                let most = self.drain.limits().drain_ms_max;
                tokio::time::sleep(Duration::from_millis(most)).await;
            }
            Leave::Deadline => {
                tokio::time::sleep(Duration::from_millis(limits::DEADLINE_GRACE_MS_MAX)).await;
            }
        }
    }

    /// Waits until nothing may go on.
    pub(crate) async fn cut(&self) -> EndReason {
        match &self.registered {
            Some(registered) => registered.cut().await,
            None => std::future::pending().await,
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

    /// Whether HTTP/1 header names keep the case they were written in; it costs allocations.
    fn keeps_header_case(&self) -> bool {
        false
    }
}

/// A connection that is being served. Boxed, so that who accepts connections keeps room for the
/// protocol that came, not for the largest of all.
pub type Serving<'e> = Pin<Box<dyn Future<Output = ()> + 'e>>;

const PATIENCE: Patience = Patience {
    awake: Duration::from_millis(limits::H1_AWAKE_MS_MIN),
    idle: Duration::from_millis(limits::H1_IDLE_MS_MAX),
};

/// Serves HTTP/1.1; `seen` are bytes already read from `io`. What a request switched the connection
/// to is carried here too, so that it counts as the connection it is.
pub fn http1<IO, X>(io: IO, seen: Bytes, exchange: Rc<X>, ending: &Ending) -> Serving<'_>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    X: Exchange,
{
    Box::pin(serve_http1(io, seen, exchange, ending))
}

async fn serve_http1<IO, X>(io: IO, seen: Bytes, exchange: Rc<X>, ending: &Ending)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    X: Exchange,
{
    let (guarded, monitor) = HeadGuarded::new(io, seen, exchange.head_limits());
    let id = exchange.next_id();
    let guarded = guarded.answering(Box::new(move |error| refusal_bytes(error, Some(id))));
    let first = First::default();
    let tunnel: Rc<RefCell<Option<Tunnel>>> = Rc::default();
    let service = {
        let (exchange, first) = (Rc::clone(&exchange), first.clone());
        // Shared: a clone of its tokens takes their locks, for every request.
        let (drain, monitor) = (Rc::new(ending.drain.clone()), monitor.clone());
        let tunnel = Rc::clone(&tunnel);
        service_fn(move |request| {
            first.came();
            let (exchange, drain) = (Rc::clone(&exchange), Rc::clone(&drain));
            let (monitor, tunnel) = (monitor.clone(), Rc::clone(&tunnel));
            // Boxed, because hyper keeps room for one such future as long as the connection lives.
            Box::pin(async move {
                let mut response = exchange.handle(request).await;
                if let Some(begun) = response.body_mut().take_tunnel() {
                    return Ok(switch(response, begun, &monitor, &tunnel));
                }
                // hyper says so only in responses that begin after it was told.
                if drain.is_leaving() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            })
        })
    };
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .max_header_size(ending.drain.limits().h1_head_bytes_max)
        .preserve_header_case(exchange.keeps_header_case())
        .half_close(true);
    {
        // Gone before the tunnel begins: of one that broke off hyper would keep the half of the
        // upgrade, and the tunnel would wait for it for ever.
        let connection = Napping::new((guarded, monitor.clone()), builder, service, PATIENCE);
        let connection = std::pin::pin!(connection);
        let graceful = |mut connection: Pin<&mut Napping<_, _>>| connection.leave();
        drive(connection, graceful, ending, &first, None).await;
    }
    if let Some(error) = monitor.violation() {
        exchange.head_refused(error, id);
    }
    let tunnel = tunnel.take();
    if let Some(tunnel) = tunnel {
        // Boxed: hardly any connection ends as one, and each would keep room for it.
        Box::pin(tunnel.run(ending)).await;
    }
}

/// The head check steps aside and the tunnel waits for the head to be written. Bytes that came
/// before the answer and were refused can be part of nothing.
fn switch(
    mut response: Response<ProxyBody>,
    begun: Tunnel,
    monitor: &HeadMonitor,
    tunnel: &RefCell<Option<Tunnel>>,
) -> Response<ProxyBody> {
    if monitor.violation().is_some() {
        response = Response::new(ProxyBody::Empty);
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    monitor.stop();
    tunnel.replace(Some(begun));
    response
}

/// Serves HTTP/2 with prior knowledge.
pub fn http2<IO, X>(io: IO, exchange: Rc<X>, ending: &Ending) -> Serving<'_>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    X: Exchange,
{
    Box::pin(serve_http2(io, exchange, ending))
}

async fn serve_http2<IO, X>(io: IO, exchange: Rc<X>, ending: &Ending)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    X: Exchange,
{
    let first = First::default();
    let service = {
        let first = first.clone();
        let ending = Rc::new(ending.clone());
        service_fn(move |request| {
            first.came();
            let (exchange, ending) = (Rc::clone(&exchange), Rc::clone(&ending));
            async move {
                let head = request.method() == Method::HEAD;
                // Boxed: the stream is moved about before it runs, and all of this with it.
                let mut response = Box::pin(exchange.handle(request)).await;
                if head {
                    response.body_mut().omit();
                }
                if let Some(tunnel) = response.body_mut().take_tunnel() {
                    // Its stream counts as one of this connection, which goes on beside it.
                    tokio::task::spawn_local(async move { tunnel.run(&ending).await });
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let set = ending.drain.limits();
    let mut builder =
        http2::Builder::new(Streams::new(Duration::from_millis(set.body_idle_ms_max)));
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(set.h2_streams_max)
        .initial_stream_window_size(limits::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(set.h2_conn_window_bytes())
        .max_frame_size(limits::H2_FRAME_BYTES_MAX)
        .max_header_list_size(set.h2_header_list_bytes_max)
        .max_pending_accept_reset_streams(limits::H2_RESET_PENDING_MAX)
        .max_local_error_reset_streams(limits::H2_LOCAL_RESET_MAX)
        .max_send_buf_size(limits::H2_SEND_BUF_BYTES_MAX)
        .keep_alive_interval(Duration::from_millis(limits::H2_PING_MS))
        .keep_alive_timeout(Duration::from_millis(limits::H2_PING_TIMEOUT_MS));
    let connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(Gathered::new(io)), service));
    let graceful =
        |connection: Pin<&mut http2::Connection<_, _, Streams>>| connection.graceful_shutdown();
    // HTTP/1 has its own clock for heads; here a silent connection would last for its whole age.
    let silent = Duration::from_millis(set.h1_head_ms_max);
    drive(connection, graceful, ending, &first, Some(silent)).await;
}

/// Whether a connection has brought its first request.
#[derive(Clone, Default)]
struct First(Rc<(Cell<bool>, Notify)>);

impl First {
    fn came(&self) {
        if !self.0.0.replace(true) {
            self.0.1.notify_one();
        }
    }

    fn has_come(&self) -> bool {
        self.0.0.get()
    }

    async fn waited(&self) {
        while !self.has_come() {
            self.0.1.notified().await;
        }
    }

    /// Ready when the first request is overdue; never once it has come.
    async fn overdue(&self, limit: Option<Duration>) {
        if let Some(limit) = limit {
            tokio::time::sleep(limit).await;
            if !self.has_come() {
                return;
            }
        }
        std::future::pending().await
    }
}

/// A connection accepted a moment before the end gets this long to bring its first request, so that
/// a client which connected in time is answered rather than reset.
const FIRST_REQUEST: Duration = Duration::from_millis(limits::DRAIN_FIRST_REQUEST_MS_MAX);

async fn drive<C>(
    mut connection: Pin<&mut C>,
    graceful: impl Fn(Pin<&mut C>),
    ending: &Ending,
    first: &First,
    silent: Option<Duration>,
) where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        biased;
        () = live(connection.as_mut(), graceful, ending, first, silent) => {}
        reason = ending.cut() => tracing::info!(reason = reason.text(), "connection cut"),
    }
}

/// Drives a connection until it ends by itself or has had its time.
async fn live<C>(
    mut connection: Pin<&mut C>,
    graceful: impl Fn(Pin<&mut C>),
    ending: &Ending,
    first: &First,
    silent: Option<Duration>,
) where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let leave = tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        leave = ending.reached() => Some(leave),
        () = first.overdue(silent) => None,
    };
    // hyper closes a connection at once that has read nothing yet; what the client has sent may be
    // on its way.
    if leave.is_some() && !first.has_come() {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return log_end(ended),
            () = first.waited() => {}
            () = tokio::time::sleep(FIRST_REQUEST) => {}
        }
    }
    graceful(connection.as_mut());
    if !first.has_come() {
        let ended = tokio::time::timeout(FIRST_REQUEST, connection.as_mut()).await;
        match ended {
            Ok(ended) => return log_end(ended),
            Err(_) if !first.has_come() => return,
            Err(_) => {}
        }
    }
    let Some(leave) = leave else { return };
    tokio::select! {
        biased;
        ended = connection => log_end(ended),
        () = ending.over(leave) => {}
    }
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
#[path = "../tests/serve.rs"]
mod tests;
