//! One worker: a thread with its own runtime, listeners, pools, caches and counters.
//!
//! Invariant: workers share the snapshot, the context index, the audit queue, the tokens that count
//! once and the counts of client addresses, and nothing else;
//! no request waits for another worker or for the control thread.

mod accept;
mod conns;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_config::{ProxyConfig, limits};
use countersign_ctxtoken::{TokenCache, VerifiedHops};
use tokio::sync::Semaphore;

use crate::admin::{Readiness, WhyRing};
use crate::audit::{AuditSink, DecisionId};
use crate::clock::Now;
use crate::context_index::{ContextIndex, Propagation};
use crate::failures::Failures;
use crate::gateway::attributes::Attributes;
use crate::gateway::callers::CallerCache;
use crate::gateway::callers::review::Reviews;
use crate::gateway::proofs::Proofs;
use crate::gateway::provider_keys::KeysReader;
use crate::gateway::sources::{Place, Sources};
use crate::gateway::user_cache::UserCache;
use crate::http::serve::Drain;
use crate::inbound::once::Once;
use crate::intercept::guard::OwnAddresses;
use crate::intercept::peek::Undetected;
use crate::intercept::probes::Probes;
use crate::intercept::ready;
use crate::issuers::publish::Published;
use crate::live::{Live, Snapshot};
use crate::random::Random;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::{EndReason, Registry};
use crate::relay::RelayLimits;
use crate::relay::buffers::Buffers;
use crate::signers::Signers;
use crate::telemetry::{Direction, WorkerMetrics};
use crate::tls::told::Told;
use crate::tokens::{Rates, Redeemed};
use crate::upstream::budget::Budget;
use crate::upstream::pool::Pool;
use crate::worker::accept::spawn_accept;
pub use crate::worker::conns::ConnsMax;
use crate::{gateway, inbound, local, outbound};

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
    /// What is missing, for readiness probes that come by the redirect.
    pub readiness: Readiness,
    /// Probes of the redirect on their way.
    pub probes: Arc<Probes>,
    /// Where records go.
    pub audit: AuditSink,
    /// Recent decisions, for `why`.
    pub why: WhyRing,
    /// Keys of identity providers.
    pub provider_keys: KeysReader,
    /// The public keys of our own tokens, for those who ask.
    pub published: Published,
    /// Asks the API server about callers' tokens.
    pub reviews: Reviews,
    /// What attribute providers say.
    pub attributes: Attributes,
    /// How often each workload asks for tokens.
    pub token_rates: Arc<Rates>,
    /// DPoP proofs that were used at the gateways, and nonces for them.
    pub proofs: Arc<Proofs>,
    /// How often each deferred grant was redeemed.
    pub redeemed: Arc<Redeemed>,
    /// Tokens that may be used once, and were.
    pub once: Arc<Once>,
    /// What each client address holds at the gateways.
    pub sources: Arc<Sources>,
    /// Tag of this process in decision ids.
    pub tag: u16,
    /// Connections one worker may hold.
    pub conns_per_worker_max: ConnsMax,
    /// Set once: stop accepting from outside this pod, finish what is open.
    pub drain: Drain,
    /// The same for the app's own calls; set when no worker serves anybody from outside any more.
    pub drain_outbound: Drain,
    /// Workers that still serve somebody from outside.
    pub entering: Arc<AtomicUsize>,
    /// Whether the process ends because something broke.
    pub failed: Arc<AtomicBool>,
}

impl Shared {
    /// Ends the process because something broke: exit code 1.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.drain.cancel();
    }
}

/// A worker's thread, from start to end; dropped however it ends.
pub struct Alive {
    shared: Shared,
    entering: bool,
}

impl Alive {
    /// For a thread that begins.
    pub fn new(shared: Shared) -> Alive {
        Alive { shared, entering: true }
    }

