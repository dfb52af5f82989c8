//! A certificate chain that was validated, and what takes its worth away later.
//!
//! Invariant: whoever makes one has validated the chain by the one X509-SVID validation a moment
//! ago; that it has ended, was revoked or lost its authority since is for its holder to ask.

use std::sync::Arc;
use std::time::Duration;

use countersign_certs_client::crl::Numbered;
use countersign_certs_client::{TrustBundles, Usage, svid};
use countersign_policy::RevocableLeaf;
use countersign_workload_id::WorkloadId;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::clock::Now;
use crate::live::Snapshot;
use crate::tls::verify::CRL;

/// A validated chain. Clones share it.
#[derive(Clone)]
pub struct ProvenChain(Arc<Proven>);

struct Proven {
    leaf: svid::LeafFacts,
    leaf_sha256: [u8; 32],
    chain: Box<[CertificateDer<'static>]>,
    numbered: Box<[Numbered]>,
}

impl ProvenChain {
    /// Reads a chain that was validated.
    ///
    /// # Errors
    /// When the leaf does not carry exactly one SPIFFE ID; validation has checked that already.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<ProvenChain, svid::SvidError> {
        let leaf = chain.first().ok_or(svid::SvidError::NoCertificate)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut leaf_sha256 = [0; 32];
        leaf_sha256.copy_from_slice(digest.as_ref());
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let (leaf, numbered) = (svid::facts(leaf)?, Numbered::of(&chain)?);
        Ok(ProvenChain(Arc::new(Proven { leaf, leaf_sha256, chain: chain.into(), numbered })))
    }

    /// The SPIFFE ID of the leaf.
    pub fn id(&self) -> &WorkloadId {
        &self.0.leaf.id
    }

    /// End of the leaf, seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.0.leaf.not_after
    }

    /// SHA-256 of the leaf.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.0.leaf_sha256
    }

    /// The certificates, leaf first.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// What revokes the certificate: an entry of a document (`certificate`, `identity`, `pod`), or
    /// its authority (`crl`).
    pub fn revoked(&self, snap: &Snapshot, now: Now) -> Option<&'static str> {
        let Proven { leaf, leaf_sha256, numbered, .. } = &*self.0;
        if snap.certs.crls.revoke(leaf.id.trust_domain(), numbered) {
            return Some(CRL);
        }
        if snap.revocations.revokes_no_peer() {
            return None;
        }
        let leaf = RevocableLeaf {
            sha256: leaf_sha256,
            id: &leaf.id,
            not_before_ms: millis(leaf.not_before),
            pod_uid: leaf.pod_uid.as_deref(),
        };
        snap.revocations.leaf(&leaf, i64::try_from(now.millis()).unwrap_or(i64::MAX))
    }

    /// Whether an authority of its trust domain still vouches for it. That certificates have ended
    /// by `now` is not looked at: what rests on them has a deadline of its own for that. An
    /// intermediate may live shorter than the leaf, so the path must hold at one moment of the
    /// leaf's life.
    pub fn is_vouched_for(&self, bundles: &TrustBundles, now: Now) -> bool {
        let Proven { leaf, chain, .. } = &*self.0;
        let now = now.secs().min(leaf.not_after).max(leaf.not_before);
        [now, leaf.not_after, leaf.not_before].into_iter().any(|at| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            svid::validate(chain, bundles, Usage::TlsClient, at).is_ok()
        })
    }
}

fn millis(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000)
}
