//! Who is on the other end of a connection. The only place that makes a [`Peer`].
//!
//! Invariant: `Peer::Mesh` is built from the certificate chain of a completed mutual TLS handshake
//! and nothing else; names and headers are never an identity.

use countersign_certs_client::svid;
use countersign_workload_id::WorkloadId;
use rustls::pki_types::CertificateDer;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A workload that proved its identity in the handshake.
    Mesh(MeshPeer),
    /// Nobody we know, and why.
    None(NoPeer),
}

/// A proven mesh workload.
#[derive(Clone, Debug)]
pub struct MeshPeer {
    id: WorkloadId,
    not_after: u64,
    leaf_sha256: [u8; 32],
}

/// Why a connection has no mesh identity. The name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPeer {
    /// Plaintext reached an inbound port.
    Plaintext,
    /// A client of the public listener.
    PublicClient,
}

impl NoPeer {
    /// Metric label and audit value.
    pub const fn reason(self) -> &'static str {
        match self {
            NoPeer::Plaintext => "plaintext",
            NoPeer::PublicClient => "public_client",
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
        let leaf = chain.and_then(<[_]>::first).ok_or(svid::SvidError::NoCertificate)?;
        let id = svid::claimed_id(leaf)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut leaf_sha256 = [0; 32];
        leaf_sha256.copy_from_slice(digest.as_ref());
        Ok(MeshPeer { id, not_after: svid::not_after(leaf)?, leaf_sha256 })
    }

    /// The proven SPIFFE ID.
    pub fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// End of the peer's certificate, seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// SHA-256 of the peer's leaf.
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.leaf_sha256
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
