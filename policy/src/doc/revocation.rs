//! `Revocation`: what no longer counts although it has not ended.

use countersign_workload_id::WorkloadId;

/// One document. All of them form a union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Certificates, by SHA-256 of the leaf.
    pub certificates: Vec<[u8; 32]>,
    /// Identities whose older certificates no longer count.
    pub identities: Vec<RevokedIdentity>,
    /// UIDs of pods whose certificates no longer count, old or new.
    pub pods: Vec<String>,
    /// Keys with which context tokens are signed.
    pub issuer_keys: Vec<RevokedKey>,
    /// Users whose older tokens no longer count.
    pub users: Vec<RevokedUser>,
    /// Ids of devices whose tokens no longer count.
    pub devices: Vec<String>,
    /// Transactions that no longer count.
    pub transactions: Vec<String>,
    /// Unix milliseconds after which the document says nothing.
    pub expires_ms: i64,
}

/// An identity and an instant: certificates that begin before it do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedIdentity {
    /// The SPIFFE ID.
    pub id: WorkloadId,
    /// Unix milliseconds.
    pub issued_before_ms: i64,
}

/// A signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedKey {
    /// Whose key it is.
    pub identity: WorkloadId,
    /// Its name in the issuer's key set, or the thumbprint of the certificate's key.
    pub kid: String,
}

/// A user and an instant: tokens issued before it do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedUser {
    /// Name of the identity provider.
    pub provider: String,
    /// The user's id there.
    pub id: String,
    /// Unix milliseconds.
    pub issued_before_ms: i64,
}

impl Revocation {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.certificates.len()
            + self.identities.len()
            + self.pods.len()
            + self.issuer_keys.len()
            + self.users.len()
            + self.devices.len()
            + self.transactions.len()
    }

    /// Whether it revokes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
