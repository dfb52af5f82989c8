//! Puts new certificates and documents in force while requests run.
//!
//! Invariant: whatever cannot be used is said and counted, and changes nothing: the last good
//! snapshot stays. Only the control thread builds snapshots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use countersign_certs_client::federation::Fetched;
use countersign_certs_client::{Certs, State, Status, TrustBundles, svid};
use countersign_config::{ProxyConfig, document_files};
use countersign_ctxtoken::{Issuer, UnixTime};
use countersign_policy::Documents;
use countersign_policy::doc::{
    DestinationPeer, FederatedBundle, FileRef, IssuerJwks, SvidBundle, TlsRoots,
};
use countersign_workload_id::TrustDomain;

use crate::admin::{Condition, Readiness};
use crate::audit::{AuditSink, Record, Text};
use crate::clock::Now;
use crate::gateway::provider_keys::ProviderStatus;
use crate::issuers::follow::Fetched as FetchedKeys;
use crate::live::{Builder, Live, Snapshot};
use crate::telemetry::Metrics;

/// What was read last, and how it becomes a snapshot.
pub struct Reload {
    live: Arc<Live>,
    builder: Builder,
    documents: Arc<Documents>,
    certs: Arc<Certs>,
    readiness: Readiness,
    metrics: Metrics,
    audit: AuditSink,
    seen: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
    providers_changed: bool,
    federation_changed: bool,
    /// The newest certificates are not in force yet; tried again every second.
    certs_waiting: bool,
}

impl Reload {
    /// Starts from what is in force.
    pub fn new(
        live: Arc<Live>,
        builder: Builder,
        (documents, certs): (Arc<Documents>, Arc<Certs>),
        readiness: Readiness,
        metrics: Metrics,
        audit: AuditSink,
    ) -> Reload {
        let reload = Reload {
            live,
            builder,
            documents,
            certs,
            readiness,
            metrics,
            audit,
            seen: Vec::new(),
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

    /// Reads the documents again if a file changed, or if asked to.
    pub fn documents(&mut self, config: &ProxyConfig, asked: bool) {
        self.waiting_certs();
        let mut files = document_files(&config.documents).unwrap_or_default();
        files.extend(self.key_files());
        let seen: Vec<_> = files.into_iter().map(|file| (file.clone(), stamp(&file))).collect();
        if seen == self.seen && !asked {
            return;
        }
        self.seen = seen;
        match config.reload_documents() {
            Ok(documents) => self.take_over(Arc::new(documents)),
            Err(problems) => {
                self.rejected(&problems.to_string());
            }
        }
    }

    /// Key sets, bundles and roots that documents refer to; their change counts like a document's.
    fn key_files(&self) -> Vec<PathBuf> {
        let mesh = &self.documents.mesh;
        let foreign = mesh.federation.iter().flat_map(|entry| &entry.context.issuers);
        let issuers = mesh.issuers.iter().chain(foreign);
        let keys = issuers.filter_map(|issuer| match &issuer.jwks {
            Some(IssuerJwks::File(file)) => Some(file),
            Some(IssuerJwks::Destination { .. }) | None => None,
        });
        let roots = self.documents.destinations.iter().filter_map(|named| match &named.spec.peer {
            DestinationPeer::Tls { roots: TlsRoots::File(file), .. } => Some(file),
            DestinationPeer::Tls { roots: TlsRoots::System, .. } | DestinationPeer::Mesh { .. } => {
                None
            }
        });
        let bundles =
            self.documents.mesh.federation.iter().filter_map(|entry| match &entry.bundle {
                FederatedBundle::File(file) => Some(file),
                FederatedBundle::Source | FederatedBundle::Endpoint(_) => None,
            });
        let gateways = self.documents.gateways.iter();
        let callers = gateways.filter_map(|named| named.spec.callers.jwt_svid.as_ref());
        let tokens = callers.filter_map(|callers| match &callers.bundle {
            SvidBundle::File(file) => Some(file),
            SvidBundle::Source => None,
        });
        keys.chain(roots).chain(bundles).chain(tokens).map(FileRef::resolve).collect()
    }

    fn take_over(&mut self, documents: Arc<Documents>) {
        let (old, new) = (self.documents.sha256_hex(), documents.sha256_hex());
        let certs = Arc::clone(&self.certs);
        if !self.publish(&documents, &certs) {
            return;
        }
        self.readiness.met(Condition::Policy);
        if old == new {
            return;
        }
        warn_of(&documents, &certs);
        tracing::info!(old = short(&old), new = short(&new), "documents in force");
        let (old, new) = (Text::from(short(&old).to_owned()), Text::from(short(&new).to_owned()));
        let record = Record::control(Now::read(), "documents".into(), Some(old), Some(new));
        self.audit.record(record);
        self.documents = documents;
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

/// Says what of the documents will not do what somebody may expect.
pub fn warn_of(documents: &Documents, certs: &Certs) {
    for warning in &documents.warnings {
        tracing::warn!(code = warning.code, "{warning}");
    }
    let leaf = certs.identity.as_ref().and_then(|me| me.chain_der.first());
    let attested =
        leaf.and_then(|leaf| svid::facts(leaf).ok()).is_some_and(|f| f.pod_uid.is_some());
    let names_pods = documents.revocations.iter().any(|named| !named.spec.pods.is_empty());
    if names_pods && !attested {
        tracing::warn!(
            code = "RV-01",
            "a Revocation names pods, and our own certificate does not say which pod it is for: \
             where the source of certificates attests none, `pods` hits nobody; revoke certificates \
             or the identity, and stop issuance at the source"
        );
    }
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

/// Change of a file as far as its metadata shows; `None` if it is not there.
fn stamp(file: &PathBuf) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
