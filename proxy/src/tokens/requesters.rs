//! How often each workload asks, in this process: one count per proven identity and second.
//!
//! Invariant: keyed by the identity of the handshake, so nobody uses up another one's share; a
//! request that is counted late, after the next second began, does not bring back a second that is
//! over, which would forget what was counted in this one.

use std::collections::HashMap;
use std::sync::Mutex;

use countersign_workload_id::WorkloadId;

use crate::clock::Now;

/// How far a request may lag behind others; a clock that is set back further begins anew.
const LATE_S_MAX: u64 = 2;

/// Requests of each workload in the current second, of all workers.
#[derive(Debug, Default)]
pub struct Rates(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    at: u64,
    requests: HashMap<WorkloadId, u32>,
}

impl Rates {
    /// Counts a request; `false` if the workload had its share of this second already.
    pub fn admit(&self, requester: &WorkloadId, rate: u32, now: Now) -> bool {
        // A panic elsewhere does not make the counts wrong.
        let mut second = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let late = now.secs() < second.at && second.at - now.secs() <= LATE_S_MAX;
        if second.at != now.secs() && !late {
            second.at = now.secs();
            second.requests.clear();
        }
        match second.requests.get_mut(requester) {
            Some(count) if *count >= rate => false,
            Some(count) => {
                *count += 1;
                true
            }
            None => {
                second.requests.insert(requester.clone(), 1);
                rate > 0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_workload_has_its_own_share_of_each_second() {
        let id = |name: &str| WorkloadId::parse(&format!("spiffe://t.test/{name}")).unwrap();
        let (busy, calm) = (id("busy"), id("calm"));
        let at = |s: u64| Now::from_micros(s * 1_000_000);
        let rates = Rates::default();
        let admitted = |id, s| (0..10).filter(|_| rates.admit(id, 3, at(s))).count();
        assert_eq!(admitted(&busy, 5), 3);
        assert_eq!(admitted(&calm, 5), 3);
        assert_eq!(admitted(&busy, 6), 3);
    }

    #[test]
    fn attack_asks_late_to_be_counted_anew() {
        let id = WorkloadId::parse("spiffe://t.test/busy").unwrap();
        let rates = Rates::default();
        let at = |s: u64| Now::from_micros(s * 1_000_000);
        let admitted = (0..10).flat_map(|_| [9, 10, 8]).filter(|s| rates.admit(&id, 3, at(*s)));
        // One in second 9, before the next one began, and three since.
        assert_eq!(admitted.count(), 4);
        // A clock that was set back does not lock anybody out.
        assert!(rates.admit(&id, 3, at(1)));
    }
}
