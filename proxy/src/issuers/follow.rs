//! Keeps the key sets of the mesh's issuers current: one task on the control thread for each place of
//! each issuer that publishes its own.
//!
//! Invariants: the data path never waits for a fetch and causes at most one per cooldown and place;
//! a set that is older than one seen before changes nothing; a place that fails changes nothing
//! until its keys were not confirmed for too long, and then only its own keys end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits::ISSUER_KEYS_COOLDOWN_S;
use countersign_ctxtoken::{KeySet, UnixTime, Upkeep};
use countersign_workload_id::WorkloadId;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::fetch::{self, Place};
use crate::clock::Now;
use crate::gateway::key_schedule::KeySchedule;
use crate::live::Live;

/// Time between looks at the clock, and at whether somebody asks for a fetch.
const TICK_MS_MAX: u64 = 1_000;

/// An issuer whose keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Who.
    pub issuer: WorkloadId,
    /// Where each replica publishes.
    pub places: Vec<Place>,
    /// Seconds between two fetches.
    pub refresh_s: u64,
    /// Keys that were not confirmed for so long do not count, seconds.
    pub max_stale_s: u64,
}

/// What is known of one place.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The keys it confirmed last.
    pub set: Option<KeySet>,
    /// Ends their use.
    upkeep: Arc<Upkeep>,
    /// When it confirmed them last.
    pub confirmed_at: Option<Now>,
    /// Why the last fetch was of no use; `None` after a good one.
    pub failure: Option<String>,
    /// Fetches that brought a set.
    pub fetched: u64,
    /// Fetches that brought nothing of use.
    pub failed: u64,
}

/// What is known of every place, by issuer and address.
#[derive(Clone, Debug, Default)]
pub struct Fetched(BTreeMap<(WorkloadId, SocketAddr), Known>);

impl Fetched {
    /// The keys of an issuer, of all its places together. Unusable while no place was reached.
    pub fn key_set(&self, issuer: &WorkloadId) -> KeySet {
        let sets = self.of(issuer).map(|(_, known)| {
            let set = known.set.clone().unwrap_or_default();
            set.kept_by(&known.upkeep)
        });
        let all = KeySet::union(sets);
        // A Destination without endpoints publishes nothing.
        if self.of(issuer).next().is_none() { all.kept_by(&Arc::default()) } else { all }
    }

    /// The places of an issuer.
    pub fn of(&self, issuer: &WorkloadId) -> impl Iterator<Item = (SocketAddr, &Known)> {
        self.0
            .iter()
            .filter(move |((of, _), _)| of == issuer)
            .map(|((_, address), known)| (*address, known))
    }

    /// Whether both hold the same keys everywhere.
    pub fn has_same_keys(&self, other: &Fetched) -> bool {
        let same = |a: &Known, b: &Known| match (&a.set, &b.set) {
            (Some(a_set), Some(b_set)) => {
                a_set.has_same_keys(b_set) && Arc::ptr_eq(&a.upkeep, &b.upkeep)
            }
            (None, None) => Arc::ptr_eq(&a.upkeep, &b.upkeep),
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((a, one), (b, two))| a == b && same(one, two))
    }
}

/// The running fetches. Dropping it stops them.
pub struct Follower {
    live: Arc<Live>,
    fetched: watch::Sender<Arc<Fetched>>,
    tasks: BTreeMap<WorkloadId, (Followed, Vec<AbortOnDrop>)>,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Begins to fetch the keys of these issuers, with the identity that is in force then.
    pub fn start(live: &Arc<Live>, followed: Vec<Followed>) -> Follower {
        let (fetched, _) = watch::channel(Arc::default());
        let mut follower = Follower { live: Arc::clone(live), fetched, tasks: BTreeMap::new() };
        follower.follow(followed);
        follower
    }

    /// What is known; replaced as a whole.
    pub fn fetched(&self) -> watch::Receiver<Arc<Fetched>> {
        self.fetched.subscribe()
    }

    /// Fetches the keys of these issuers and no others, on the current tokio runtime. One that was
    /// there before, unchanged, goes on as it is; one that changed begins anew.
    pub fn follow(&mut self, followed: Vec<Followed>) {
        let gone: Vec<WorkloadId> = self
            .tasks
            .iter()
            .filter(|(_, (known, _))| !followed.contains(known))
            .map(|(issuer, _)| issuer.clone())
            .collect();
        for issuer in gone {
            let Some((before, _)) = self.tasks.remove(&issuer) else { continue };
            let now = followed.iter().find(|one| one.issuer == issuer);
            // What was confirmed at a place that stays as it was goes on counting.
            let stays = |address: SocketAddr| {
                let mut places = before.places.iter().filter(|place| place.address == address);
                places.any(|place| now.is_some_and(|now| now.places.contains(place)))
            };
            self.change(|all| all.retain(|(of, at), _| *of != issuer || stays(*at)));
        }
        for one in followed {
            if !self.tasks.contains_key(&one.issuer) {
                self.fetch_from(one);
            }
        }
    }

