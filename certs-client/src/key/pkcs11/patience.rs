//! How long a token that cannot be seen is waited for.
//!
//! SoftHSM shows no token, or one without a label, while another program writes to it. That passes
//! within milliseconds; a token that was pulled stays away, and must not hold up every handshake.
//! Invariant: it is waited for once, by whoever comes in that time, until it was seen again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Since when a token cannot be seen, and for how long that is borne.
pub(super) struct Patience {
    most: Duration,
    missed: Mutex<Option<Instant>>,
}

impl Patience {
    pub(super) fn new(most: Duration) -> Patience {
        Patience { most, missed: Mutex::default() }
    }

    /// The token is there.
    pub(super) fn seen(&self) {
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The token is not to be seen: the time until the next look, or nothing if it was waited for
    /// long enough.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = now.saturating_duration_since(*missed.get_or_insert(now));
        let left = self.most.saturating_sub(waited);
        (!left.is_zero()).then(|| left.min(LOOK_AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_waited_for_once_until_it_was_seen_again() {
        let (patience, began) = (Patience::new(Duration::from_millis(12)), Instant::now());
        let pause_at = |ms| patience.pause(began + Duration::from_millis(ms));
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!([0, 5, 10, 12, 1_000].map(pause_at), [ms(5), ms(5), ms(2), None, None]);
        patience.seen();
        assert_eq!([2_000, 2_012].map(pause_at), [ms(5), None]);
    }

    #[test]
    fn a_short_budget_is_not_used_up() {
        let patience = Patience::new(Duration::from_micros(500));
        assert_eq!(patience.pause(Instant::now()), Some(Duration::from_micros(500)));
    }
}
