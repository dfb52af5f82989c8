//! The keys of the identity providers, kept current in the background. One task per provider on
//! the control thread fetches or reads them; workers read one immutable [`KeysSnapshot`].
//! Invariant: the data path never waits here. A provider that cannot be reached affects only its
//! own users; its last good keys stay in force until `max_stale`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_policy::Named;
use countersign_policy::doc::{self, IdentityProvider};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::key_schedule::KeySchedule;
use super::provider_fetch::{FetchError, Fetcher};
use super::user_keys::UserKeySet;
use crate::clock::Now;

/// An identity provider as documents name and describe it.
pub type Provider = Named<IdentityProvider>;

/// How often a key file is looked at.
const FILE_POLL: Duration = Duration::from_secs(2);
/// The wall clock is read at least this often, so that a suspended host notices.
const TICK_MS_MAX: u64 = 30_000;

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

#[derive(Clone, Debug)]
struct HeldKeys {
    set: Arc<UserKeySet>,
    /// In seconds since 1970; `None` for keys from a file.
    stale_at: Option<u64>,
}

/// A request from the data path to fetch keys again. Asking costs an atomic swap.
#[derive(Debug, Default)]
struct Refetch {
    wanted: AtomicBool,
    wake: Notify,
}

impl KeysSnapshot {
    /// A snapshot of keys that do not change, for tests and tools.
    pub fn fixed<'a>(keys: impl IntoIterator<Item = (&'a str, UserKeySet)>) -> KeysSnapshot {
        let entry = |(name, set): (&str, UserKeySet)| {
            let held = HeldKeys { set: Arc::new(set), stale_at: None };
            (Arc::from(name), Entry { held: Some(held), refetch: Arc::default() })
        };
        KeysSnapshot { providers: keys.into_iter().map(entry).collect() }
    }

    /// The keys of a provider, unless there are none or they are too old.
    pub(super) fn current(&self, provider: &str, now: Now) -> Option<&Arc<UserKeySet>> {
        let held = self.providers.get(provider)?.held.as_ref()?;
        let fresh = held.stale_at.is_none_or(|stale_at| now.secs() < stale_at);
        fresh.then_some(&held.set)
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

/// What readiness, admin and metrics say about one provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProviderStatus {
    /// The provider's name.
    pub name: String,
    /// Usable keys held.
    pub keys: usize,
    /// When the provider last confirmed them.
    pub fetched_at: Option<Now>,
    /// Why the last fetch failed; `None` after a good one.
    pub last_error: Option<String>,
    /// When the next fetch is planned.
    pub next_try: Option<Now>,
    /// Fetches that succeeded.
    pub fetches_total: u64,
    /// Fetches that failed.
    pub failures_total: u64,
}

impl ProviderStatus {
    fn was_attempted(&self) -> bool {
        self.fetched_at.is_some() || self.last_error.is_some()
    }
}

struct Shared {
    snapshot: ArcSwap<KeysSnapshot>,
    status: Mutex<BTreeMap<String, ProviderStatus>>,
    /// Told after every attempt.
    attempted: Notify,
}

struct Running {
    provider: Arc<Provider>,
    stop: CancellationToken,
}

/// Reads the current keys; one per worker, cheap to clone.
#[derive(Clone)]
pub struct KeysReader {
    shared: Arc<Shared>,
}

impl KeysReader {
    /// The keys as they are now.
    pub fn load(&self) -> Arc<KeysSnapshot> {
        self.shared.snapshot.load_full()
    }

    /// One line per configured provider, by name.
    pub fn status(&self) -> Vec<ProviderStatus> {
        let status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.values().cloned().collect()
    }
}

/// Owns the tasks that keep the keys current.
pub struct ProviderKeys {
    shared: Arc<Shared>,
    fetcher: Fetcher,
    running: BTreeMap<String, Running>,
    tasks: TaskTracker,
}

