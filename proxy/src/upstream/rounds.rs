//! Things that somebody must look at again and again, in the order in which they are due: a look
//! costs what is due, not what there is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Keys, each of which comes up once in every round.
///
/// Invariant: all wait for the same time, so the first one is the next that is due.
pub(super) struct Rounds<K> {
    every: Duration,
    queue: VecDeque<(Instant, K)>,
}

impl<K> Rounds<K> {
    /// Nothing yet; whatever enters comes up after this time.
    pub(super) fn every(ms: u64) -> Rounds<K> {
        Rounds { every: Duration::from_millis(ms), queue: VecDeque::new() }
    }

    /// From `now` on `key` waits; not if it waits already, which the caller knows.
    pub(super) fn enter(&mut self, key: K, now: Instant) {
        self.queue.push_back((now + self.every, key));
    }

    /// Takes out the next one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<K> {
        self.queue.pop_front_if(|(at, _)| *at <= now).map(|(_, key)| key)
    }

    /// Takes out the next one, due or not.
    pub(super) fn next(&mut self) -> Option<K> {
        self.queue.pop_front().map(|(_, key)| key)
    }

    /// Keeps those of which this is true.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.queue.retain(|(_, key)| keep(key));
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
