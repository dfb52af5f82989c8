//! The one snapshot the data path reads, swapped as a whole.
//!
//! A request takes it once, so keys, policy, trust and destinations it sees are of one generation.
//! Invariant: a snapshot never changes; building one that fails leaves the last good one in force.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_certs_client::svid::SignerChains;
use countersign_certs_client::{Certs, Crls, Identity, TrustBundles};
use countersign_config::{ProxyConfig, limits};
use countersign_ctxtoken::{IssuerSet, Limits as TokenLimits, Presenters, UnixTime, VerifyWith};
use countersign_policy::doc::Custody;
use countersign_policy::{Compiled, Documents, Revocations, Workload};
use countersign_workload_id::TrustDomain;
use tokio::sync::watch;

use crate::clock::Now;
use crate::federation::Bundles;
use crate::gateway::provider_keys::Provider;
use crate::gateway::rules::GatewayRules;
use crate::inbound::context::SKEW_S;
use crate::inbound::crossing::Crossings;
use crate::issuer::Issuer;
use crate::issuers::Keys;
use crate::outbound::discover::Destinations;
use crate::tls::outside::OutsideRoots;
use crate::tls::verify::Trust;
use crate::tls::{MeshTls, TlsBuildError};
use crate::tokens::{GrantKeys, KeyFiles, TokenRules};

/// Everything a request is judged by.
pub struct Snapshot {
    /// Whose certificates and anchors, and their generation.
    pub certs: Arc<Certs>,
    /// Whom certificates are believed from: our own domain, and those the documents name.
    pub bundles: Arc<TrustBundles>,
    /// TLS configurations of that generation; `None` without a usable identity.
    pub tls: Option<Arc<MeshTls>>,
    /// The documents in force.
    pub documents: Arc<Documents>,
    /// First 8 hex digits of their hash.
    pub hash: Arc<str>,
    /// What no longer counts although it has not ended.
    pub revocations: Arc<Revocations>,
    /// The policy of this workload.
    pub policy: Arc<Compiled>,
    /// Who may make context tokens.
    pub issuers: Arc<IssuerSet>,
    /// Whose foreign context is taken and minted anew.
    pub crossings: Arc<Crossings>,
    /// Which peers may present tokens where, on top of custody.
    pub presenters: Presenters,
    /// Whether a token counts only from a workload it was handed to.
    pub custody_required: bool,
    /// Limits of tokens.
    pub token_limits: TokenLimits,
    /// Who can be called.
    pub destinations: Arc<Destinations>,
    /// What the gateway captures, routes and mints.
    pub gateway: Option<Arc<GatewayRules>>,
    /// Makes context tokens, or why this process makes none.
    pub issuer: Result<Arc<Issuer>, String>,
    /// What its token service grants; `None`: it has none.
    pub tokens: Option<Arc<TokenRules>>,
    /// Makes and believes deferred grants, or why this process does neither.
    pub grants: Result<Arc<GrantKeys>, String>,
    /// Grows with every snapshot; caches are tied to it.
    pub generation: u64,
    /// Generation in which an authority was last missed, or revoked something: what was proved
    /// before is held against the authorities of today.
    pub trust_shrank_at: u64,
    /// Generation in which our certificates last changed, or somebody was last believed no longer.
    /// Connections to other sidecars are used for requests of the same one only.
    pub peers_generation: u64,
}

