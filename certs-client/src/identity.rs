//! What sources publish: our identity, whom we trust, and under which generation.
//!
//! Invariant: a [`Certs`] never changes. Readers take one snapshot per connection or request and
//! use its identity and bundles together; `generation` grows with every change of either.

use std::sync::Arc;

use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;

use crate::{bundle::TrustBundles, crl::Crls, jwt_bundle::JwtBundles, key::SigningKey};

/// A private key with the certificate chain that says whose it is.
#[derive(Debug)]
pub struct Identity {
    /// Who we are.
    pub id: WorkloadId,
    /// Our certificates, leaf first.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: SigningKey,
    /// Start of validity of the leaf, seconds since the Unix epoch.
    pub not_before: u64,
    /// End of validity of the leaf, seconds since the Unix epoch.
    pub not_after: u64,
    /// SHA-256 of the leaf.
    pub leaf_sha256: [u8; 32],
}

impl Identity {
    /// Chain and key as rustls takes them, for both ends of a handshake.
    pub fn to_rustls(&self) -> Arc<rustls::sign::CertifiedKey> {
        Arc::new(rustls::sign::CertifiedKey::new(self.chain_der.clone(), self.key.to_rustls()))
    }

    /// Whether the leaf still holds.
    pub fn is_valid_at(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// One snapshot of what we are and whom we trust.
#[derive(Clone, Debug, Default)]
pub struct Certs {
    /// Our identity; `None` before the first delivery, after a withdrawal and after expiry.
    pub identity: Option<Arc<Identity>>,
    /// What signs context tokens instead of the identity, of the same workload; `None` where the
    /// source singles nothing out.
    pub token_signer: Option<Arc<Identity>>,
    /// The authorities, by trust domain.
    pub bundles: Arc<TrustBundles>,
    /// The keys of JWT-SVIDs, by trust domain; empty where nobody asked for them.
    pub jwt_bundles: Arc<JwtBundles>,
    /// The revocation lists in force.
    pub crls: Arc<Crls>,
    /// Grows with every change; 0 is the empty snapshot before the first delivery.
    pub generation: u64,
}

impl Certs {
    /// What signs context tokens: what the source marked for it, else the identity.
    pub fn token_signer(&self) -> Option<&Arc<Identity>> {
        self.token_signer.as_ref().or(self.identity.as_ref())
    }
}
