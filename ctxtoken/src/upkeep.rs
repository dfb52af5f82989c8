//! What a fetched key set and whoever fetches it tell each other while the set is in use: until when
//! it may be used, and that somebody met a key it does not hold.
//!
//! Invariant: it can end the use of keys and ask for other ones; it never adds a key.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::UnixTime;

/// Shared by a [`KeySet`](crate::KeySet) and its fetcher. Begins unusable.
#[derive(Debug, Default)]
pub struct Upkeep {
    usable_until: AtomicU64,
    wanted: AtomicBool,
}

impl Upkeep {
    /// The place the set came from confirmed it: it may be used until `end`.
    pub fn confirm(&self, end: UnixTime) {
        self.usable_until.store(end.0, Ordering::Release);
    }

    /// Whether the set may still be used.
    pub fn is_usable(&self, now: UnixTime) -> bool {
        now.0 < self.usable_until.load(Ordering::Acquire)
    }

    /// Whether a token named a key that the set does not hold, since the last fetch.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// A fetch begins.
    pub fn fetching(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    /// A token named a key that the set does not hold.
    pub(crate) fn want(&self) {
        if !self.is_wanted() {
            self.wanted.store(true, Ordering::Release);
        }
    }
}

/// Who keeps a set is no part of what it says.
impl PartialEq for Upkeep {
    fn eq(&self, _: &Upkeep) -> bool {
        true
    }
}

impl Eq for Upkeep {}
