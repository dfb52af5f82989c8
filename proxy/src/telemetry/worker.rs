//! One worker's counters.
//!
//! A [`WorkerMetrics`] stays on the thread of its worker (it is not `Send`), so every method is a
//! few plain stores. Peers and rules are resolved through a map that only this worker touches;
//! [`WorkerMetrics::peer`] is asked once per connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use countersign_policy::RuleRef;

use super::breakers::Breakers;
use super::labels::{
    CacheUse, Direction, Flow, LocalCall, Lookup, PortClass, Protocol, RemovedFrom, StatusClass,
    Verdict,
};
use super::series::{
    ABSENT, Budget, DecisionKey, Family, Histograms, Index, PeerSeries, Reasons, RequestKey, Table,
};
use crate::clock::Now;

/// What a worker shares with the scrape.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) worker: usize,
    pub(crate) requests: Family<RequestKey>,
    pub(crate) durations: Histograms<RequestKey>,
    pub(crate) decisions: Family<DecisionKey>,
    pub(crate) refusals: Reasons<Direction>,
    pub(crate) minted: Reasons<()>,
    pub(crate) callers: Reasons<()>,
    pub(crate) local: Reasons<LocalCall>,
    pub(crate) verified: Reasons<()>,
    pub(crate) cache: Table<CacheUse>,
    pub(crate) lookup: Table<Lookup>,
    pub(crate) removed: Table<(Direction, RemovedFrom)>,
    pub(crate) handshakes: Reasons<Direction>,
    pub(crate) opened: Table<Direction>,
    pub(crate) closed: Table<Direction>,
    pub(crate) tcp_bytes: Table<(Direction, Flow)>,
    pub(crate) detect_timeout: Table<PortClass>,
    pub(crate) limits: Reasons<()>,
    pub(crate) loop_guard: Reasons<()>,
    pub(crate) retries: Reasons<()>,
    pub(crate) ended: Reasons<()>,
    /// Connections that outlive the certificates they were opened with.
    pub(crate) past_expiry: AtomicU64,
    pub(crate) breakers: Breakers,
    /// When the worker last said that its event loop turns, in ms; 0 before the first time.
    pub(crate) beat_ms: AtomicU64,
}

impl Shard {
    pub(crate) fn new(worker: usize, requests: Arc<Budget>, decisions: Arc<Budget>) -> Shard {
        Shard {
            worker,
            requests: Family::new(requests),
            durations: Histograms::new(),
            decisions: Family::new(decisions),
            refusals: Reasons::new(),
            minted: Reasons::new(),
            callers: Reasons::new(),
            local: Reasons::new(),
            verified: Reasons::new(),
            cache: Table::new(),
            lookup: Table::new(),
            removed: Table::new(),
            handshakes: Reasons::new(),
            opened: Table::new(),
            closed: Table::new(),
            tcp_bytes: Table::new(),
            detect_timeout: Table::new(),
            limits: Reasons::new(),
            loop_guard: Reasons::new(),
            retries: Reasons::new(),
            ended: Reasons::new(),
            past_expiry: AtomicU64::new(0),
            breakers: Breakers::default(),
            beat_ms: AtomicU64::new(0),
        }
    }
}

/// The handle a worker counts with.
#[derive(Debug)]
pub struct WorkerMetrics {
    shard: Arc<Shard>,
    peers: RefCell<Index<RequestKey>>,
    rules: RefCell<Index<DecisionKey>>,
}

impl WorkerMetrics {
    pub(crate) fn new(shard: Arc<Shard>) -> WorkerMetrics {
        let (peers, rules) = (RefCell::new(Index::new()), RefCell::new(Index::new()));
        WorkerMetrics { shard, peers, rules }
    }

    pub(super) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The series of a mesh peer by namespace and service account. Ask once per connection.
    pub fn peer(&self, namespace: &str, service_account: &str) -> PeerSeries {
        let mut peers = self.peers.borrow_mut();
        PeerSeries::new(peers.entry(&self.shard.requests, namespace, service_account))
    }

    /// The series of peers without a mesh identity.
    pub fn no_peer(&self) -> PeerSeries {
        self.peer(ABSENT, ABSENT)
    }

    /// A response head went out after `duration`; status 0 means that there was no response.
    pub fn request(
        &self,
        direction: Direction,
        protocol: Protocol,
        status: u16,
        peer: &PeerSeries,
        duration: Duration,
    ) {
        let key = (direction, protocol, StatusClass::of(status));
        peer.entry.add(key);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.shard.durations.observe(key, micros);
    }

