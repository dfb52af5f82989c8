//! Who is on the other end of a connection. The only place that makes a [`Peer`].
//!
//! Invariant: `Peer::Mesh` is built from the certificate chain of a completed mutual TLS handshake
//! and nothing else; names and headers are never an identity.

use std::fmt;
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

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A workload that proved its identity in the handshake.
    Mesh(MeshPeer),
    /// Nobody we know, and why.
    None(NoPeer),
}

/// A proven mesh workload. Clones share what was proven.
#[derive(Clone)]
pub struct MeshPeer(Arc<Proven>);

struct Proven {
    leaf: svid::LeafFacts,
    leaf_sha256: [u8; 32],
    chain: Box<[CertificateDer<'static>]>,
    numbered: Box<[Numbered]>,
}

impl fmt::Debug for MeshPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshPeer({})", self.id())
    }
}

/// Why a connection has no mesh identity. The name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPeer {
    /// Plaintext reached an inbound port.
    Plaintext,
    /// The client speaks TLS of the app's own, which ends in the app.
    AppTls,
    /// A client of the public listener.
    PublicClient,
    /// A client of the public listener that sent a service account token.
    ServiceAccountToken,
    /// A client of the public listener that sent a JWT-SVID.
    JwtSvid,
}

impl NoPeer {
    /// Metric label and audit value.
    pub const fn reason(self) -> &'static str {
        match self {
            NoPeer::Plaintext => "plaintext",
            NoPeer::AppTls => "app_tls",
            NoPeer::PublicClient => "public_client",
            NoPeer::ServiceAccountToken => "service_account_token",
            NoPeer::JwtSvid => "jwt_svid",
        }
    }
}

impl MeshPeer {
    /// Reads the identity out of a chain that our verifier accepted.
    ///
    /// # Errors
    /// When the leaf does not carry exactly one SPIFFE ID; the handshake has checked that already.
    pub fn of_verified_chain(
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Result<MeshPeer, svid::SvidError> {
        let chain = chain.unwrap_or_default();
        let leaf = chain.first().ok_or(svid::SvidError::NoCertificate)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut leaf_sha256 = [0; 32];
        leaf_sha256.copy_from_slice(digest.as_ref());
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let (leaf, numbered) = (svid::facts(leaf)?, Numbered::of(&chain)?);
        let proven = Proven { leaf, leaf_sha256, chain: chain.into(), numbered };
        Ok(MeshPeer(Arc::new(proven)))
    }

    /// The proven SPIFFE ID.
    pub fn id(&self) -> &WorkloadId {
        &self.0.leaf.id
    }

    /// End of the peer's certificate, seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.0.leaf.not_after
    }

    /// SHA-256 of the peer's leaf.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.0.leaf_sha256
    }

    /// What revokes this peer's certificate: an entry of a document (`certificate`, `identity`,
    /// `pod`), or its authority (`crl`).
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
    /// by `now` is not looked at: a connection has a deadline of its own for that. An intermediate
    /// may live shorter than the leaf, so the path must hold at one moment of the leaf's life.
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

impl Peer {
    /// The mesh identity, if there is one.
    pub fn mesh(&self) -> Option<&MeshPeer> {
        match self {
            Peer::Mesh(peer) => Some(peer),
            Peer::None(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "../tests/peer.rs"]
mod tests;