impl ProviderKeys {
    /// Nothing configured yet.
    pub fn new(fetcher: Fetcher) -> ProviderKeys {
        let shared = Shared {
            snapshot: ArcSwap::default(),
            status: Mutex::default(),
            attempted: Notify::new(),
        };
        let shared = Arc::new(shared);
        ProviderKeys { shared, fetcher, running: BTreeMap::new(), tasks: TaskTracker::new() }
    }

    /// A reader for one worker.
    pub fn reader(&self) -> KeysReader {
        KeysReader { shared: self.shared.clone() }
    }

    /// Makes `providers` the configured ones: keeps the keys of those whose issuer, algorithms and
    /// key source did not change, forgets the keys of all others, starts and stops their tasks.
    ///
    /// Must be called on the control thread, inside its runtime.
    pub fn set_providers(&mut self, providers: &[Arc<Provider>]) {
        let same_keys = |a: &Provider, b: &Provider| {
            a.name == b.name
                && a.spec.issuer == b.spec.issuer
                && a.spec.keys == b.spec.keys
                && a.spec.algorithms == b.spec.algorithms
        };
        let kept = |running: &Running| providers.iter().any(|p| same_keys(p, &running.provider));
        let gone: Vec<String> =
            self.running.extract_if(.., |_, running| !kept(running)).map(end).collect();
        for name in gone {
            self.shared.forget(&name);
        }
        for provider in providers {
            if !self.running.contains_key(&provider.name) {
                self.start(provider);
            }
        }
    }

    /// Waits until every provider was asked once, whatever it answered, but no longer than `limit`:
    /// so that the first users after a start do not meet a gateway without keys, and a provider
    /// that is down does not keep the others waiting.
    pub async fn first_attempts(&self, limit: Duration) {
        let all_attempted = async {
            loop {
                let mut attempted = pin!(self.shared.attempted.notified());
                attempted.as_mut().enable();
                if self.reader().status().iter().all(ProviderStatus::was_attempted) {
                    return;
                }
                attempted.await;
            }
        };
        let _ = tokio::time::timeout(limit, all_attempted).await;
    }

    /// Ends every task and waits for it.
    pub async fn stop(mut self) {
        self.set_providers(&[]);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&mut self, provider: &Arc<Provider>) {
        let refetch = Arc::new(Refetch::default());
        self.shared.add(&provider.name, refetch.clone());
        let stop = CancellationToken::new();
        let task = KeyTask {
            provider: provider.clone(),
            shared: self.shared.clone(),
            fetcher: self.fetcher.clone(),
            refetch,
        };
        let running = Running { provider: provider.clone(), stop: stop.clone() };
        self.running.insert(provider.name.clone(), running);
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
    }
}

impl Drop for ProviderKeys {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }
}

fn end((name, running): (String, Running)) -> String {
    running.stop.cancel();
    name
}

/// Keeps the keys of one provider current, for as long as it is polled.
struct KeyTask {
    provider: Arc<Provider>,
    shared: Arc<Shared>,
    fetcher: Fetcher,
    refetch: Arc<Refetch>,
}

impl KeyTask {
    async fn run(self) {
        let (refresh, cooldown) = match &self.provider.spec.keys {
            doc::ProviderKeys::Discovery { refresh_s, unknown_key_cooldown_s, .. } => {
                (Duration::from_secs(*refresh_s), Duration::from_secs(*unknown_key_cooldown_s))
            }
            doc::ProviderKeys::File(_) => (FILE_POLL, FILE_POLL),
        };
        let mut schedule = KeySchedule::new(refresh, cooldown);
        loop {
            let wanted = self.refetch.wanted.load(Ordering::Acquire);
            match schedule.wait_ms(Now::read(), wanted) {
                0 => self.fetch(&mut schedule).await,
                wait => {
                    let nap = Duration::from_millis(wait.min(TICK_MS_MAX));
                    // A wake-up only matters if no fetch is wanted yet: it can bring one forward.
                    let woken = tokio::time::timeout(nap, self.refetch.wake.notified());
                    let _ = woken.await;
                }
            }
        }
    }

