//! How often each deferred grant was redeemed at this process, by all workers.
//!
//! Invariant: a grant is counted until it has ended, so none is redeemed more often than allowed;
//! where there is no room to count, nothing is redeemed. LIMIT: `GRANTS_COUNTED_MAX`. Replicas
//! count for themselves, and a restart forgets: `maxRedemptions` bounds repetition, it is not the
//! protection against theft, which the binding to consumer and message is.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_config::limits;

use crate::clock::Now;

/// Redemptions of the grants that live.
#[derive(Debug, Default)]
pub struct Redeemed(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_grant: HashMap<Arc<str>, u32>,
    by_end: BTreeSet<(u64, Arc<str>)>,
    /// Grants that end no later are forgotten.
    forgotten: u64,
}

impl Redeemed {
    /// Counts one more redemption of the grant `jti`, which ends at `exp`; `false` if it was redeemed
    /// `max` times already, or there is no room.
    pub fn admit(&self, jti: &str, exp: u64, max: u32, now: Now) -> bool {
        // A panic elsewhere does not make the counts wrong.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.forget_ended(now);
        if let Some(count) = counts.by_grant.get_mut(jti) {
            let admitted = *count < max;
            *count += u32::from(admitted);
            return admitted;
        }
        // Another worker was a moment ahead: whether this one was ever counted is not known any more.
        if exp <= counts.forgotten {
            return false;
        }
        if counts.by_grant.len() >= limits::GRANTS_COUNTED_MAX || max == 0 {
            return false;
        }
        let jti: Arc<str> = jti.into();
        counts.by_end.insert((exp, Arc::clone(&jti)));
        counts.by_grant.insert(jti, 1);
        true
    }
}

impl Counts {
    fn forget_ended(&mut self, now: Now) {
        while self.by_end.first().is_some_and(|(exp, _)| *exp <= now.secs()) {
            let Some((exp, jti)) = self.by_end.pop_first() else { return };
            self.forgotten = self.forgotten.max(exp);
            self.by_grant.remove(&jti);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(s: u64) -> Now {
        Now::from_micros(s * 1_000_000)
    }

    #[test]
    fn attack_redeems_one_grant_without_end() {
        let redeemed = Redeemed::default();
        let admitted = |jti, max| (0..9).filter(|_| redeemed.admit(jti, 100, max, at(1))).count();
        assert_eq!((admitted("a", 5), admitted("b", 1), admitted("a", 5)), (5, 1, 0));
        // The count lasts as long as the grant.
        assert!(!redeemed.admit("a", 100, 5, at(99)));
    }

    #[test]
    fn attack_redeems_a_spent_grant_in_the_second_it_ends() {
        let redeemed = Redeemed::default();
        assert!(redeemed.admit("a", 100, 1, at(99)));
        // Another worker's clock reading is past its end: the count is gone.
        assert!(redeemed.admit("b", 200, 1, at(100)));
        assert!(!redeemed.admit("a", 100, 1, at(99)));
    }

    #[test]
    fn attack_fills_the_count_with_grants() {
        let redeemed = Redeemed::default();
        for number in 0..limits::GRANTS_COUNTED_MAX {
            assert!(redeemed.admit(&number.to_string(), 100, 1, at(1)));
        }
        assert!(!redeemed.admit("one more", 100, 1, at(1)));
        // What has ended makes room.
        assert!(redeemed.admit("one more", 200, 1, at(100)));
        assert_eq!(redeemed.0.lock().unwrap().by_grant.len(), 1);
    }
}
