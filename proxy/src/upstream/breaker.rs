//! When an endpoint is left alone: the circuit breaker, a state machine without clock or I/O.
//!
//! Invariant: while open at most one request at a time probes, and only what began after it opened
//! can close it; an answer to an older request says nothing about now.

use std::time::{Duration, Instant};

use countersign_config::limits;

/// What went wrong at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, a broken one, no answer in time, or 502, 503, 504.
    Failed,
    /// Somebody else answered: nothing more is sent there.
    WrongIdentity,
}

impl Failure {
    /// Label of `countersign_breaker_opened_total{reason}`.
    pub const fn reason(self) -> &'static str {
        match self {
            Failure::Failed => "failures",
            Failure::WrongIdentity => "unexpected_identity",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Left alone until then; after that one request may try.
    Open(Instant),
    /// That request is under way.
    Probing,
}

/// One request at an endpoint, as the breaker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
    probe: bool,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing anybody must hear of.
    None,
    /// The endpoint is left alone from now on.
    Opened,
    /// The endpoint is used again.
    Closed,
}

/// The breaker of one endpoint.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// How often it opened without closing in between.
    openings: u32,
    /// Grows each time it opens; a ticket remembers it.
    epoch: u64,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: State::Closed, failures: 0, openings: 0, epoch: 0 }
    }
}

impl Breaker {
    /// Whether the endpoint is in ordinary use.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether it is as if nothing had ever failed.
    pub fn is_new(&self) -> bool {
        self.is_closed() && self.failures == 0
    }

    /// Whether a request may go there now.
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open(until) => now >= until,
            State::Probing => false,
        }
    }

    /// A request goes there; also where [`Breaker::admits`] says no and nobody else is left.
    pub fn begin(&mut self, now: Instant) -> Ticket {
        let probe = self.state != State::Closed && self.admits(now);
        if probe {
            self.state = State::Probing;
        }
        Ticket { epoch: self.epoch, probe }
    }

    /// The request was answered.
    pub fn succeeded(&mut self, ticket: Ticket) -> Change {
        if ticket.epoch != self.epoch {
            return Change::None;
        }
        self.failures = 0;
        self.openings = 0;
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => Change::None,
            State::Open(_) | State::Probing => Change::Closed,
        }
    }

    /// The request failed. It opens only where `may_open` agrees; `jitter` is any number.
    pub fn failed(
        &mut self,
        ticket: Ticket,
        failure: Failure,
        now: Instant,
        jitter: u16,
        may_open: impl FnOnce() -> bool,
    ) -> Change {
        if ticket.epoch != self.epoch {
            return Change::None;
        }
        match self.state {
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                let enough =
                    failure == Failure::WrongIdentity || self.failures >= limits::BREAKER_FAILURES;
                if !enough || !may_open() {
                    return Change::None;
                }
                self.open(now, jitter);
                Change::Opened
            }
            State::Probing if ticket.probe => {
                self.open(now, jitter);
                Change::None
            }
            State::Open(_) | State::Probing => Change::None,
        }
    }

    /// The request ended without saying anything about the endpoint: its client went away.
    pub fn abandoned(&mut self, ticket: Ticket, now: Instant) {
        if ticket.probe && ticket.epoch == self.epoch && self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    fn open(&mut self, now: Instant, jitter: u16) {
        self.state = State::Open(now + open_for(self.openings, jitter));
        self.openings = self.openings.saturating_add(1);
        self.epoch += 1;
    }
}

/// How long it stays open: doubling from the least to the most, varied by 20 % either way, so that
/// proxies that lost the same endpoint do not come back together.
fn open_for(openings: u32, jitter: u16) -> Duration {
    let doubled = limits::BREAKER_OPEN_MS_MIN.saturating_mul(1 << openings.min(16));
    let ms = doubled.min(limits::BREAKER_OPEN_MS_MAX);
    let percent = 80 + u64::from(jitter) % 41;
    Duration::from_millis(ms * percent / 100)
}

