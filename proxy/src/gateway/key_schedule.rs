//! When a provider's keys are fetched: pure, so that hours pass in a test without waiting.
//! Invariant: whatever users send, an unknown key id causes at most one fetch per cooldown.

use std::time::Duration;

use crate::clock::Now;

/// First and longest wait after a failed fetch.
const RETRY_MS_MIN: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;

/// The times one provider's keys are fetched at.
#[derive(Debug)]
pub(crate) struct KeySchedule {
    refresh_ms: u64,
    cooldown_ms: u64,
    last_ms: Option<u64>,
    next_ms: u64,
    failures: u32,
}

impl KeySchedule {
    /// A schedule whose first fetch is due at once.
    pub(crate) fn new(refresh: Duration, cooldown: Duration) -> KeySchedule {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        KeySchedule {
            refresh_ms: ms(refresh).max(RETRY_MS_MIN),
            cooldown_ms: ms(cooldown),
            last_ms: None,
            next_ms: 0,
            failures: 0,
        }
    }

    /// How long to wait; zero: fetch now. `wanted`: somebody asked for a key we do not have.
    pub(crate) fn wait_ms(&self, now: Now, wanted: bool) -> u64 {
        let now = now.millis();
        let Some(last) = self.last_ms else { return 0 };
        if now < last {
            return 0; // the clock was set back; what we planned means nothing
        }
        let asked = if wanted { last.saturating_add(self.cooldown_ms) } else { u64::MAX };
        self.next_ms.min(asked).saturating_sub(now)
    }

    /// A fetch succeeded. `spread`: -100..=100, in thousandths of the interval.
    pub(crate) fn succeeded(&mut self, now: Now, spread: i64) {
        self.failures = 0;
        self.plan(now, self.refresh_ms, spread);
    }

    /// A fetch failed: wait 1 s, 2 s, 4 s, at most a minute and never longer than the interval.
    pub(crate) fn failed(&mut self, now: Now, spread: i64) {
        let wait = RETRY_MS_MIN.checked_shl(self.failures).unwrap_or(RETRY_MS_MAX);
        self.failures = self.failures.saturating_add(1).min(16);
        self.plan(now, wait.min(RETRY_MS_MAX).min(self.refresh_ms), spread);
    }

    /// When the next fetch is planned.
    pub(crate) fn next(&self) -> Now {
        Now::from_micros(self.next_ms.saturating_mul(1_000))
    }

    fn plan(&mut self, now: Now, wait_ms: u64, spread: i64) {
        let thousandths =
            u64::try_from(spread.clamp(-100, 100).saturating_add(1_000)).unwrap_or(1_000);
        let wait = wait_ms.saturating_mul(thousandths) / 1_000;
        self.last_ms = Some(now.millis());
        self.next_ms = now.millis().saturating_add(wait);
    }
}