impl Snapshot {
    /// The trust domain of the mesh.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.documents.mesh.trust_domain
    }

    /// The TLS of the mesh, while our own certificate holds: also in the moment before its end is
    /// noticed.
    pub fn mesh_tls(&self, now: Now) -> Option<&Arc<MeshTls>> {
        self.tls.as_ref().filter(|_| self.identity().is_some_and(|me| now.secs() <= me.not_after))
    }

    /// What chains of signers of tokens are checked by.
    pub fn chains(&self) -> SignerChains<'_> {
        SignerChains { bundles: &self.bundles, crls: &self.certs.crls }
    }

    /// What a context token is verified with. `chains` is [`Snapshot::chains`], held by the caller.
    pub fn verifying<'a>(&'a self, chains: &'a SignerChains<'a>, now: UnixTime) -> VerifyWith<'a> {
        VerifyWith {
            issuers: &self.issuers,
            chains,
            trust_domain: self.trust_domain(),
            now,
            skew_s: SKEW_S,
            limits: &self.token_limits,
        }
    }

    /// Our own identity.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.certs.identity.as_ref()
    }

    /// All identity providers whose keys this process needs.
    pub fn providers(&self) -> &[Arc<Provider>] {
        match (&self.gateway, &self.tokens) {
            // A gateway keeps the keys of all of them.
            (Some(gateway), _) => &gateway.providers,
            (None, Some(tokens)) => &tokens.taken,
            (None, None) => &[],
        }
    }
}

/// Holds the snapshot in force.
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    retired: Retired<Snapshot>,
    /// Its generation, for those who wait for the next one.
    generation: watch::Sender<u64>,
}

impl Live {
    /// Starts with `first`.
    pub fn new(first: Snapshot) -> Live {
        let generation = watch::Sender::new(first.generation);
        Live { snapshot: ArcSwap::from_pointee(first), retired: Retired::default(), generation }
    }