/// Whether one more of `endpoints` may open beside the `open` ones: a service that looks dead
/// altogether is rather asked than left alone.
pub fn may_open(open: usize, endpoints: usize) -> bool {
    let most = endpoints as u64 * limits::BREAKER_OPEN_PCT_MAX / 100;
    (open as u64) < most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn fail(breaker: &mut Breaker, now: Instant) -> Change {
        let ticket = breaker.begin(now);
        breaker.failed(ticket, Failure::Failed, now, 20, || true)
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..limits::BREAKER_FAILURES {
            assert_eq!(fail(&mut breaker, now), Change::None);
            assert!(breaker.is_closed());
        }
        assert_eq!(fail(&mut breaker, now), Change::Opened);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_starts_the_count_again() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            for _ in 1..limits::BREAKER_FAILURES {
                fail(&mut breaker, now);
            }
            let ticket = breaker.begin(now);
            assert_eq!(breaker.succeeded(ticket), Change::None);
        }
        assert!(breaker.is_closed());
        assert!(!opened(now).admits(now));
    }

    #[test]
    fn one_probe_at_a_time_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(!breaker.admits(now + S / 2));
        let later = now + 2 * S;
        assert!(breaker.admits(later));
        let probe = breaker.begin(later);
        assert!(!breaker.admits(later), "a second request must not probe beside the first");
        assert_eq!(breaker.succeeded(probe), Change::Closed);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_failed_probe_doubles_the_time() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for expected in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            let State::Open(until) = breaker.state else { panic!("{breaker:?}") };
            assert_eq!(until - now, Duration::from_millis(expected));
            now = until;
            assert_eq!(fail(&mut breaker, now), Change::None);
        }
    }

    #[test]
    fn a_probe_whose_client_went_away_leaves_room_for_the_next() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let probe = breaker.begin(now + 2 * S);
        breaker.abandoned(probe, now + 2 * S);
        assert!(!breaker.is_closed());
        assert!(breaker.admits(now + 2 * S));
    }

    #[test]
    fn an_answer_to_an_older_request_closes_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let slow = breaker.begin(now);
        while breaker.is_closed() {
            fail(&mut breaker, now);
        }
        assert_eq!(breaker.succeeded(slow), Change::None);
        assert!(!breaker.is_closed());
        // One that was sent because nobody else was left is newer, and counts.
        let forced = breaker.begin(now);
        assert_eq!(breaker.succeeded(forced), Change::Closed);
    }

    #[test]
    fn a_wrong_identity_opens_it_at_once() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let ticket = breaker.begin(now);
        let change = breaker.failed(ticket, Failure::WrongIdentity, now, 0, || true);
        assert_eq!(change, Change::Opened);
    }

    #[test]
    fn at_most_half_of_a_service_is_left_alone() {
        assert!(!may_open(0, 1));
        assert!(may_open(0, 2));
        assert!(!may_open(1, 2));
        assert!(!may_open(1, 3));
        assert!(may_open(1, 4));
        for endpoints in 0..200 {
            let open = (0..endpoints).take_while(|open| may_open(*open, endpoints)).count();
            assert!(open * 2 <= endpoints, "{open} of {endpoints}");
        }
    }

    proptest! {
        /// Whatever comes in whatever order: no two probes, times within their bounds, and never
        /// open without its reason.
        #[test]
        fn any_sequence_keeps_the_rules(
            steps in proptest::collection::vec((0_u8..6, 0_u64..2_500, any::<u16>()), 0..300),
        ) {
            let start = Instant::now();
            let (mut now, mut row) = (start, 0);
            let mut breaker = Breaker::default();
            let mut held: Vec<Ticket> = Vec::new();
            for (step, ms, jitter) in steps {
                now += Duration::from_millis(ms);
                let was_closed = breaker.is_closed();
                match step {
                    0 | 1 => held.push(breaker.begin(now)),
                    2 => if let Some(ticket) = held.pop() {
                        let current = ticket.epoch == breaker.epoch;
                        breaker.succeeded(ticket);
                        if current {
                            row = 0;
                        }
                    }
                    3 | 4 => if let Some(ticket) = held.pop() {
                        let current = ticket.epoch == breaker.epoch;
                        row += u32::from(was_closed && current);
                        breaker.failed(ticket, Failure::Failed, now, jitter, || true);
                        if was_closed && !breaker.is_closed() {
                            prop_assert!(row >= limits::BREAKER_FAILURES);
                            row = 0;
                        }
                    }
                    _ => if let Some(ticket) = held.pop() {
                        breaker.abandoned(ticket, now);
                    }
                }
                let probes = held.iter().filter(|t| t.probe && t.epoch == breaker.epoch).count();
                prop_assert!(probes <= 1);
                prop_assert!(breaker.state != State::Probing || probes == 1);
                if let State::Open(until) = breaker.state {
                    let longest = Duration::from_millis(limits::BREAKER_OPEN_MS_MAX * 12 / 10);
                    prop_assert!(until.saturating_duration_since(now) <= longest);
                }
            }
        }
    }
}
