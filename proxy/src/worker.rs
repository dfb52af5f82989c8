//! One worker: a thread with its own runtime, listeners, pools, caches and counters.
//!
//! Invariant: workers share the snapshot, the context index and the audit queue, and nothing else;
//! no request waits for another worker or for the control thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_config::{ProxyConfig, limits};
use countersign_ctxtoken::TokenCache;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::WhyRing;
use crate::audit::{AuditSink, DecisionId};
use crate::clock::Now;
use crate::context_index::{ContextIndex, Propagation};
use crate::failures::Failures;
use crate::gateway::provider_keys::KeysReader;
use crate::gateway::user_cache::UserCache;
use crate::intercept::listen;
use crate::live::{Live, Snapshot};
use crate::random::Random;
use crate::telemetry::WorkerMetrics;
use crate::upstream::pool::Pool;
use crate::{gateway, inbound, outbound};

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// The configuration of this process.
    pub config: Arc<ProxyConfig>,
    /// The snapshot in force.
    pub live: Arc<Live>,
    /// How onward calls find their context.
    pub propagation: Propagation,
    /// Contexts of open inbound requests.
    pub contexts: Arc<ContextIndex>,
    /// Where records go.
    pub audit: AuditSink,
    /// Recent decisions, for `why`.
    pub why: WhyRing,
    /// Keys of identity providers.
    pub provider_keys: KeysReader,
    /// Tag of this process in decision ids.
    pub tag: u16,
    /// Connections one worker may hold.
    pub conns_per_worker_max: usize,
    /// Set once: stop accepting, finish what is open.
    pub drain: CancellationToken,
}

/// One worker's state.
pub struct Worker {
    /// What all workers share.
    pub shared: Shared,
    /// Connections of this worker.
    pub pool: Pool,
    /// Counters of this worker.
    pub metrics: Rc<WorkerMetrics>,
    /// This worker's lane to the audit writer.
    pub audit: AuditSink,
    /// Users whose tokens this worker has verified.
    pub users: RefCell<UserCache>,
    /// Bad tokens per peer.
    pub failures: RefCell<Failures>,
    /// Tokens this worker has verified.
    pub tokens: RefCell<TokenCache>,
    random: RefCell<Random>,
    in_flight: Rc<Cell<usize>>,
    connections: Cell<usize>,
}

/// One request's place under the in-flight cap; freed when its response body ended.
pub struct InFlight(Rc<Cell<usize>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Spawns futures of HTTP/2 connections on this worker's thread.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

impl Worker {
    /// A worker with nothing open.
    pub fn new(shared: Shared, metrics: Rc<WorkerMetrics>) -> Worker {
        let audit = shared.audit.for_worker();
        Worker {
            audit,
            users: RefCell::default(),
            failures: RefCell::default(),
            pool: Pool::new(&shared.config.limits),
            metrics,
            tokens: RefCell::new(TokenCache::new(&crate::live::token_limits())),
            random: RefCell::new(Random::new()),
            in_flight: Rc::new(Cell::new(0)),
            connections: Cell::new(0),
            shared,
        }
    }

    /// The snapshot in force. Taken once per request.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.live.load()
    }

    /// Fresh randomness.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        self.random.borrow_mut().bytes()
    }

    /// A new decision id.
    pub fn decision_id(&self, now: Now) -> DecisionId {
        DecisionId::new(now, self.shared.tag, u64::from_ne_bytes(self.random()))
    }

    /// A place under the in-flight cap, if there is one.
    pub fn admit(&self) -> Option<InFlight> {
        if self.in_flight.get() >= self.shared.config.limits.inflight_max {
            self.metrics.limit_hit("INFLIGHT_MAX");
            return None;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Some(InFlight(Rc::clone(&self.in_flight)))
    }

    /// Requests in flight, for drain.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Counts a connection in or out.
    fn track(&self, change: isize) {
        self.connections.set(self.connections.get().saturating_add_signed(change));
    }
}

