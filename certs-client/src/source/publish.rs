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
    crl::{Authorities, Crl, CrlStore},
    gate::{self, Delivered, GateError},
    identity::{Certs, Identity},
    jwt_bundle::JwtBundles,
    renewal::{
        self,
        machine::{Action, Event, Next, Renewal},
    },
    status::{CrlStatus, Failure, NextTry, State, Status},
    svid::{self, SvidError, Usage},
};

/// Time between looks at the clock.
const TICK: Duration = Duration::from_secs(1);

pub(crate) struct Publisher {
    certs: watch::Sender<Arc<Certs>>,
    status: watch::Sender<Arc<Status>>,
    renewal: Mutex<Renewal>,
    crls: Mutex<CrlStore>,
    expected_id: Option<WorkloadId>,
    clock: Clock,
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
        let status =
            Status { source: source.to_string(), kind: source.kind(), ..Status::default() };
        let (status, status_reader) = watch::channel(Arc::new(status));
        let publisher = Publisher {
            certs,
            status,
            renewal: Mutex::default(),
            crls: Mutex::default(),
            expected_id,
            clock,
        };
        (publisher, certs_reader, status_reader)
    }

    /// Validates a delivery and publishes it with the bundles that came with it.
    pub(crate) fn deliver(
        &self,
        delivered: Delivered,
        bundles: TrustBundles,
    ) -> Result<(), GateError> {
        self.deliver_both(delivered, None, bundles)
    }

    /// As [`Publisher::deliver`], with another certificate of the same workload that signs its
    /// context tokens.
    pub(crate) fn deliver_both(
        &self,
        mut delivered: Delivered,
        token_signer: Option<Delivered>,
        bundles: TrustBundles,
    ) -> Result<(), GateError> {
        let now = self.now_s();
        let crls = std::mem::take(&mut delivered.crls);
        let identity = gate::admit(delivered, &bundles, self.expected_id.as_ref(), now)?;
        let token_signer = token_signer
            .map(|signer| gate::admit(signer, &bundles, Some(&identity.id), now))
            .transpose()?;
        let held = Arc::clone(&self.certs.borrow());
        let same_leaf =
            held.identity.as_ref().filter(|held| held.leaf_sha256 == identity.leaf_sha256).cloned();
        let rotated = same_leaf.is_none();
        if rotated {
            info!(id = %identity.id, not_after = identity.not_after, "identity received");
        }
        let identity = same_leaf.unwrap_or_else(|| Arc::new(identity));
        let (not_before, not_after) = (identity.not_before, identity.not_after);
        self.publish(Some(identity), token_signer.map(Arc::new), Arc::new(bundles));
        self.deliver_crls(&crls);
        self.update_status(|status| {
            status.identities_total += u64::from(rotated);
            status.not_after = Some(not_after);
            status.last_success_at = Some(now);
            status.last_failure = None;
        });
        self.on(if rotated { Event::Delivered { not_before, not_after } } else { Event::Tick });
        Ok(())
    }

    /// Publishes bundles that came alone between two certificates. They replace those in force
    /// only if they vouch for the certificate we hold, as the gate demands of what comes together;
    /// `false`: they are the ones in force, or there is no certificate, and the next brings its own.
    pub(crate) fn renew_bundles(&self, bundles: TrustBundles) -> Result<bool, SvidError> {
        let held = self.published();
        let Some(identity) = held.identity.as_ref().filter(|_| *held.bundles != bundles) else {
            return Ok(false);
        };
        let now = svid::unix_time(self.now_s());
        drop(svid::validate(&identity.chain_der, &bundles, Usage::TlsClient, now)?);
        self.deliver_bundles(bundles);
        Ok(true)
    }

    /// Publishes bundles that came alone; the identity stays.
    pub(crate) fn deliver_bundles(&self, bundles: TrustBundles) {
        let held = self.published();
        self.publish(held.identity.clone(), held.token_signer.clone(), Arc::new(bundles));
    }

    /// Takes revocation lists. One that cannot be used is discarded; what is in force stays until
    /// its authority signs a newer one.
    pub(crate) fn deliver_crls(&self, crls: &[Crl]) {
        let held = Arc::clone(&self.certs.borrow());
        let judged = self.crls().take(crls, &authorities(held.identity.as_deref(), &held.bundles));
        for problem in &judged.discarded {
            warn!(code = "RV-02", %problem, "a revocation list was discarded");
        }
        let discarded = u64::try_from(judged.discarded.len()).unwrap_or(u64::MAX);
        if discarded > 0 {
            self.update_status(|status| status.crls.discarded_total += discarded);
        }
        self.replace(Certs { crls: Arc::new(judged.crls), ..Certs::clone(&held) });
    }

    /// Publishes the keys of JWT-SVIDs; identity and X.509 bundles stay.
    pub(crate) fn deliver_jwt_bundles(&self, jwt_bundles: JwtBundles) {
        let held = Arc::clone(&self.certs.borrow());
        self.replace(Certs { jwt_bundles: Arc::new(jwt_bundles), ..Certs::clone(&held) });
    }

    /// Takes the identity away at once.
    pub(crate) fn withdraw(&self, bundles: TrustBundles) {
        if let Some(identity) = &self.certs.borrow().identity {
            error!(id = %identity.id, "identity withdrawn by its source");
        }
        self.publish(None, None, Arc::new(bundles));
        self.update_status(|status| status.not_after = None);
        self.on(Event::Withdrawn);
    }

    /// Takes the identity away at once, and everybody who was trusted in its name: what was opened
    /// with it ends.
    pub(crate) fn withdraw_identity(&self) {
        self.withdraw(TrustBundles::default());
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
        let ends = self.published().identity.as_ref().map(|identity| identity.not_after);
        let left_s = ends.map(|ends| ends.saturating_sub(self.now_s()));
        let wait = renewal::backoff(attempt, random(), renewal::backoff_ms_max(left_s));
        (wait, self.next_try(wait))
    }

    /// The moment after `wait`.
    pub(crate) fn next_try(&self, wait: Duration) -> NextTry {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        NextTry::At((self.clock)().saturating_add(wait_ms))
    }

    /// What a source that asks by itself does next.
    pub(crate) fn next(&self) -> Next {
        let held = Arc::clone(&self.certs.borrow());
        if held.identity.as_ref().is_some_and(|identity| !identity.key.is_usable()) {
            self.on(Event::KeyLost);
        }
        self.renewal().next((self.clock)())
    }

    /// An attempt of a source that asks by itself begins.
    pub(crate) fn asks(&self) {
        self.on(Event::Asked);
    }

    /// An attempt failed: the machine says when the next one is.
    pub(crate) fn attempt_failed(&self, failed: Failed<'_>, event: Event) {
        self.on(event);
        let next_try = match (event, self.renewal().wait_until_ms()) {
            (Event::Refused, _) | (_, None) => NextTry::Never,
            (_, Some(until_ms)) => NextTry::At(until_ms),
        };
        self.failed(failed, next_try);
    }

    /// Ends identities that are over and raises alarms; never returns.
    pub(crate) async fn watch_the_clock(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.look_at_the_clock();
        }
    }

    pub(crate) fn look_at_the_clock(&self) {
        self.on(Event::Tick);
        let held = self.published();
        // A certificate for tokens that has ended gives way to the identity.
        if held.token_signer.as_ref().is_some_and(|signer| signer.not_after < self.now_s()) {
            self.publish(held.identity.clone(), None, Arc::clone(&held.bundles));
        }
        if !held.crls.is_empty() {
            self.look_at_crls();
        }
    }

    /// Tells the machine, and does what it says.
    fn on(&self, event: Event) {
        let now_ms = (self.clock)();
        let (actions, state, attempt, clock_steps) = {
            let mut renewal = self.renewal();
            let actions = renewal.on(event, now_ms, random());
            (actions, renewal.state(now_ms), renewal.attempt(), renewal.clock_steps())
        };
        let changed = |status: &Status| {
            (status.state, status.attempt, status.clock_steps_total)
                != (state, attempt, clock_steps)
        };
        if actions.contains(&Action::Expire) {
            let held = Arc::clone(&self.certs.borrow());
            self.publish(None, None, Arc::clone(&held.bundles));
        }
        if changed(&self.status.borrow()) {
            self.update_status(|status| {
                status.state = state;
                status.attempt = attempt;
                status.clock_steps_total = clock_steps;
            });
        }
        for action in actions {
            self.tell(action, now_ms);
        }
    }

    fn tell(&self, action: Action, now_ms: u64) {
        let status = Arc::clone(&self.status.borrow());
        let left_s = status.not_after.map(|end| end.saturating_sub(now_ms / 1_000));
        match action {
            Action::ClockStepped { from_ms, to_ms } => {
                warn!(code = "ID-03", from_ms, to_ms, "the wall clock stepped");
            }
            Action::Expire => {}
            Action::Warn(State::Late) => {
                warn!(code = "ID-01", left_s, %status, "the certificate is not being renewed");
            }
            Action::Warn(State::Critical) => {
                error!(code = "ID-01", left_s, %status, "the certificate is about to end");
            }
            Action::Warn(_) => error!(code = "ID-02", %status, "no usable certificate"),
        }
    }

    fn publish(
        &self,
        identity: Option<Arc<Identity>>,
        token_signer: Option<Arc<Identity>>,
        bundles: Arc<TrustBundles>,
    ) {
        let held = Arc::clone(&self.certs.borrow());
        let crls = if held.bundles == bundles {
            Arc::clone(&held.crls)
        } else {
            let trusted = authorities(identity.as_deref(), &bundles);
            Arc::new(self.crls().trust_changed(&trusted))
        };
        self.replace(Certs { identity, token_signer, bundles, crls, ..Certs::clone(&held) });
    }

    /// Puts the next snapshot in force, if it differs from the one that is.
    fn replace(&self, next: Certs) {
        let leaf = |identity: &Option<Arc<Identity>>| identity.as_ref().map(|i| i.leaf_sha256);
        let changed = self.certs.send_if_modified(|held| {
            let same = leaf(&held.identity) == leaf(&next.identity)
                && leaf(&held.token_signer) == leaf(&next.token_signer)
                && held.bundles == next.bundles
                && held.crls == next.crls
                && held.jwt_bundles == next.jwt_bundles;
            if !same {
                *held = Arc::new(Certs { generation: held.generation.saturating_add(1), ..next });
            }
            !same
        });
        if changed {
            let certs = Arc::clone(&self.certs.borrow());
            self.update_status(|status| status.generation = certs.generation);
            self.look_at_crls();
        }
    }

    /// A list past its time stays in force, and is told.
    fn look_at_crls(&self) {
        let crls = Arc::clone(&self.certs.borrow().crls);
        let before = self.status.borrow().crls.clone();
        let stale = crls.stale(self.now_s());
        let now = CrlStatus { lists: crls.len(), serials: crls.serials(), stale, ..before.clone() };
        if stale > before.stale {
            warn!(
                code = "RV-03",
                stale, "a revocation list is past its nextUpdate; it stays in force"
            );
        }
        if now != before {
            self.update_status(|status| status.crls = now);
        }
    }

    fn update_status(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    pub(crate) fn now_s(&self) -> u64 {
        (self.clock)() / 1000
    }

    fn crls(&self) -> MutexGuard<'_, CrlStore> {
        self.crls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may sign revocation lists that count for us.
fn authorities<'a>(me: Option<&'a Identity>, bundles: &'a TrustBundles) -> Authorities<'a> {
    let own = me.map(|me| (me.id.trust_domain(), me.chain_der.as_slice()));
    Authorities { bundles, own }
}

/// Without randomness waits are the longest ones, which is safe.
fn random() -> u32 {
    let mut random = [0xff; 4];
    let _ = SystemRandom::new().fill(&mut random);
    u32::from_ne_bytes(random)
}