    async fn fetch(&self, schedule: &mut KeySchedule) {
        self.refetch.wanted.store(false, Ordering::Release);
        let outcome = self.fetcher.keys(&self.provider).await;
        let now = Now::read();
        match &outcome {
            Ok(_) => schedule.succeeded(now, spread()),
            Err(_) => schedule.failed(now, spread()),
        }
        self.publish(outcome, now, schedule.next());
    }

    fn publish(&self, outcome: Result<UserKeySet, FetchError>, now: Now, next: Now) {
        let name = self.provider.name.as_str();
        let result = match outcome {
            Ok(set) => {
                let keys = set.len();
                let stale_at = match &self.provider.spec.keys {
                    doc::ProviderKeys::Discovery { max_stale_s, .. } => {
                        Some(now.secs().saturating_add(*max_stale_s))
                    }
                    doc::ProviderKeys::File(_) => None,
                };
                self.shared.hold(name, &self.refetch, HeldKeys { set: Arc::new(set), stale_at });
                Ok(keys)
            }
            Err(error) => Err(error.to_string()),
        };
        self.shared.note(name, result, now, next);
        self.shared.attempted.notify_waiters();
    }
}

impl Shared {
    fn add(&self, name: &str, refetch: Arc<Refetch>) {
        let name: Arc<str> = Arc::from(name);
        self.change(|providers| {
            providers.insert(name.clone(), Entry { held: None, refetch: refetch.clone() });
        });
        let status = ProviderStatus {
            name: name.to_string(),
            keys: 0,
            fetched_at: None,
            last_error: None,
            next_try: None,
            fetches_total: 0,
            failures_total: 0,
        };
        let mut all = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_string(), status);
    }

    fn forget(&self, name: &str) {
        self.change(|providers| {
            providers.remove(name);
        });
        self.status.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Publishes fetched keys, unless the provider was replaced while they were on their way.
    /// Keys that did not change stay the same object, which is what caches compare.
    fn hold(&self, name: &str, fetched_for: &Arc<Refetch>, fetched: HeldKeys) {
        self.change(|providers| {
            let entry = providers.get_mut(name);
            let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.refetch, fetched_for)) else {
                return;
            };
            let mut held = fetched.clone();
            if let Some(old) = entry.held.as_ref().filter(|old| old.set.same_source(&held.set)) {
                held.set = old.set.clone();
            }
            entry.held = Some(held);
        });
    }

    fn change(&self, edit: impl Fn(&mut BTreeMap<Arc<str>, Entry>)) {
        self.snapshot.rcu(|old| {
            let mut new = KeysSnapshot::clone(old);
            edit(&mut new.providers);
            new
        });
    }

    fn note(&self, name: &str, result: Result<usize, String>, now: Now, next: Now) {
        let mut all = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = all.get_mut(name) else { return };
        status.next_try = Some(next);
        match result {
            Ok(keys) => {
                if status.fetched_at.is_none() || status.last_error.is_some() {
                    tracing::info!(provider = name, keys, "identity provider keys are current");
                }
                status.keys = keys;
                status.fetched_at = Some(now);
                status.last_error = None;
                status.fetches_total = status.fetches_total.saturating_add(1);
            }
            Err(error) => {
                if status.last_error.as_ref() != Some(&error) {
                    tracing::warn!(provider = name, %error, "identity provider keys not fetched");
                }
                status.last_error = Some(error);
                status.failures_total = status.failures_total.saturating_add(1);
            }
        }
    }
}

/// A random number in -100..=100, so that many proxies do not ask a provider at the same moment.
fn spread() -> i64 {
    let random = getrandom::u32().unwrap_or_default();
    i64::from(random % 201) - 100
}
