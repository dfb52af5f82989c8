//! What one worker knows of each endpoint: requests in flight, and whether it is left alone.
//!
//! Invariant: what is known belongs to address and expected identity together, so a new owner of an
//! address starts without the old one's record.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_config::limits::{ENDPOINT_LOOK_MS, ENDPOINTS_KNOWN_MAX, SWEEP_BATCH_MAX};

use crate::telemetry::{BreakerOpen, WorkerMetrics};
use crate::upstream::balance::{self, View};
use crate::upstream::breaker::{self, Breaker, Change, Failure};
use crate::upstream::opening::Count;
use crate::upstream::rounds::Rounds;
use crate::upstream::target::EndpointKey;

/// After which what is known of an unused endpoint is forgotten: later than any breaker is open for.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// Holders of the record of an endpoint that nobody uses: the table, and what waits for its look.
const OWN_HOLDERS: usize = 2;

/// One endpoint.
#[derive(Default)]
pub struct Endpoint {
    /// Requests that hold a connection to it or wait for one.
    pub(super) in_flight: Rc<Cell<u32>>,
    /// Connections being opened, one for one request.
    pub(super) opening: Rc<Cell<u32>>,
    breaker: RefCell<Breaker>,
    /// Shows the open breaker in the metrics.
    shown: RefCell<Option<BreakerOpen>>,
    unused_since: Cell<Option<Instant>>,
}

/// All endpoints of one worker.
pub struct Endpoints {
    known: RefCell<HashMap<EndpointKey, Rc<Endpoint>>>,
    /// Each of them, as it comes up to be forgotten.
    looks: RefCell<Rounds<(EndpointKey, Rc<Endpoint>)>>,
    /// How many are known before those nothing is known of go, without waiting for a sweep.
    full_at: Cell<usize>,
}

impl Default for Endpoints {
    fn default() -> Endpoints {
        Endpoints {
            known: RefCell::default(),
            looks: RefCell::new(Rounds::every(ENDPOINT_LOOK_MS)),
            full_at: Cell::new(ENDPOINTS_KNOWN_MAX),
        }
    }
}

/// One request at one endpoint; says in the end how it went. Dropped without a word it says
/// nothing about the endpoint.
pub struct Visit {
    endpoint: Rc<Endpoint>,
    ticket: Option<breaker::Ticket>,
}

impl Endpoints {
    /// The endpoint of a key.
    pub fn of(&self, key: &EndpointKey) -> Rc<Endpoint> {
        if let Some(known) = self.known.borrow().get(key) {
            return Rc::clone(known);
        }
        if self.known.borrow().len() >= self.full_at.get() {
            self.make_room();
        }
        let endpoint = Rc::new(Endpoint::default());
        self.known.borrow_mut().insert(key.clone(), Rc::clone(&endpoint));
        let waits = (key.clone(), Rc::clone(&endpoint));
        self.looks.borrow_mut().enter(waits, Instant::now());
        endpoint
    }

    /// Picks one of `count` endpoints; `None` when each is excluded.
    pub fn pick(
        &self,
        count: usize,
        random: u64,
        now: Instant,
        key: impl Fn(usize) -> Option<EndpointKey>,
    ) -> Option<usize> {
        let known = self.known.borrow();
        balance::pick(count, random, |at| match key(at) {
            None => View::Excluded,
            Some(key) => known.get(&key).map_or(View::Free(0), |endpoint| endpoint.view(now)),
        })
    }

    /// How many of `keys` are left alone.
    pub fn open(&self, keys: impl Iterator<Item = EndpointKey>) -> usize {
        let known = self.known.borrow();
        let open = |key: &EndpointKey| known.get(key).is_some_and(|e| !e.breaker().is_closed());
        keys.filter(open).count()
    }

    /// Forgets what is as if it had never been used. Beyond the bound stay those in use, which
    /// other bounds count, and those with failures; looked at again when they have doubled.
    fn make_room(&self) {
        let mut known = self.known.borrow_mut();
        known.retain(|_, endpoint| endpoint.is_used() || !endpoint.breaker().is_new());
        self.looks.borrow_mut().retain(|(key, _)| known.contains_key(key));
        self.full_at.set(ENDPOINTS_KNOWN_MAX.max(known.len().saturating_mul(2)));
    }

    /// Forgets endpoints nobody has used for a while, as far as their look is due. Whether more is
    /// due.
    pub fn sweep(&self, now: Instant) -> bool {
        let (mut known, mut looks) = (self.known.borrow_mut(), self.looks.borrow_mut());
        for _ in 0..SWEEP_BATCH_MAX {
            let Some((key, endpoint)) = looks.due(now) else {
                if known.len() < ENDPOINTS_KNOWN_MAX {
                    self.full_at.set(ENDPOINTS_KNOWN_MAX);
                }
                return false;
            };
            let crowded = known.len() >= ENDPOINTS_KNOWN_MAX;
            if endpoint.is_kept(now, crowded) {
                looks.enter((key, endpoint), now);
            } else {
                known.remove(&key);
            }
        }
        true
    }
}