/// The listening sockets of one worker, already bound.
#[derive(Default)]
pub struct Sockets {
    /// Inbound listeners, with the app each one stands for.
    pub inbound: Vec<(std::net::TcpListener, inbound::accept::Listener)>,
    /// Outbound listeners.
    pub outbound: Vec<(std::net::TcpListener, outbound::accept::Listener)>,
    /// Gateway listeners.
    pub gateway: Vec<(std::net::TcpListener, Arc<gateway::accept::Listener>)>,
}

/// Runs a worker until drained.
pub async fn run(worker: Rc<Worker>, sockets: Sockets) {
    let mut accepting = Vec::new();
    for (socket, listener) in sockets.inbound {
        let listener = Rc::new(listener);
        accepting.push(spawn_accept(&worker, socket, move |worker, stream, from| {
            inbound::accept::connection(worker, Rc::clone(&listener), stream, from)
        }));
    }
    for (socket, listener) in sockets.outbound {
        let listener = Rc::new(listener);
        accepting.push(spawn_accept(&worker, socket, move |worker, stream, from| {
            outbound::accept::connection(worker, Rc::clone(&listener), stream, from)
        }));
    }
    for (socket, listener) in sockets.gateway {
        accepting.push(spawn_accept(&worker, socket, move |worker, stream, from| {
            gateway::accept::connection(worker, Arc::clone(&listener), stream, from)
        }));
    }
    let upkeep = tokio::task::spawn_local(upkeep(Rc::clone(&worker)));
    worker.shared.drain.cancelled().await;
    for task in accepting {
        let _ = task.await;
    }
    finish(&worker).await;
    upkeep.abort();
}

/// Accepts until drain, then empties the kernel's queue so that no queued client is reset.
fn spawn_accept<F, Fut>(
    worker: &Rc<Worker>,
    socket: std::net::TcpListener,
    serve: F,
) -> tokio::task::JoinHandle<()>
where
    F: Fn(Rc<Worker>, tokio::net::TcpStream, std::net::SocketAddr) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(code = "DP-02", %error, "a listener could not be started");
                return;
            }
        };
        let drain = worker.shared.drain.clone();
        let mut queued_left = limits::LISTEN_BACKLOG_MAX;
        loop {
            let accepted = if drain.is_cancelled() {
                queued_left -= 1;
                let queued = listen::accept(&listener).now_or_never();
                let Some(queued) = queued.filter(|_| queued_left > 0) else { return };
                queued
            } else {
                tokio::select! {
                    accepted = listen::accept(&listener) => accepted,
                    () = drain.cancelled() => continue,
                }
            };
            match accepted {
                Ok((stream, from)) => {
                    spawn_connection(&worker, serve(Rc::clone(&worker), stream, from))
                }
                Err(error) => {
                    tracing::error!(code = "DP-03", %error, "the accept loop ended");
                    worker.shared.drain.cancel();
                    return;
                }
            }
            if worker.connections.get() >= worker.shared.conns_per_worker_max {
                worker.metrics.limit_hit("CONNS_MAX");
                wait_for_room(&worker).await;
            }
        }
    })
}

fn spawn_connection(worker: &Rc<Worker>, serve: impl Future<Output = ()> + 'static) {
    worker.track(1);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        serve.await;
        worker.track(-1);
    });
}

/// At the cap the loop stops accepting; the kernel's queue holds the newcomers.
async fn wait_for_room(worker: &Worker) {
    while worker.connections.get() >= worker.shared.conns_per_worker_max
        && !worker.shared.drain.is_cancelled()
    {
        tokio::time::sleep(Duration::from_millis(limits::ACCEPT_BACKOFF_MS_MIN)).await;
    }
}

/// Waits until every connection ended or the drain time is over.
async fn finish(worker: &Worker) {
    let until = Instant::now() + Duration::from_millis(worker.shared.config.limits.drain_ms_max);
    while worker.connections.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if worker.connections.get() > 0 {
        tracing::warn!(code = "DP-04", open = worker.connections.get(), "drain time is over");
    }
}

async fn upkeep(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let generation = worker.snapshot().certs_generation();
        worker.pool.sweep(generation, Instant::now());
        worker.metrics.beat(Now::read());
    }
}
