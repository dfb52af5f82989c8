//! Puts new certificates and documents in force while requests run.
//!
//! Invariant: whatever cannot be used is said and counted, and changes nothing: the last good
//! snapshot stays. Only the control thread builds snapshots.

mod reading;
mod seen;
mod warnings;

use std::future;
use std::sync::Arc;

use countersign_certs_client::federation::Fetched;
use countersign_certs_client::{Certs, State, Status, TrustBundles};
use countersign_ctxtoken::{Issuer, UnixTime};
use countersign_policy::Documents;
use countersign_policy::doc::FederatedBundle;
use countersign_workload_id::TrustDomain;

use crate::admin::{Condition, Readiness};
use crate::audit::{AuditSink, Record, Text};
use crate::clock::Now;
use crate::control;
use crate::gateway::provider_keys::ProviderStatus;
use crate::issuers::follow::Fetched as FetchedKeys;
use crate::live::{Builder, Live, Snapshot};
use crate::telemetry::Metrics;

pub use self::reading::{Outcome, Read, Reading};
pub use self::seen::{DocumentFiles, Seen};
pub use self::warnings::warn_of;

/// What was read last, and how it becomes a snapshot.
pub struct Reload {
    live: Arc<Live>,
    builder: Builder,
    documents: Arc<Documents>,
    certs: Arc<Certs>,
    readiness: Readiness,
    metrics: Metrics,
    audit: AuditSink,
    /// The documents that were read last: those in force, or those that could not take their place.
    /// A key file that they name may still come.
    last_read: Arc<Documents>,
    /// What they were read from.
    seen: Seen,
    reading: Option<Reading>,
    /// It is to be read once more: it was asked for while a reading was under way, which may have
    /// missed what is meant, or there was no thread for it.
    again: bool,
    /// Who waits for the next reading.
    asked: Vec<control::Reload>,
    providers_changed: bool,
    federation_changed: bool,
    /// The newest certificates are not in force yet; tried again every second.
    certs_waiting: bool,
}

impl Reload {
    /// Starts from what is in force, and what it was read from.
    pub fn new(
        live: Arc<Live>,
        builder: Builder,
        (documents, seen, certs): (Arc<Documents>, Seen, Arc<Certs>),
        readiness: Readiness,
        metrics: Metrics,
        audit: AuditSink,
    ) -> Reload {
        let reload = Reload {
            live,
            builder,
            last_read: Arc::clone(&documents),
            documents,
            certs,
            readiness,
            metrics,
            audit,
            seen,
            reading: None,
            again: false,
            asked: Vec::new(),
            providers_changed: false,
            federation_changed: false,
            certs_waiting: false,
        };
        reload.report();
        reload
    }

    /// Takes over new certificates.
    pub fn certs(&mut self, certs: Arc<Certs>) {
        self.certs = Arc::clone(&certs);
        let documents = Arc::clone(&self.documents);
        self.certs_waiting = !self.publish(&documents, &certs);
        if !self.certs_waiting {
            let identity = certs.identity.as_ref();
            let until = identity.map(|me| me.not_after);
            tracing::info!(
                generation = certs.generation,
                not_after = until,
                "certificates in force"
            );
            self.report();
        }
    }

    /// Takes over what the bundle endpoints of other trust domains say.
    pub fn federated(&mut self, fetched: &Arc<Fetched>) {
        for (domain, known) in fetched.iter() {
            let process = self.metrics.process();
            process.bundle_fetches(domain.as_str(), known.fetches.by_result());
            if let Some(at) = known.confirmed_at {
                process.trust_confirmed(
                    domain.as_str(),
                    Now::from_micros(at.saturating_mul(1_000_000)),
                );
            }
        }
        if !self.builder.federation.take(Arc::clone(fetched)) {
            self.federation_status(&self.live.load().bundles);
            return;
        }
        let (documents, certs) = (Arc::clone(&self.documents), Arc::clone(&self.certs));
        if self.publish(&documents, &certs) {
            self.report();
        }
    }

    /// Takes over the key sets that issuers publish.
    pub fn issuer_keys(&mut self, fetched: &Arc<FetchedKeys>) {
        if self.builder.issuer_keys.take(Arc::clone(fetched)) {
            let (documents, certs) = (Arc::clone(&self.documents), Arc::clone(&self.certs));
            self.publish(&documents, &certs);
        }
        for issuer in &self.documents.mesh.issuers {
            let (mut ok, mut failed) = (0_u64, 0_u64);
            for (_, known) in fetched.of(&issuer.id) {
                ok = ok.saturating_add(known.fetched);
                failed = failed.saturating_add(known.failed);
                if let Some(at) = known.confirmed_at {
                    self.metrics.process().issuer_keys_loaded(issuer.id.as_str(), at);
                }
            }
            if ok + failed > 0 {
                self.metrics
                    .process()
                    .key_fetches(issuer.id.as_str(), [("failed", failed), ("ok", ok)]);
            }
        }
    }

