//! How often each workload asks, in this process: one count per proven identity and second.
//!
//! Invariant: keyed by the identity of the handshake, so nobody uses up another one's share.

use std::collections::HashMap;
use std::sync::Mutex;

use countersign_workload_id::WorkloadId;

use crate::clock::Now;

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
        if second.at != now.secs() {
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
}