    /// The snapshot in force.
    pub fn load(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Puts `next` in force for every request that starts from now on.
    pub fn publish(&self, next: Snapshot) {
        let generation = next.generation;
        self.retired.keep(self.snapshot.swap(Arc::new(next)));
        self.generation.send_replace(generation);
    }

    /// Drops the snapshots that no request holds any longer; for the control thread, now and then.
    pub fn let_go(&self) {
        self.retired.let_go();
    }

    /// Tells when another snapshot is in force.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

/// What was in force and may still be held by requests. Keeping it here makes the control thread the
/// last to let go: no worker stops between two requests to drop ten thousand documents.
struct Retired<T>(Mutex<Vec<Arc<T>>>);

impl<T> Default for Retired<T> {
    fn default() -> Retired<T> {
        Retired(Mutex::default())
    }
}

impl<T> Retired<T> {
    fn keep(&self, old: Arc<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(old);
    }

    fn let_go(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who sees one holder is that holder: nobody can take another one out of here.
        kept.retain(|old| Arc::strong_count(old) > 1);
    }
}

/// The limits of context tokens, from the limits file.
pub fn token_limits() -> TokenLimits {
    TokenLimits {
        token_bytes_max: limits::TOKEN_BYTES_MAX,
        hops_bytes_max: limits::HOPS_BYTES_MAX,
        hops_max: limits::HOPS_MAX,
        cache_entries_max: limits::TOKEN_CACHE_ENTRIES_MAX,
        cache_bytes_max: limits::TOKEN_CACHE_BYTES_MAX,
        ..TokenLimits::default()
    }
}

/// Builds snapshots; kept by the control thread, which is the only one to build them.
pub struct Builder {
    config: Arc<ProxyConfig>,
    workload: Workload,
    provider: Arc<rustls::crypto::CryptoProvider>,
    generation: u64,
    /// What vouches for services outside the mesh.
    roots: OutsideRoots,
    /// The bundles of other trust domains.
    pub federation: Bundles,
    /// The keys of issuers: what others publish, and our own.
    pub issuer_keys: Keys,
    /// The keys of our own grants.
    grant_keys: KeyFiles,
    /// The issuer list built last, and the documents it was built from.
    issuers: Option<(String, Arc<IssuerSet>)>,
    /// The policy compiled last, and what from.
    policy: Option<(Arc<Documents>, Arc<Compiled>)>,
    /// Whom the last snapshot believed, and its `trust_shrank_at`.
    believed: Option<(Arc<TrustBundles>, Arc<Crls>)>,
    trust_shrank_at: u64,
    /// Generation of the certificates in the last snapshot, and its `peers_generation`.
    certs: Option<u64>,
    peers_generation: u64,
}

/// Why a snapshot could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The TLS side.
    #[error(transparent)]
    Tls(#[from] TlsBuildError),
    /// A document refers to something this process cannot use.
    #[error("{0}")]
    Documents(String),
}

impl Builder {
    /// A builder for this process.
    pub fn new(config: Arc<ProxyConfig>) -> Builder {
        let workload =
            Workload { namespace: config.namespace.clone(), labels: config.labels.clone() };
        let provider = crate::tls::provider(&config.tls_groups);
        let roots = OutsideRoots::new(Arc::clone(&provider));
        let federation = Bundles::default();
        let issuer_keys = Keys::new(&config);
        Builder {
            config,
            workload,
            issuer_keys,
            grant_keys: KeyFiles::default(),
            provider,
            generation: 0,
            roots,
            federation,
            issuers: None,
            policy: None,
            believed: None,
            trust_shrank_at: 0,
            certs: None,
            peers_generation: 0,
        }
    }

    /// The issuer list. A key set's file that cannot be read right now must not hold up new
    /// certificates: the list built last stays, as long as the documents are the same.
    fn issuers(&mut self, documents: &Documents, hash: &str) -> Result<Arc<IssuerSet>, BuildError> {
        let fetched = self.issuer_keys.fetched();
        match (crate::trust::issuers(documents, fetched), &self.issuers) {
            (Ok(issuers), _) => {
                let issuers = Arc::new(issuers);
                self.issuers = Some((hash.to_owned(), Arc::clone(&issuers)));
                Ok(issuers)
            }
            (Err(why), Some((built_from, last))) if built_from == hash => {
                tracing::warn!(code = "IS-01", why, "the last good key set stays");
                Ok(Arc::clone(last))
            }
            (Err(why), _) => Err(BuildError::Documents(why)),
        }
    }

    /// What the process runs with.
    pub fn config(&self) -> &Arc<ProxyConfig> {
        &self.config
    }

    /// The workload whose policy it is.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Takes over a policy that was compiled from `documents` for this workload.
    pub fn compiled(&mut self, documents: &Arc<Documents>, policy: Arc<Compiled>) {
        self.policy = Some((Arc::clone(documents), policy));
    }

    /// The policy of `documents`, compiled once: certificates change more often than they do.
    fn policy(&mut self, documents: &Arc<Documents>) -> Arc<Compiled> {
        match &self.policy {
            Some((from, policy)) if Arc::ptr_eq(from, documents) => Arc::clone(policy),
            _ => {
                let policy = Arc::new(countersign_policy::compile(documents, &self.workload));
                self.compiled(documents, Arc::clone(&policy));
                policy
            }
        }
    }

    /// Goes on with the keys of our own tokens; whether another one signs now.
    pub fn own_keys_moved(&mut self, documents: &Documents, certs: &Certs) -> bool {
        let Some((_, issuers)) = &self.issuers else { return false };
        self.issuer_keys.follow_own(documents, certs, issuers, Now::read())
    }

    /// Builds the next snapshot.
    ///
    /// # Errors
    /// [`BuildError`]; the caller keeps the last good snapshot.
    pub fn build(
        &mut self,
        documents: &Arc<Documents>,
        certs: &Arc<Certs>,
    ) -> Result<Snapshot, BuildError> {
        let domain = &documents.mesh.trust_domain;
        let revocations = Arc::new(Revocations::of(documents));
        let believed = self.federation.in_force(&documents.mesh, certs);
        let bundles = Arc::new(believed.authorities);
        let trust = Trust {
            bundles: Arc::clone(&bundles),
            crls: Arc::clone(&certs.crls),
            revocations: Arc::clone(&revocations),
        };
        let next = self.generation + 1;
        let accepted: Vec<_> =
            self.config.inbound.iter().map(|listener| listener.trust_domains.as_slice()).collect();
        let build = |identity: &Arc<Identity>| {
            MeshTls::build(identity, &trust, (domain, &accepted), &self.provider, next)
        };
        let tls = certs.identity.as_ref().map(build).transpose()?.map(Arc::new);
        let me = certs.identity.as_ref().map(|identity| &identity.id);
        let destinations = Destinations::build(documents, &self.config, me, &mut self.roots)
            .map_err(BuildError::Documents)?;
        let gateway = GatewayRules::build(
            documents,
            &self.workload,
            &self.config,
            &believed.tokens,
            &destinations,
        );
        let gateway = gateway.map_err(BuildError::Documents)?;
        let tokens = TokenRules::build(documents, &self.workload, &self.config)
            .map_err(BuildError::Documents)?;
        let hash = documents.sha256_hex();
        let issuers = self.issuers(documents, &hash)?;
        let now = Now::read();
        self.issuer_keys.follow_own(documents, certs, &issuers, now);
        let files = &mut self.grant_keys;
        let grants = GrantKeys::build(tokens.as_ref(), &self.config, certs, files);
        let issuer = Issuer::build(documents, &self.config, certs, self.issuer_keys.own(), now);
        self.generation = next;
        self.believes(&trust);
        self.meets_with(certs);
        Ok(Snapshot {
            certs: Arc::clone(certs),
            bundles,
            tls,
            documents: Arc::clone(documents),
            hash: hash.get(..8).unwrap_or(&hash).into(),
            revocations,
            policy: self.policy(documents),
            issuers,
            crossings: Arc::new(Crossings::build(documents).map_err(BuildError::Documents)?),
            presenters: crate::trust::presenters(documents).map_err(BuildError::Documents)?,
            custody_required: documents.mesh.custody == Custody::Required,
            token_limits: token_limits(),
            destinations: Arc::new(destinations),
            gateway: gateway.map(Arc::new),
            issuer: issuer.map(Arc::new),
            grants: grants.map(Arc::new),
            tokens: tokens.map(Arc::new),
            generation: self.generation,
            trust_shrank_at: self.trust_shrank_at,
            peers_generation: self.peers_generation,
        })
    }

    /// Notes whom the snapshot that is being built believes. Every one is noted, also those that no
    /// worker ever gets to see: an authority that came and went has vouched meanwhile.
    fn believes(&mut self, trust: &Trust) {
        let shrank = |(before, listed): &(Arc<TrustBundles>, Arc<Crls>)| {
            !trust.bundles.covers(before) || trust.crls != *listed
        };
        if self.believed.as_ref().is_some_and(shrank) {
            self.trust_shrank_at = self.generation;
        }
        self.believed = Some((Arc::clone(&trust.bundles), Arc::clone(&trust.crls)));
    }

    /// Notes with which certificates other sidecars are met, after [`Builder::believes`].
    fn meets_with(&mut self, certs: &Certs) {
        let others = self.certs.replace(certs.generation) != Some(certs.generation);
        if others || self.trust_shrank_at == self.generation {
            self.peers_generation = self.generation;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    /// Notes who dropped it.
    struct Big(Arc<Mutex<Vec<ThreadId>>>);

    impl Drop for Big {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }

    #[test]
    fn what_a_worker_lets_go_last_is_dropped_by_the_control_thread() {
        let dropped = Arc::new(Mutex::default());
        let retired = Retired::default();
        let snapshot = Arc::new(Big(Arc::clone(&dropped)));
        let held = Arc::clone(&snapshot);
        retired.keep(snapshot);
        retired.let_go();
        thread::spawn(move || drop(held)).join().unwrap();
        assert_eq!(dropped.lock().unwrap().len(), 0, "not by the worker");
        retired.let_go();
        assert_eq!(*dropped.lock().unwrap(), [thread::current().id()]);
        assert!(retired.0.lock().unwrap().is_empty());
    }
}
