//! Which of its own keys an issuer signs with, and which ones it publishes: pure, so that days pass
//! in a test without waiting.
//!
//! Invariant: a key signs only after it was seen in the published set, and after everybody had the
//! time to fetch that set; a key that signed stays published until nothing it signed is accepted
//! any more. So nobody meets an unknown key.

use std::sync::Arc;

use countersign_ctxtoken::{PublishedKey, TokenSigner, UnixTime, VerifyingKey};

/// Keys that are published beside the one in use; more were replaced faster than they end.
const RETIRED_MAX: usize = 48;

/// A key of this issuer.
#[derive(Clone)]
pub struct OwnKey {
    /// Its name.
    pub kid: Arc<str>,
    /// Its public half.
    pub public: VerifyingKey,
    /// Signs with it.
    pub signer: Arc<dyn TokenSigner>,
    /// End of the certificate it belongs to, if there is one.
    pub ends: Option<u64>,
}

impl OwnKey {
    /// A key by its halves.
    pub fn new(public: VerifyingKey, signer: Arc<dyn TokenSigner>, ends: Option<u64>) -> OwnKey {
        OwnKey { kid: public.kid().into(), public, signer, ends }
    }

    fn holds_at(&self, now: u64) -> bool {
        self.ends.is_none_or(|end| now < end)
    }
}

/// The times of a rotation, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From publication to first use, at least `2 × refresh`: whoever fetches has fetched by then.
    /// Nothing where nobody does.
    pub publish_s: u64,
    /// From last use to the end of publication: `maxTtl + skew + 2 × refresh`.
    pub overlap_s: u64,
}

impl Pace {
    /// The times of an issuer whose tokens count for `life_s` at most. Its key set is fetched every
    /// `refresh_s`, or nobody has to look anything up (`is_fetched`).
    pub fn of(refresh_s: u64, life_s: u64, is_fetched: bool) -> Pace {
        // Times are cut to whole seconds, so a wait may turn out almost one too short: hence one more.
        let publish_s = if is_fetched { 2 * refresh_s + 1 } else { 0 };
        Pace { publish_s, overlap_s: life_s + 2 * refresh_s }
    }
}

struct Pending {
    key: OwnKey,
    since: u64,
}

struct InUse {
    key: OwnKey,
    since: u64,
}

/// The keys of one issuer, from first publication to last.
#[derive(Default)]
pub struct Keyring {
    in_use: Option<InUse>,
    next: Option<Pending>,
    retired: Vec<PublishedKey>,
}

impl Keyring {
    /// Public halves of before a restart: they stay published as if they had just been replaced.
    pub fn remember(&mut self, keys: impl IntoIterator<Item = VerifyingKey>, now: u64, pace: Pace) {
        for key in keys {
            self.retire(key, now, pace);
        }
    }

    /// Offers a key for use. One that is pending is not replaced before it was used, lest keys that
    /// are replaced too fast never get there. Whether it was taken.
    pub fn offer(&mut self, key: &OwnKey, now: u64) -> bool {
        let used = self.in_use.as_ref().is_some_and(|used| used.key.kid == key.kid);
        let pending = self.next.as_ref().is_some_and(|next| next.key.holds_at(now));
        if used || pending || !key.holds_at(now) {
            return false;
        }
        self.retired.retain(|old| old.key != key.public);
        self.next = Some(Pending { key: key.clone(), since: now });
        true
    }

    /// Goes on with time. `seen`: whether a key is in the set that verifiers get. `at_once`: it is
    /// published by hand before it comes here, so nobody waits for the first one. Whether another key
    /// is in use now.
    pub fn advance(
        &mut self,
        now: u64,
        pace: Pace,
        at_once: bool,
        seen: impl Fn(&str) -> bool,
    ) -> bool {
        self.retired.retain(|old| old.expires.is_none_or(|UnixTime(end)| now < end));
        let wait = if at_once && self.in_use.is_none() { 0 } else { pace.publish_s };
        let ready = |next: &Pending| {
            // A clock that was set back must not stretch the wait.
            let waited = now < next.since || now - next.since >= wait;
            waited && next.key.holds_at(now) && seen(&next.key.kid)
        };
        let Some(next) = self.next.take_if(|next| ready(next)) else { return false };
        let before = self.in_use.replace(InUse { key: next.key, since: now });
        if let Some(before) = before {
            self.retire(before.key.public, now, pace);
        }
        true
    }

    fn retire(&mut self, key: VerifyingKey, now: u64, pace: Pace) {
        let expires = Some(UnixTime(now.saturating_add(pace.overlap_s)));
        self.retired.retain(|old| old.key != key);
        self.retired.push(PublishedKey { key, not_before: None, expires });
        let over = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..over);
    }

    /// The key that signs.
    pub fn in_use(&self, now: u64) -> Option<&OwnKey> {
        self.in_use.as_ref().map(|used| &used.key).filter(|key| key.holds_at(now))
    }

    /// Since when it does.
    pub fn in_use_since(&self) -> Option<u64> {
        self.in_use.as_ref().map(|used| used.since)
    }

    /// Whether a key waits for its use.
    pub fn has_pending(&self) -> bool {
        self.next.is_some()
    }

    /// What is published now: the key in use first.
    pub fn published(&self) -> Vec<PublishedKey> {
        let live = self.in_use.iter().map(|used| &used.key);
        let live = live.chain(self.next.iter().map(|next| &next.key));
        let live = live.map(|key| PublishedKey {
            key: key.public.clone(),
            not_before: None,
            expires: None,
        });
        live.chain(self.retired.iter().cloned()).collect()
    }
}

#[cfg(test)]
#[path = "tests/keyring.rs"]
mod tests;
