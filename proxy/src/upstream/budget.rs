//! How many requests may be sent again: a share of all requests of the last seconds.
//!
//! Invariant: retries never multiply the load of a failing service; beyond the share a failure is a
//! failure. Its clock is [`Budget::tick`], so a request costs one addition.

use countersign_config::limits;

/// Ticks in a window.
const TICKS: usize = 10;
/// Time between two ticks.
pub const TICK_MS: u64 = limits::RETRY_BUDGET_WINDOW_MS / TICKS as u64;

/// The retries of one worker.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Requests and retries of the tick that runs, then of those before it.
    window: [(u64, u64); TICKS],
    now: usize,
}

impl Budget {
    fn current(&mut self) -> Option<&mut (u64, u64)> {
        self.window.get_mut(self.now)
    }

    /// A request is sent for the first time.
    pub fn request(&mut self) {
        if let Some((requests, _)) = self.current() {
            *requests += 1;
        }
    }

    /// Whether a request may be sent again; counts it if so.
    pub fn retry(&mut self) -> bool {
        let (requests, retries) =
            self.window.iter().fold((0, 0), |sum, tick| (sum.0 + tick.0, sum.1 + tick.1));
        let share = requests * limits::RETRY_BUDGET_PCT / 100;
        let allowed = retries < share.max(limits::RETRY_BUDGET_MIN);
        if let (true, Some((_, retries))) = (allowed, self.current()) {
            *retries += 1;
        }
        allowed
    }

    /// [`TICK_MS`] have passed: the oldest tick leaves the window.
    pub fn tick(&mut self) {
        self.now = (self.now + 1) % TICKS;
        if let Some(tick) = self.current() {
            *tick = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let mut budget = Budget::default();
        (0..1_000).for_each(|_| budget.request());
        assert_eq!((0..1_000).filter(|_| budget.retry()).count(), 200);
    }

    #[test]
    fn a_quiet_proxy_may_retry_too() {
        let mut budget = Budget::default();
        budget.request();
        assert!(budget.retry());
        let more = (0..100).filter(|_| budget.retry()).count() as u64;
        assert_eq!(more + 1, limits::RETRY_BUDGET_MIN);
    }

    #[test]
    fn what_has_left_the_window_counts_no_more() {
        let mut budget = Budget::default();
        (0..1_000).for_each(|_| budget.request());
        while budget.retry() {}
        (1..TICKS).for_each(|_| budget.tick());
        assert!(!budget.retry());
        budget.tick();
        assert!(budget.retry());
    }

    proptest! {
        /// Over any window of ticks the retries stay within the share of the requests seen by then.
        #[test]
        fn never_more_than_the_share(steps in proptest::collection::vec(0_u8..8, 0..2_000)) {
            let mut budget = Budget::default();
            let mut ticks = vec![(0_u64, 0_u64)];
            for step in steps {
                let last = ticks.last_mut().expect("one");
                match step {
                    0..4 => { budget.request(); last.0 += 1; }
                    4..7 => last.1 += u64::from(budget.retry()),
                    _ => { budget.tick(); ticks.push((0, 0)); }
                }
                let window = ticks.iter().rev().take(TICKS);
                let (requests, retries) = window.fold((0, 0), |s, t| (s.0 + t.0, s.1 + t.1));
                // Requests that left the window had earned the retries that are still in it.
                let earned = ticks.iter().rev().take(2 * TICKS).map(|t| t.0).sum::<u64>();
                let share = (earned * limits::RETRY_BUDGET_PCT / 100).max(limits::RETRY_BUDGET_MIN);
                prop_assert!(retries <= share, "{retries} of {requests}");
            }
        }
    }
}