    fn fetch_from(&mut self, followed: Followed) {
        let mut tasks = Vec::with_capacity(followed.places.len());
        for place in &followed.places {
            let key = (followed.issuer.clone(), place.address);
            let mut upkeep = Arc::default();
            self.change(|all| upkeep = Arc::clone(&all.entry(key.clone()).or_default().upkeep));
            let task = Task {
                key,
                place: place.clone(),
                upkeep,
                max_stale_s: followed.max_stale_s,
                live: Arc::clone(&self.live),
                fetched: self.fetched.clone(),
                newest: 0,
            };
            let refresh = Duration::from_secs(followed.refresh_s);
            tasks.push(AbortOnDrop(Handle::current().spawn(task.run(refresh)).abort_handle()));
        }
        self.tasks.insert(followed.issuer.clone(), (followed, tasks));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<(WorkloadId, SocketAddr), Known>)) {
        self.fetched.send_modify(|all| change(&mut Arc::make_mut(all).0));
    }
}

/// Keeps the keys of one place current, for as long as it is polled.
struct Task {
    key: (WorkloadId, SocketAddr),
    place: Place,
    upkeep: Arc<Upkeep>,
    max_stale_s: u64,
    live: Arc<Live>,
    fetched: watch::Sender<Arc<Fetched>>,
    /// Sequence of the newest set that was seen.
    newest: u64,
}

impl Task {
    async fn run(mut self, refresh: Duration) {
        let cooldown = Duration::from_secs(ISSUER_KEYS_COOLDOWN_S);
        let mut schedule = KeySchedule::new(refresh, cooldown);
        loop {
            match schedule.wait_ms(Now::read(), self.upkeep.is_wanted()) {
                0 => {
                    self.upkeep.fetching();
                    let began = Now::read();
                    let outcome = self.fetch().await;
                    match &outcome {
                        Ok(_) => schedule.succeeded(Now::read(), spread()),
                        Err(_) => schedule.failed(Now::read(), spread()),
                    }
                    self.note(outcome, began);
                }
                wait => tokio::time::sleep(Duration::from_millis(wait.min(TICK_MS_MAX))).await,
            }
        }
    }

    async fn fetch(&mut self) -> Result<KeySet, String> {
        let snap = self.live.load();
        let tls = snap.mesh_tls(Now::read()).ok_or("this process has no identity to ask with")?;
        let set = fetch::fetch(&self.place, tls).await?;
        if set.sequence() < self.newest {
            return Err(format!(
                "sequence {}, after {} was seen: ignored; was the issuer's clock set back?",
                set.sequence(),
                self.newest
            ));
        }
        self.newest = set.sequence();
        Ok(set)
    }

    /// `began`: what is confirmed is what was published when the fetch began.
    fn note(&self, outcome: Result<KeySet, String>, began: Now) {
        let (issuer, address) = &self.key;
        if outcome.is_ok() {
            self.upkeep.confirm(UnixTime(began.secs().saturating_add(self.max_stale_s)));
        }
        self.fetched.send_modify(|all| {
            let Some(known) = Arc::make_mut(all).0.get_mut(&self.key) else { return };
            match outcome {
                Ok(set) => {
                    if known.failure.take().is_some() || known.set.is_none() {
                        let keys = set.len();
                        tracing::info!(%issuer, %address, keys, "the issuer's keys are current");
                    }
                    known.set = Some(set);
                    known.confirmed_at = Some(began);
                    known.fetched = known.fetched.saturating_add(1);
                }
                Err(why) => {
                    if known.failure.as_ref() != Some(&why) {
                        tracing::warn!(code = "IS-02", %issuer, %address, "the issuer's keys were not fetched: {why}");
                    }
                    known.failure = Some(why);
                    known.failed = known.failed.saturating_add(1);
                }
            }
        });
    }
}

/// A random number in -100..=100, so that many proxies do not ask an issuer at the same moment.
fn spread() -> i64 {
    i64::from(getrandom::u32().unwrap_or_default() % 201) - 100
}