impl Endpoint {
    fn breaker(&self) -> std::cell::Ref<'_, Breaker> {
        self.breaker.borrow()
    }

    /// Whether a request, a connection, or one that is being opened counts on it.
    fn is_used(self: &Rc<Endpoint>) -> bool {
        Rc::strong_count(self) > OWN_HOLDERS || self.in_flight.get() > 0 || self.opening.get() > 0
    }

    /// Whether there is a reason to remember it: where there are too many, only use and failures.
    fn is_kept(self: &Rc<Endpoint>, now: Instant, crowded: bool) -> bool {
        if self.is_used() {
            self.unused_since.set(None);
            return true;
        }
        let since = self.unused_since.get().unwrap_or(now);
        self.unused_since.set(Some(since));
        let spared = !crowded || !self.breaker().is_new();
        spared && now.saturating_duration_since(since) < FORGET_AFTER
    }

    fn view(&self, now: Instant) -> View {
        let load = self.in_flight.get();
        if self.breaker().admits(now) { View::Free(load) } else { View::Open(load) }
    }

    /// Counts a connection as one request in flight until the value is dropped.
    pub fn hold(&self) -> Count {
        Count::one(&self.in_flight)
    }

    /// A request goes there.
    pub fn visit(self: Rc<Endpoint>, now: Instant) -> Visit {
        let ticket = self.breaker.borrow_mut().begin(now);
        Visit { endpoint: self, ticket: Some(ticket) }
    }
}

impl Visit {
    /// Counts the connection at its endpoint until the value is dropped.
    pub fn hold(&self) -> Count {
        self.endpoint.hold()
    }

    /// The endpoint answered.
    pub fn succeeded(mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if self.endpoint.breaker.borrow_mut().succeeded(ticket) == Change::Closed {
            self.endpoint.shown.take();
        }
    }

    /// The endpoint did not do its part. `may_open` is asked only where that would open it.
    pub fn failed(
        mut self,
        failure: Failure,
        (now, jitter): (Instant, u16),
        (metrics, callee): (&Rc<WorkerMetrics>, &Arc<str>),
        may_open: impl FnOnce() -> bool,
    ) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut breaker = self.endpoint.breaker.borrow().clone();
        let change = breaker.failed(ticket, failure, now, jitter, may_open);
        *self.endpoint.breaker.borrow_mut() = breaker;
        if change == Change::Opened {
            tracing::warn!(code = "UP-01", %callee, reason = failure.reason(), "an endpoint is left alone");
            *self.endpoint.shown.borrow_mut() =
                Some(metrics.breaker_opened(callee, failure.reason()));
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.breaker.borrow_mut().abandoned(ticket, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;
    use crate::upstream::target::Who;

    fn key(number: usize) -> EndpointKey {
        let bits = u32::try_from(number).unwrap();
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), 80);
        EndpointKey { addr, who: Who::Plain }
    }

    #[test]
    fn endpoints_nothing_is_known_of_are_forgotten_beyond_the_bound() {
        let endpoints = Endpoints::default();
        let held = endpoints.of(&key(0)).hold();
        let visited = endpoints.of(&key(1));
        let ticket = visited.breaker.borrow_mut().begin(Instant::now());
        let mut breaker = visited.breaker.borrow_mut();
        _ = breaker.failed(ticket, Failure::Failed, Instant::now(), 0, || false);
        drop(breaker);
        drop(visited);
        for number in 2..3 * ENDPOINTS_KNOWN_MAX {
            endpoints.of(&key(number));
            assert!(endpoints.known.borrow().len() <= ENDPOINTS_KNOWN_MAX, "{number}");
        }
        assert_eq!(endpoints.of(&key(0)).in_flight.get(), 1, "what is in use stays");
        assert!(!endpoints.of(&key(1)).breaker().is_new(), "a failure is remembered");
        drop(held);
    }

    #[test]
    fn endpoints_in_use_stay_beyond_the_bound() {
        let endpoints = Endpoints::default();
        let held: Vec<_> =
            (0..=ENDPOINTS_KNOWN_MAX).map(|n| endpoints.of(&key(n)).hold()).collect();
        assert_eq!(endpoints.known.borrow().len(), held.len());
        drop(held);
        let known = || endpoints.known.borrow().len();
        let due = Instant::now() + Duration::from_millis(ENDPOINT_LOOK_MS);
        while endpoints.sweep(due) {
            assert_eq!(known(), endpoints.looks.borrow().len().max(known()), "each comes up once");
        }
        assert_eq!(known(), ENDPOINTS_KNOWN_MAX - 1, "those above the bound");
        while endpoints.sweep(due + FORGET_AFTER + FORGET_AFTER) {}
        assert_eq!((known(), endpoints.looks.borrow().len()), (0, 0));
    }

    #[test]
    fn a_turn_looks_at_a_share_of_what_is_due_and_at_nothing_else() {
        let endpoints = Endpoints::default();
        let number = 3 * SWEEP_BATCH_MAX;
        for number in 0..number {
            endpoints.of(&key(number));
        }
        let seen = || {
            let seen = |endpoint: &&Rc<Endpoint>| endpoint.unused_since.get().is_some();
            endpoints.known.borrow().values().filter(seen).count()
        };
        let begun = Instant::now();
        assert!(!endpoints.sweep(begun));
        assert_eq!(seen(), 0, "nothing is due");
        let due = begun + Duration::from_millis(ENDPOINT_LOOK_MS);
        for turn in 1..=3 {
            assert!(endpoints.sweep(due));
            assert_eq!(seen(), turn * SWEEP_BATCH_MAX);
        }
        assert!(!endpoints.sweep(due));
        assert_eq!(endpoints.looks.borrow().len(), number);
        assert_eq!(endpoints.known.borrow().len(), number, "not forgotten yet");
    }

    #[test]
    fn endpoints_forgotten_for_want_of_room_do_not_come_up_twice() {
        let endpoints = Endpoints::default();
        for number in 0..3 * ENDPOINTS_KNOWN_MAX {
            endpoints.of(&key(number));
            endpoints.of(&key(number / 2));
            assert_eq!(endpoints.looks.borrow().len(), endpoints.known.borrow().len());
        }
    }
}