    /// Once a second: the keys of our own tokens, where we issue any.
    pub fn own_keys(&mut self) {
        if self.builder.own_keys_moved(&self.documents, &self.certs) {
            let (documents, certs) = (Arc::clone(&self.documents), Arc::clone(&self.certs));
            self.publish(&documents, &certs);
        }
    }

    /// Says which trust domains are named and trusted in vain. Their workloads are refused; nobody
    /// else is affected, so it never makes the proxy unready.
    fn federation_status(&self, bundles: &TrustBundles) {
        let federation = &self.documents.mesh.federation;
        let missing: Vec<String> = federation
            .iter()
            .map(|entry| &entry.trust_domain)
            .filter(|domain| bundles.get(domain).is_none())
            .map(|domain| match self.builder.federation.failure(domain) {
                Some(failure) => format!("{domain} ({failure})"),
                None => domain.to_string(),
            })
            .collect();
        if missing.is_empty() {
            self.readiness.met(Condition::Trust);
        } else {
            let why = format!("no bundle of the federated trust domain {}", missing.join(", "));
            self.readiness.degraded(Condition::Trust, why);
        }
    }

    /// Tries again to put certificates in force that could not be used when they came.
    fn waiting_certs(&mut self) {
        if self.certs_waiting {
            self.certs(Arc::clone(&self.certs));
        }
    }

    /// Once a second: begins to read the documents if a file changed.
    pub fn look(&mut self) {
        self.waiting_certs();
        if self.reading.is_some() {
            return;
        }
        let files = DocumentFiles::of(self.builder.config());
        let changed = files.clone().with(&self.last_read) != self.seen;
        if std::mem::take(&mut self.again) || changed {
            self.begin(files);
        }
    }

    /// Begins to read the documents whether a file changed or not, for somebody who waits for what
    /// comes of it. What is under way may have missed what they mean: then it is read once more.
    pub fn read_again(&mut self, answer: Option<control::Reload>) {
        self.asked.extend(answer);
        if self.reading.is_some() {
            self.again = true;
        } else {
            self.begin(DocumentFiles::of(self.builder.config()));
        }
    }

    fn begin(&mut self, files: DocumentFiles) {
        let of = (Arc::clone(self.builder.config()), self.builder.workload().clone());
        let asked = std::mem::take(&mut self.asked);
        match Reading::start(of, files.clone()) {
            Ok(mut reading) => {
                self.seen = files.with(&self.last_read);
                reading.asked = asked;
                self.reading = Some(reading);
            }
            Err(error) => {
                self.rejected(&format!("no thread to read them: {error}"));
                self.answer(asked);
                self.again = true;
            }
        }
    }

    /// Waits for the reading that is under way; for ever if there is none. May be dropped and called
    /// again.
    pub async fn read(&mut self) -> Outcome {
        match &mut self.reading {
            Some(reading) => reading.outcome().await,
            None => future::pending().await,
        }
    }

    /// Takes over what was read, and tells who asked for it.
    pub fn take(&mut self, outcome: Outcome) {
        let Some(reading) = self.reading.take() else { return };
        match outcome {
            Ok(Read { documents, policy }) => {
                self.seen = reading.files.with(&documents);
                self.last_read = Arc::clone(&documents);
                self.builder.compiled(&documents, policy);
                self.take_over(documents);
            }
            Err(why) => self.rejected(&why),
        }
        self.answer(reading.asked);
        if std::mem::take(&mut self.again) {
            self.begin(DocumentFiles::of(self.builder.config()));
        }
    }

    fn answer(&self, asked: Vec<control::Reload>) {
        for answer in asked {
            // Whoever asked may be gone.
            _ = answer.send(match self.readiness.complaint(Condition::Policy) {
                Some(why) => Err(why),
                None => Ok(format!("documents {} are in force", self.live.load().hash)),
            });
        }
    }

    /// Tells those who wait that nothing comes of it any more.
    pub fn stop(mut self) {
        let asked = self.reading.take().map(|reading| reading.asked).unwrap_or_default();
        for answer in asked.into_iter().chain(self.asked) {
            _ = answer.send(Err("the process is stopping".to_owned()));
        }
    }

