//! Callers whose tokens were verified a moment ago, one cache per worker.
//!
//! Invariants: the key is the SHA-256 of the whole token; what the API server said counts for
//! `CALLER_REVIEW_AGE_MS_MAX` and not a moment longer, yes and no alike, so that a pod that is gone
//! is known to be gone by then, and one bad token does not become a flood of reviews; that nobody
//! could be asked is never remembered.

use std::sync::Arc;

use countersign_config::limits::{CALLER_CACHE_ENTRIES_MAX, CALLER_REVIEW_AGE_MS_MAX};
use quick_cache::unsync::Cache;

use super::{CallerError, CallerRules, ServiceCaller};
use crate::clock::Now;
use crate::gateway::user_keys::UserKeySet;

type Outcome = Result<Arc<ServiceCaller>, CallerError>;

/// Verified callers by token.
pub struct CallerCache {
    entries: Cache<[u8; 32], Entry>,
    /// Tokens of users, by what they were found to be none of a caller's.
    others: Cache<[u8; 32], Arc<CallerRules>>,
}

/// What came of one token.
#[derive(Clone)]
pub(in crate::gateway) struct Entry {
    outcome: Outcome,
    rules: Arc<CallerRules>,
    keys: Option<Arc<UserKeySet>>,
    reviewed: bool,
    at_ms: u64,
}

impl Default for CallerCache {
    fn default() -> CallerCache {
        CallerCache {
            entries: Cache::new(CALLER_CACHE_ENTRIES_MAX),
            others: Cache::new(CALLER_CACHE_ENTRIES_MAX),
        }
    }
}

impl Entry {
    /// What came of a token that was verified `at` this moment with these rules and keys.
    pub(in crate::gateway) fn new(
        outcome: Outcome,
        rules: &Arc<CallerRules>,
        keys: Option<&Arc<UserKeySet>>,
        reviewed: bool,
        at: Now,
    ) -> Entry {
        let (rules, keys) = (Arc::clone(rules), keys.cloned());
        Entry { outcome, rules, keys, reviewed, at_ms: at.millis() }
    }

    fn counts(&self, rules: &Arc<CallerRules>, keys: Option<&Arc<UserKeySet>>, now: Now) -> bool {
        let same_keys = match (&self.keys, keys) {
            (Some(own), Some(now)) => Arc::ptr_eq(own, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        // A clock that went back makes the age unknown.
        let age = now.millis().checked_sub(self.at_ms);
        let young = !self.reviewed || age.is_some_and(|age| age < CALLER_REVIEW_AGE_MS_MAX);
        Arc::ptr_eq(&self.rules, rules) && same_keys && young
    }
}

impl CallerCache {
    /// What is known of the token, if that still counts.
    pub(in crate::gateway) fn get(
        &mut self,
        key: &[u8; 32],
        rules: &Arc<CallerRules>,
        keys: Option<&Arc<UserKeySet>>,
        now: Now,
    ) -> Option<Outcome> {
        let entry = self.entries.get(key).filter(|entry| entry.counts(rules, keys, now))?;
        Some(entry.outcome.clone().and_then(|caller| caller.life.check(now).map(|()| caller)))
    }

    /// Whether the token is known to be no caller's, so that users cost no second look.
    pub(in crate::gateway) fn is_other(
        &mut self,
        key: &[u8; 32],
        rules: &Arc<CallerRules>,
    ) -> bool {
        self.others.get(key).is_some_and(|known| Arc::ptr_eq(known, rules))
    }

    /// Remembers that the token is no caller's.
    pub(in crate::gateway) fn keep_other(&mut self, key: [u8; 32], rules: &Arc<CallerRules>) {
        self.others.insert(key, Arc::clone(rules));
    }

    /// Remembers what came of a token: what was proven, and what the API server refused.
    pub(in crate::gateway) fn keep(&mut self, key: [u8; 32], entry: Entry) {
        let telling = match &entry.outcome {
            Ok(_) => true,
            Err(error) => entry.reviewed && !matches!(error, CallerError::Unverifiable(_)),
        };
        if telling {
            self.entries.insert(key, entry);
        }
    }
}