    /// Nobody from outside is served any more. After the last worker has said so, the app's own
    /// calls end too: requests in progress may have needed them, on any worker.
    fn nobody_entering(&mut self) {
        if std::mem::take(&mut self.entering)
            && self.shared.entering.fetch_sub(1, Ordering::Relaxed) <= 1
        {
            self.shared.drain_outbound.cancel();
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.shared.drain.is_cancelled() {
            tracing::error!(code = "DP-05", "a worker ended early");
            self.shared.fail();
        }
        self.nobody_entering();
    }
}

/// Who opens a connection.
#[derive(Clone, Copy)]
enum Side {
    /// Somebody outside the pod.
    Outside,
    /// The app.
    App,
}

/// One worker's state.
pub struct Worker {
    /// What all workers share.
    pub shared: Shared,
    /// Connections of this worker.
    pub pool: Pool,
    /// What lives on this worker and may lose its reason.
    pub registry: Registry,
    /// Counters of this worker.
    pub metrics: Rc<WorkerMetrics>,
    /// This worker's lane to the audit writer.
    pub audit: AuditSink,
    /// TLS handshakes this worker may compute in one turn of its loop.
    pub handshakes: Semaphore,
    /// Buffers of this worker's relays.
    pub buffers: Rc<Buffers>,
    /// Users whose tokens this worker has verified.
    pub users: RefCell<UserCache>,
    /// Callers outside the mesh whose tokens were verified a moment ago.
    pub callers: RefCell<CallerCache>,
    /// Bad tokens per peer.
    pub failures: RefCell<Failures>,
    /// Failed handshakes that were logged.
    pub told: RefCell<Told>,
    /// Those who sign hop records, as far as this worker knows their certificates.
    pub signers: RefCell<Signers>,
    /// Hop records this worker has verified.
    pub verified_hops: VerifiedHops,
    /// Tokens of other trust domains this worker has verified.
    pub foreign_tokens: RefCell<TokenCache>,
    /// Tokens this worker has verified.
    pub tokens: RefCell<TokenCache>,
    /// The pod's addresses, as far as this worker has met them.
    pub own_addresses: OwnAddresses,
    /// How many requests this worker may still send again.
    pub retries: RefCell<Budget>,
    /// Ports that nobody declares, as far as they were named in the log.
    pub undetected: Undetected,
    random: RefCell<Random>,
    in_flight: Rc<Cell<usize>>,
    connections: [Rc<Cell<usize>>; 2],
}

/// One request's place under the in-flight cap; freed when its response body ended.
pub struct InFlight {
    count: Rc<Cell<usize>>,
    _place: Option<Place>,
}

impl InFlight {
    /// Frees its client's place as well.
    #[must_use]
    pub fn holding(mut self, place: Place) -> InFlight {
        self._place = Some(place);
        self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

/// Spawns futures of HTTP/2 connections on this worker's thread.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Worker {
    /// A worker with nothing open.
    pub fn new(shared: Shared, metrics: Rc<WorkerMetrics>) -> Worker {
        let audit = shared.audit.for_worker();
        Worker {
            audit,
            handshakes: Semaphore::new(limits::HANDSHAKES_MAX),
            buffers: Rc::default(),
            users: RefCell::default(),
            callers: RefCell::default(),
            failures: RefCell::default(),
            told: RefCell::default(),
            pool: Pool::new(&shared.config.limits),
            registry: Registry::new(Rc::clone(&metrics)),
            metrics,
            signers: RefCell::default(),
            verified_hops: VerifiedHops::new(limits::HOPS_VERIFIED_MAX),
            tokens: RefCell::new(TokenCache::new(&crate::live::token_limits())),
            foreign_tokens: RefCell::new(TokenCache::new(&crate::live::token_limits())),
            own_addresses: OwnAddresses::default(),
            retries: RefCell::default(),
            undetected: Undetected::default(),
            random: RefCell::new(Random::new()),
            in_flight: Rc::new(Cell::new(0)),
            connections: Default::default(),
            shared,
        }
    }

    /// What a relay on this worker lives by; `direction` names its bytes in metrics.
    pub fn relay(&self, direction: Direction) -> RelayLimits {
        self.relay_limits().metered(&self.metrics, direction)
    }

    /// The same for bytes that are counted elsewhere.
    pub fn relay_limits(&self) -> RelayLimits {
        RelayLimits::new(&self.buffers, &self.shared.config.limits)
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

    /// A place under the in-flight cap.
    ///
    /// # Errors
    /// `overloaded` when there is none.
    pub fn admit(&self) -> Result<InFlight, Refused> {
        if self.in_flight.get() >= self.shared.config.limits.inflight_max {
            self.metrics.limit_hit("INFLIGHT_MAX");
            let detail = "too many requests in flight";
            return Err(Refused::new(Refusal::Overloaded, Stage::Accept, detail));
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Ok(InFlight { count: Rc::clone(&self.in_flight), _place: None })
    }

    /// Requests in flight, for drain.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    fn connections(&self, side: Side) -> &Rc<Cell<usize>> {
        let [outside, app] = &self.connections;
        match side {
            Side::Outside => outside,
            Side::App => app,
        }
    }

    /// Whether another connection may be accepted.
    fn has_room(&self, side: Side) -> bool {
        let max = match side {
            Side::Outside => self.shared.conns_per_worker_max.entering,
            Side::App => self.shared.conns_per_worker_max.outbound,
        };
        self.connections(side).get() < max
    }

    fn drain(&self, side: Side) -> &Drain {
        match side {
            Side::Outside => &self.shared.drain,
            Side::App => &self.shared.drain_outbound,
        }
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
    /// Where the app asks for contexts of messages and jobs.
    pub local: Vec<std::net::TcpListener>,
    /// Where readiness is asked; a worker that hangs does not answer.
    pub readiness: Option<std::net::TcpListener>,
}

/// Runs a worker until drained: first what comes from outside, then what the app calls.
pub async fn run(worker: Rc<Worker>, sockets: Sockets, mut alive: Alive) {
    let mut entering = Vec::new();
    for (socket, listener) in sockets.inbound {
        let listener = Rc::new(listener);
        entering.push(spawn_accept(&worker, Side::Outside, socket, move |worker, stream, from| {
            inbound::accept::connection(worker, Rc::clone(&listener), stream, from)
        }));
    }
    for (socket, listener) in sockets.gateway {
        entering.push(spawn_accept(&worker, Side::Outside, socket, move |worker, stream, from| {
            gateway::accept::connection(worker, Arc::clone(&listener), stream, from)
        }));
    }
    let mut leaving = Vec::new();
    for (socket, listener) in sockets.outbound {
        let listener = Rc::new(listener);
        leaving.push(spawn_accept(&worker, Side::App, socket, move |worker, stream, from| {
            outbound::accept::connection(worker, Rc::clone(&listener), stream, from)
        }));
    }
    for socket in sockets.local {
        leaving.push(spawn_accept(&worker, Side::App, socket, |worker, stream, _| {
            local::connection(worker, stream)
        }));
    }
    let upkeep = tokio::task::spawn_local(upkeep::run(Rc::clone(&worker)));
    if let Some(socket) = sockets.readiness {
        tokio::task::spawn_local(ready::serve(socket, worker.shared.readiness.clone()));
    }
    worker.shared.drain.cancelled().await;
    let until = Instant::now() + Duration::from_millis(worker.shared.config.limits.drain_ms_max);
    finish(&worker, Side::Outside, entering, until).await;
    alive.nobody_entering();
    worker.shared.drain_outbound.cancelled().await;
    finish(&worker, Side::App, leaving, until).await;
    upkeep.abort();
}

/// Waits until the listeners are closed and every connection ended, or the drain time is over.
async fn finish(
    worker: &Worker,
    side: Side,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    until: Instant,
) {
    for task in accepting {
        let _ = task.await;
    }
    let open = worker.connections(side);
    while open.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if open.get() > 0 {
        tracing::warn!(code = "DP-04", open = open.get(), "drain time is over");
        worker.registry.end_all(EndReason::Drain);
        // What is cut gets a turn to leave its record.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_and_app_have_connections_of_their_own() {
        let share = |all, entering, outbound| {
            let max = ConnsMax::share(all, entering, outbound);
            (max.entering, max.outbound)
        };
        assert_eq!(share(100, true, true), (75, 25));
        assert_eq!(share(100, true, false), (100, 1));
        assert_eq!(share(100, false, true), (1, 100));
        assert_eq!(share(1, true, true), (1, 1));
    }
}