    /// A request was refused; `reason` is a name of the refusal table.
    pub fn refusal(&self, direction: Direction, reason: &'static str) {
        self.shard.refusals.add(direction, reason);
    }

    /// Policy decided, by this rule if one did.
    pub fn decision(&self, direction: Direction, verdict: Verdict, rule: Option<&RuleRef>) {
        let Some(rule) = rule else {
            return self.decision_by(direction, verdict, ABSENT, ABSENT);
        };
        // The id is `namespace/policy/rule`; without its last part it names the policy.
        let policy = rule.id().strip_suffix(rule.rule.as_str()).unwrap_or_default();
        let policy = policy.strip_suffix('/').unwrap_or(policy);
        self.decision_by(direction, verdict, policy, &rule.rule);
    }

    pub(super) fn decision_by(
        &self,
        direction: Direction,
        verdict: Verdict,
        policy: &str,
        rule: &str,
    ) {
        let entry = self.rules.borrow_mut().entry(&self.shard.decisions, policy, rule);
        entry.add((direction, verdict));
    }

    /// A context token was minted (`ok`) or why not.
    pub fn context_minted(&self, result: &'static str) {
        self.shard.minted.add((), result);
    }

    /// A caller outside the mesh was taken for whom its token names (`ok`), or why not.
    pub fn caller_token(&self, result: &'static str) {
        self.shard.callers.add((), result);
    }

    /// A call of the app to the local API: `ok`, or why it was refused.
    pub fn local_call(&self, call: LocalCall, result: &'static str) {
        self.shard.local.add(call, result);
    }

    /// A context token was verified (`ok`) or why it was refused.
    pub fn context_verified(&self, result: &'static str) {
        self.shard.verified.add((), result);
    }

    /// The cache of verified tokens was asked.
    pub fn cache(&self, outcome: CacheUse) {
        self.shard.cache.add(outcome, 1);
    }

    /// How the context of an outbound request was found.
    pub fn lookup(&self, outcome: Lookup) {
        self.shard.lookup.add(outcome, 1);
    }

    /// `count` reserved fields were removed.
    pub fn reserved_removed(&self, direction: Direction, from: RemovedFrom, count: u64) {
        if count > 0 {
            self.shard.removed.add((direction, from), count);
        }
    }

    /// A TLS handshake ended: `ok` or a reason.
    pub fn handshake(&self, direction: Direction, result: &'static str) {
        self.shard.handshakes.add(direction, result);
    }

    /// Bytes of an opaque connection were moved.
    pub fn tcp_bytes(&self, direction: Direction, flow: Flow, count: u64) {
        self.shard.tcp_bytes.add((direction, flow), count);
    }

    /// The first bytes of a connection to this port did not tell its protocol in time.
    pub fn detect_timeout(&self, port: u16) {
        self.shard.detect_timeout.add(PortClass::of(port), 1);
    }

    /// A limit ended or refused something; `limit` is its name in the limits file.
    pub fn limit_hit(&self, limit: &'static str) {
        self.shard.limits.add((), limit);
    }

    /// A connection was closed unread, because of what it was addressed to.
    pub fn loop_guard(&self, reason: &'static str) {
        self.shard.loop_guard.add((), reason);
    }

    /// A request was sent again.
    pub fn retry(&self, reason: &'static str) {
        self.shard.retries.add((), reason);
    }

    /// A connection was opened; it counts as open until the value is dropped.
    pub fn connection(self: &Rc<Self>, direction: Direction) -> OpenConnection {
        self.shard.opened.add(direction, 1);
        OpenConnection { metrics: Rc::clone(self), direction }
    }

    /// A connection or stream was ended because its reason had gone.
    pub fn ended(&self, reason: &'static str) {
        self.shard.ended.add((), reason);
    }

    /// How many connections outlive the certificates they were opened with.
    pub fn past_expiry(&self, count: usize) {
        self.shard.past_expiry.store(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }

    /// The event loop turns. Called about once a second.
    pub fn beat(&self, now: Now) {
        self.shard.beat_ms.store(now.millis(), Relaxed);
    }
}

/// An open connection in the gauge.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Rc<WorkerMetrics>,
    direction: Direction,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.shard.closed.add(self.direction, 1);
    }
}
