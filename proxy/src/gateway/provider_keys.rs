//! The keys of the identity providers, kept current in the background. One task per provider on
//! the control thread fetches or reads them; workers read one immutable [`KeysSnapshot`].
//! Invariant: the data path never waits here. A provider that cannot be reached affects only its
//! own users; its last good keys stay in force until `max_stale`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::user_keys::UserKeySet;
use crate::clock::Now;

/// The keys of all providers at one moment. A request takes it once.
#[derive(Clone, Debug, Default)]
pub struct KeysSnapshot {
    providers: BTreeMap<Arc<str>, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    held: Option<HeldKeys>,
    refetch: Arc<Refetch>,
}

/// Keys as they were fetched.
#[derive(Clone, Debug)]
pub struct HeldKeys {
    /// The keys.
    pub set: Arc<UserKeySet>,
    /// When the provider last confirmed them.
    pub fetched_at: Now,
    /// Until when they may be used, in seconds since 1970; `None` for keys from a file.
    pub stale_at_s: Option<u64>,
}

/// A request from the data path to fetch keys again. Asking costs an atomic swap.
#[derive(Debug, Default)]
struct Refetch {
    wanted: AtomicBool,
    wake: Notify,
}

impl KeysSnapshot {
    /// The keys of a provider, unless there are none or they are too old.
    pub(super) fn current(&self, provider: &str, now: Now) -> Option<&UserKeySet> {
        let held = self.providers.get(provider)?.held.as_ref()?;
        let fresh = held.stale_at_s.is_none_or(|stale_at| now.secs() < stale_at);
        fresh.then_some(&*held.set)
    }

    /// Says that a token named a key this provider does not have. Never waits.
    pub(super) fn ask_for_new_keys(&self, provider: &str) {
        if let Some(entry) = self.providers.get(provider)
            && !entry.refetch.wanted.swap(true, Ordering::AcqRel)
        {
            entry.refetch.wake.notify_one();
        }
    }
}