    /// Puts documents in force; if they cannot be, the last good ones stay.
    fn take_over(&mut self, documents: Arc<Documents>) {
        let (old, new) = (self.documents.sha256_hex(), documents.sha256_hex());
        let certs = Arc::clone(&self.certs);
        if !self.publish(&documents, &certs) {
            return;
        }
        self.readiness.met(Condition::Policy);
        self.documents = Arc::clone(&documents);
        if old == new {
            return;
        }
        warn_of(&documents, &certs);
        tracing::info!(old = short(&old), new = short(&new), "documents in force");
        let (old, new) = (Text::from(short(&old).to_owned()), Text::from(short(&new).to_owned()));
        let record = Record::control(Now::read(), "documents".into(), Some(old), Some(new));
        self.audit.record(record);
        self.providers_changed = true;
        self.federation_changed = true;
        self.report();
    }

    fn publish(&mut self, documents: &Arc<Documents>, certs: &Arc<Certs>) -> bool {
        match self.builder.build(documents, certs) {
            Ok(snapshot) => {
                self.live.publish(snapshot);
                true
            }
            Err(error) => {
                self.rejected(&error.to_string());
                false
            }
        }
    }

    fn rejected(&self, why: &str) {
        self.metrics.process().documents_rejected("all", "documents");
        tracing::warn!(code = "DO-01", "documents not taken over, the last good set stays\n{why}");
        self.readiness
            .degraded(Condition::Policy, format!("the documents on disk have errors: {why}"));
    }

    /// The snapshot that says whose keys are needed, once after each change of documents.
    pub fn take_provider_change(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.providers_changed).then(|| self.live.load())
    }

    /// The documents, once after each change of them.
    pub fn take_federation_change(&mut self) -> Option<Arc<Documents>> {
        std::mem::take(&mut self.federation_changed).then(|| Arc::clone(&self.documents))
    }

    /// Says how the identity source is doing. The source logs it itself, once a minute at most.
    pub fn identity_status(&self, status: &Status) {
        self.metrics.process().identity(status);
        match status.state {
            State::Valid => self.readiness.met(Condition::Identity),
            State::Late | State::Critical => {
                self.readiness.degraded(Condition::Identity, status.to_string());
            }
            State::Empty | State::Expired | State::Withdrawn => {
                self.readiness.missing(Condition::Identity, status.to_string());
            }
        }
    }

    /// Says which identity providers' keys are missing. Their users are refused; nobody else is
    /// affected, so it never makes the proxy unready.
    pub fn provider_status(&self, providers: &[ProviderStatus]) {
        let missing: Vec<String> = providers
            .iter()
            .filter(|provider| provider.keys == 0)
            .map(|provider| {
                let why = provider.last_error.as_deref().unwrap_or("not fetched yet");
                format!("no keys of identity provider {}: {why}", provider.name)
            })
            .collect();
        let missing: Vec<String> = missing.into_iter().chain(self.missing_issuers()).collect();
        for provider in providers {
            if let Some(fetched) = provider.fetched_at {
                self.metrics.process().issuer_keys_loaded(&provider.name, fetched);
            }
        }
        if missing.is_empty() {
            self.readiness.met(Condition::IssuerKeys);
        } else {
            self.readiness.degraded(Condition::IssuerKeys, missing.join("; "));
        }
    }

    /// Issuers of context tokens whose key set does not count: nobody reached them for too long.
    fn missing_issuers(&self) -> Vec<String> {
        let (snap, now) = (self.live.load(), UnixTime(Now::read().secs()));
        let fetched = self.builder.issuer_keys.fetched();
        let unusable = snap
            .issuers
            .iter()
            .filter(|issuer| issuer.jwks.as_ref().is_some_and(|keys| !keys.is_usable(now)));
        let line = |issuer: &Issuer| {
            let why = fetched.of(&issuer.id).find_map(|(_, known)| known.failure.as_deref());
            format!("no keys of the issuer {}: {}", issuer.id, why.unwrap_or("not fetched yet"))
        };
        unusable.map(line).collect()
    }

    fn report(&self) {
        let process = self.metrics.process();
        process.snapshot("documents", &self.documents.sha256_hex());
        let bundles = Arc::clone(&self.live.load().bundles);
        let federation = &self.documents.mesh.federation;
        // What an endpoint serves is confirmed by its endpoint.
        let fetched = |domain: &TrustDomain| {
            let entry = federation.iter().find(|entry| entry.trust_domain == *domain);
            entry.is_some_and(|entry| matches!(entry.bundle, FederatedBundle::Endpoint(_)))
        };
        for domain in bundles.domains().filter(|domain| !fetched(domain)) {
            process.trust_confirmed(domain.as_str(), Now::read());
        }
        process.only_trust(|name| {
            let known = |domain: &TrustDomain| domain.as_str() == name;
            bundles.domains().any(known) || federation.iter().any(|e| known(&e.trust_domain))
        });
        self.federation_status(&bundles);
    }
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}
