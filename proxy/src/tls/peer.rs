//! Who is on the other end of a connection. The only place that makes a [`Peer`].
//!
//! Invariant: `Peer::Mesh` is built from the certificate chain of a completed mutual TLS handshake
//! and nothing else; names and headers are never an identity.

use std::fmt;

use countersign_certs_client::{TrustBundles, svid};
use countersign_workload_id::WorkloadId;
use rustls::pki_types::CertificateDer;

use crate::clock::Now;
use crate::live::Snapshot;
use crate::tls::chain::ProvenChain;

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
pub struct MeshPeer(ProvenChain);

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
        ProvenChain::of(chain.unwrap_or_default()).map(MeshPeer)
    }

    /// The proven SPIFFE ID.
    pub fn id(&self) -> &WorkloadId {
        self.0.id()
    }

    /// End of the peer's certificate, seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.0.not_after()
    }

    /// SHA-256 of the peer's leaf.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.0.leaf_sha256()
    }

    /// The chain it proved itself with.
    pub fn chain(&self) -> &ProvenChain {
        &self.0
    }

    /// What revokes this peer's certificate: an entry of a document (`certificate`, `identity`,
    /// `pod`), or its authority (`crl`).
    pub fn revoked(&self, snap: &Snapshot, now: Now) -> Option<&'static str> {
        self.0.revoked(snap, now)
    }

    /// Whether an authority of its trust domain still vouches for it.
    pub fn is_vouched_for(&self, bundles: &TrustBundles, now: Now) -> bool {
        self.0.is_vouched_for(bundles, now)
    }
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
pub(crate) mod tests;
