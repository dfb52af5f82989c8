//! The certificates of those who sign hop records, known to one worker by their thumbprints.
//!
//! Records name a certificate by its SHA-256 alone. It is learned once, from a handshake or from
//! `Countersign-Certs`, and used until it ends, is revoked, or its authority is gone.
//! Invariant: only validated chains get in, so nobody without a certificate of the mesh can fill it;
//! that a chain is missing or bad is never remembered, for an attacker chooses those thumbprints.

use std::fmt;
use std::sync::Arc;

use countersign_certs_client::svid;
use countersign_config::limits;
use countersign_ctxtoken::{ChainKey, ChainValidator as _, UnixTime, VerifyingKey};
use countersign_workload_id::TrustDomain;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use rustls::pki_types::CertificateDer;

use crate::clock::Now;
use crate::http::certs::{Chain, Thumbprint};
use crate::live::Snapshot;
use crate::tls::chain::ProvenChain;
use crate::tls::peer::MeshPeer;

/// What an entry costs beside its certificates.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Somebody who can sign hop records, with the certificate that says so.
pub struct Signer {
    chain: ProvenChain,
    key: Arc<ChainKey>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key.id)
    }
}

impl Signer {
    /// The other end of a handshake; `None` if its key cannot sign records.
    pub fn of_peer(peer: &MeshPeer) -> Option<Signer> {
        Signer::of_proven(peer.chain().clone())
    }

    fn of_proven(chain: ProvenChain) -> Option<Signer> {
        let spki = svid::spki(chain.der().first()?).ok()?;
        let key = VerifyingKey::from_spki_der(&spki).ok()?;
        let not_after = UnixTime(chain.not_after());
        let key = ChainKey { id: chain.id().clone(), key, not_after };
        Some(Signer { chain, key: Arc::new(key) })
    }

    /// The name of its certificate in records.
    pub fn thumbprint(&self) -> Thumbprint {
        self.chain.leaf_sha256()
    }

    /// Its certificates, leaf first.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        self.chain.der()
    }

    /// Whose key it is.
    pub fn key(&self) -> &Arc<ChainKey> {
        &self.key
    }

    /// What takes its records their worth now, although they were true: a revocation, or with
    /// `trust_shrank` an authority that is gone. That the certificate ends is not looked at.
    pub fn lost(&self, snap: &Snapshot, trust_shrank: bool, now: Now) -> Option<&'static str> {
        self.chain.revoked(snap, now).or_else(|| {
            let gone = trust_shrank && !self.chain.is_vouched_for(&snap.bundles, now);
            gone.then_some("authority")
        })
    }

    fn bytes(&self) -> usize {
        self.der().iter().map(|der| der.len()).sum()
    }
}

/// The signers one worker knows.
pub struct Signers(Cache<Thumbprint, Known, ByBytes>);

#[derive(Clone)]
struct Known {
    signer: Arc<Signer>,
    /// Generation of the snapshot by which its authority was last looked at.
    believed_at: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Thumbprint, Known> for ByBytes {
    fn weight(&self, _: &Thumbprint, known: &Known) -> u64 {
        known.signer.bytes().saturating_add(ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl Default for Signers {
    fn default() -> Signers {
        Signers(Cache::with_weighter(
            limits::HOP_SIGNERS_MAX,
            limits::HOP_SIGNERS_BYTES_MAX as u64,
            ByBytes,
        ))
    }
}

impl Signers {
    /// The signer with this certificate, if it still counts.
    pub fn find(
        &mut self,
        thumbprint: &Thumbprint,
        snap: &Snapshot,
        now: Now,
    ) -> Option<Arc<Signer>> {
        let Known { signer, believed_at } = self.0.get(thumbprint)?.clone();
        let ended = signer.key.not_after.0 < now.secs();
        let trust_shrank = believed_at < snap.trust_shrank_at;
        if ended || signer.lost(snap, trust_shrank, now).is_some() {
            self.0.remove(thumbprint);
            return None;
        }
        if trust_shrank {
            self.keep(&signer, snap);
        }
        Some(signer)
    }

    /// Learns the other end of a handshake, which was believed by the snapshot of generation
    /// `believed_at` or a newer one.
    pub fn learn(
        &mut self,
        peer: &MeshPeer,
        believed_at: u64,
        (snap, now): (&Snapshot, Now),
    ) -> Option<Arc<Signer>> {
        if let Some(known) = self.find(&peer.leaf_sha256(), snap, now) {
            return Some(known);
        }
        let signer = Arc::new(Signer::of_peer(peer)?);
        let known = Known { signer: Arc::clone(&signer), believed_at };
        self.0.insert(signer.thumbprint(), known);
        Some(signer)
    }

    /// Validates a chain that came along, for tokens of `domain`, and learns it.
    ///
    /// # Errors
    /// Why the chain does not count, for operators.
    pub fn validate(
        &mut self,
        chain: &Chain,
        domain: &TrustDomain,
        (snap, now): (&Snapshot, Now),
    ) -> Result<Arc<Signer>, String> {
        let der: Vec<Vec<u8>> = chain.iter().map(|one| one.to_vec()).collect();
        let key = snap.chains().validate(&der, UnixTime(now.secs()))?;
        if key.id.trust_domain() != domain {
            return Err(format!("{} is of another trust domain", key.id));
        }
        let chain = ProvenChain::of(chain).map_err(|error| error.to_string())?;
        if let Some(by) = chain.revoked(snap, now) {
            return Err(format!("the certificate of {} is revoked ({by})", key.id));
        }
        let signer = Arc::new(Signer { chain, key: Arc::new(key) });
        self.keep(&signer, snap);
        Ok(signer)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn keep(&mut self, signer: &Arc<Signer>, snap: &Snapshot) {
        let known = Known { signer: Arc::clone(signer), believed_at: snap.generation };
        self.0.insert(signer.thumbprint(), known);
    }
}
