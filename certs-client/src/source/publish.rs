//! The one writer of snapshots and status. Sources call it; nobody else can.
//!
//! Invariants: what is published passed the gate; the generation grows exactly when identity or
//! bundles changed; an identity is out of the snapshot one second after its end.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use countersign_workload_id::WorkloadId;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{CertSource, Clock};
use crate::{
    bundle::TrustBundles,
    gate::{self, Delivered, GateError},
    identity::{Certs, Identity},
    jwt_bundle::JwtBundles,
    renewal,
    status::{Failure, NextTry, State, Status},
};

/// Time between looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// A step of the wall clock beyond this between two looks is logged.
const CLOCK_STEP_MS_MAX: u64 = 30_000;
/// Seconds between two warnings about the same lateness.
const WARN_EVERY_S: u64 = 60;

pub(crate) struct Publisher {
    certs: watch::Sender<Arc<Certs>>,
    status: watch::Sender<Arc<Status>>,
    life: Mutex<Life>,
    expected_id: Option<WorkloadId>,
    clock: Clock,
}

/// What lateness is measured from.
#[derive(Default)]
struct Life {
    received_at: u64,
    warned_at: u64,
}

/// A failure as a source sees it; the publisher adds the time.
pub(crate) struct Failed<'a> {
    pub(crate) authority: &'a str,
    pub(crate) call: &'static str,
    pub(crate) answer: String,
    pub(crate) hint: Option<Cow<'static, str>>,
}

impl Publisher {
    pub(crate) fn new(
        source: &CertSource,
        expected_id: Option<WorkloadId>,
        clock: Clock,
    ) -> (Publisher, watch::Receiver<Arc<Certs>>, watch::Receiver<Arc<Status>>) {
        let (certs, certs_reader) = watch::channel(Arc::new(Certs::default()));
        let status = Status { source: source.to_string(), ..Status::default() };
        let (status, status_reader) = watch::channel(Arc::new(status));
        let publisher = Publisher { certs, status, life: Mutex::default(), expected_id, clock };
        (publisher, certs_reader, status_reader)
    }

    /// Validates a delivery and publishes it with the bundles that came with it.
    pub(crate) fn deliver(
        &self,
        delivered: Delivered,
        bundles: TrustBundles,
    ) -> Result<(), GateError> {
        let now = self.now_s();
        let identity = gate::admit(delivered, &bundles, self.expected_id.as_ref(), now)?;
        let held = Arc::clone(&self.certs.borrow());
        let same_leaf =
            held.identity.as_ref().filter(|held| held.leaf_sha256 == identity.leaf_sha256).cloned();
        let rotated = same_leaf.is_none();
        if rotated {
            *self.life() = Life { received_at: now, warned_at: 0 };
            info!(id = %identity.id, not_after = identity.not_after, "identity received");
        }
        let identity = same_leaf.unwrap_or_else(|| Arc::new(identity));
        let not_after = identity.not_after;
        self.publish(Some(identity), Arc::new(bundles));
        self.update_status(|status| {
            status.identities_total += u64::from(rotated);
            status.not_after = Some(not_after);
            status.last_success_at = Some(now);
            status.last_failure = None;
        });
        self.look(now);
        Ok(())
    }

    /// Publishes bundles that came alone; the identity stays.
    pub(crate) fn deliver_bundles(&self, bundles: TrustBundles) {
        let identity = self.certs.borrow().identity.clone();
        self.publish(identity, Arc::new(bundles));
    }

    /// Publishes the keys of JWT-SVIDs; identity and X.509 bundles stay.
    pub(crate) fn deliver_jwt_bundles(&self, jwt_bundles: JwtBundles) {
        let changed = self.certs.send_if_modified(|held| {
            if *held.jwt_bundles == jwt_bundles {
                return false;
            }
            let jwt_bundles = Arc::new(jwt_bundles);
            let generation = held.generation.saturating_add(1);
            *held = Arc::new(Certs { jwt_bundles, generation, ..Certs::clone(held) });
            true
        });
        if changed {
            let generation = self.certs.borrow().generation;
            self.update_status(|status| status.generation = generation);
        }
    }

    /// Takes the identity away at once.
    pub(crate) fn withdraw(&self, bundles: TrustBundles) {
        if let Some(identity) = &self.certs.borrow().identity {
            error!(id = %identity.id, "identity withdrawn by its source");
        }
        let had = self.certs.borrow().identity.is_some();
        self.publish(None, Arc::new(bundles));
        self.update_status(|status| {
            status.not_after = None;
            if had {
                status.state = State::Withdrawn;
            }
        });
    }

    /// Takes the identity away at once; the bundles stay.
    pub(crate) fn withdraw_identity(&self) {
        let bundles = Arc::clone(&self.certs.borrow().bundles);
        self.withdraw(TrustBundles::clone(&bundles));
    }

