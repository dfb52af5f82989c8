//! A bucket of bad tokens per peer: verification costs CPU, so a peer that keeps presenting
//! garbage is refused before it is verified. Keyed by proven identity, never by request data.

use std::collections::HashMap;

use countersign_config::limits;
use countersign_workload_id::WorkloadId;

use crate::clock::Now;

/// Failures per peer in the current second, of one worker.
#[derive(Default)]
pub struct Failures {
    second: u64,
    by_peer: HashMap<WorkloadId, u32>,
}

impl Failures {
    /// Whether this peer may present another token now.
    pub fn allows(&self, peer: &WorkloadId, now: Now) -> bool {
        self.second != now.secs()
            || self.by_peer.get(peer).is_none_or(|count| *count < limits::TOKEN_FAILURES_PER_S_MAX)
    }

    /// Counts a bad token.
    pub fn count(&mut self, peer: &WorkloadId, now: Now) {
        if self.second != now.secs() {
            self.second = now.secs();
            self.by_peer.clear();
        }
        *self.by_peer.entry(peer.clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_recovers_in_the_next_second_and_others_are_not_touched() {
        let id = |name: &str| WorkloadId::parse(&format!("spiffe://t.test/{name}")).unwrap();
        let (bad, good) = (id("bad"), id("good"));
        let at = |s: u64| Now::from_micros(s * 1_000_000);
        let mut failures = Failures::default();
        for _ in 0..limits::TOKEN_FAILURES_PER_S_MAX {
            assert!(failures.allows(&bad, at(5)));
            failures.count(&bad, at(5));
        }
        assert!(!failures.allows(&bad, at(5)));
        assert!(failures.allows(&good, at(5)));
        assert!(failures.allows(&bad, at(6)));
    }
}