    /// Records a failure; what is published stays.
    pub(crate) fn failed(&self, failed: Failed<'_>, next_try: NextTry) {
        let Failed { authority, call, answer, hint } = failed;
        let at = self.now_s();
        let failure = Failure { authority: authority.to_owned(), call, answer, hint, at, next_try };
        let repeated = self
            .status
            .borrow()
            .last_failure
            .as_ref()
            .is_some_and(|last| last.answer == failure.answer);
        if repeated {
            debug!(%failure, "identity source failed again");
        } else {
            warn!(%failure, "identity source failed");
        }
        self.update_status(|status| {
            status.failures_total += 1;
            status.last_failure = Some(failure);
        });
    }

    /// Where this process stands with its identity.
    pub(crate) fn state(&self) -> State {
        self.status.borrow().state
    }

    /// What is published now.
    pub(crate) fn published(&self) -> Arc<Certs> {
        Arc::clone(&self.certs.borrow())
    }

    /// Whether an identity is in the snapshot.
    pub(crate) fn has_identity(&self) -> bool {
        self.certs.borrow().identity.is_some()
    }

    /// The only identity this process may have, if configured.
    pub(crate) fn expected_id(&self) -> Option<&WorkloadId> {
        self.expected_id.as_ref()
    }

    /// The wait after failed attempt number `attempt`, and when it ends.
    pub(crate) fn backoff(&self, attempt: u32) -> (Duration, NextTry) {
        let ms_max = if self.has_identity() {
            renewal::BACKOFF_MS_MAX
        } else {
            renewal::BACKOFF_EMPTY_MS_MAX
        };
        let mut random = [0xff; 4];
        // Without randomness the wait is the longest one, which is safe.
        let _ = SystemRandom::new().fill(&mut random);
        let wait = renewal::backoff(attempt, u32::from_ne_bytes(random), ms_max);
        (wait, self.next_try(wait))
    }

    /// The moment after `wait`.
    pub(crate) fn next_try(&self, wait: Duration) -> NextTry {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        NextTry::At((self.clock)().saturating_add(wait_ms))
    }

    /// Whether the identity is to be renewed now.
    pub(crate) fn is_due(&self) -> bool {
        let held = Arc::clone(&self.certs.borrow());
        let Some(identity) = &held.identity else { return true };
        let from = identity.not_before.max(self.life().received_at);
        let life = identity.not_after.saturating_sub(from);
        self.now_s().saturating_sub(from).saturating_mul(100) >= life.saturating_mul(55)
    }

    /// Ends identities that are over and raises alarms; never returns.
    pub(crate) async fn watch_the_clock(&self) {
        let mut last_ms = (self.clock)();
        loop {
            tokio::time::sleep(TICK).await;
            let now_ms = (self.clock)();
            if now_ms.abs_diff(last_ms) > CLOCK_STEP_MS_MAX {
                warn!(from_ms = last_ms, to_ms = now_ms, "the wall clock stepped");
            }
            last_ms = now_ms;
            self.look(now_ms / 1000);
        }
    }

    fn look(&self, now: u64) {
        let held = Arc::clone(&self.certs.borrow());
        let Some(identity) = &held.identity else { return };
        let from = identity.not_before.max(self.life().received_at);
        let state = renewal::state_at(from, identity.not_after, now);
        if state == State::Expired {
            error!(id = %identity.id, not_after = identity.not_after, "identity expired");
            self.publish(None, Arc::clone(&held.bundles));
        } else {
            self.warn_if_late(state, identity, now);
        }
        if self.status.borrow().state != state {
            self.update_status(|status| status.state = state);
        }
    }

    fn warn_if_late(&self, state: State, identity: &Identity, now: u64) {
        let mut life = self.life();
        if state == State::Valid || now.saturating_sub(life.warned_at) < WARN_EVERY_S {
            return;
        }
        life.warned_at = now;
        let left_s = identity.not_after.saturating_sub(now);
        let status = Arc::clone(&self.status.borrow());
        match state {
            State::Critical => error!(left_s, %status, "identity is about to expire"),
            _ => warn!(left_s, %status, "identity is late"),
        }
    }

    fn publish(&self, identity: Option<Arc<Identity>>, bundles: Arc<TrustBundles>) {
        let leaf = |identity: &Option<Arc<Identity>>| identity.as_ref().map(|i| i.leaf_sha256);
        let changed = self.certs.send_if_modified(|held| {
            if leaf(&held.identity) == leaf(&identity) && held.bundles == bundles {
                return false;
            }
            let generation = held.generation.saturating_add(1);
            let jwt_bundles = Arc::clone(&held.jwt_bundles);
            *held = Arc::new(Certs { identity, bundles, jwt_bundles, generation });
            true
        });
        if changed {
            let generation = self.certs.borrow().generation;
            self.update_status(|status| status.generation = generation);
        }
    }

    fn update_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    pub(crate) fn now_s(&self) -> u64 {
        (self.clock)() / 1000
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
