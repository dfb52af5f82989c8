//! What a certificate says, read without any trust in it.
//!
//! Invariant: nothing here validates, and no [`Svid`](super::Svid) comes out of it.

use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;

use super::{SvidError, parse, spiffe_id};
use crate::location;

/// The one SPIFFE ID of a certificate, without any trust in it: for messages and inspection.
///
/// # Errors
/// When there is not exactly one URI name, or it is no SPIFFE ID of a workload.
pub fn claimed_id(certificate: &CertificateDer<'_>) -> Result<WorkloadId, SvidError> {
    spiffe_id(&parse(1, certificate)?)
}

/// What a leaf says of its holder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeafFacts {
    /// Whose certificate it is.
    pub id: WorkloadId,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: u64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: u64,
    /// UID of the pod it was issued to, where the signer attests it.
    pub pod_uid: Option<String>,
}

/// What a leaf says, without any trust in it: for chains that were validated before.
///
/// # Errors
/// When it cannot be read, or does not carry exactly one SPIFFE ID.
pub fn facts(certificate: &CertificateDer<'_>) -> Result<LeafFacts, SvidError> {
    let leaf = parse(1, certificate)?;
    let seconds = |instant: i64| u64::try_from(instant).unwrap_or(0);
    Ok(LeafFacts {
        id: spiffe_id(&leaf)?,
        not_before: seconds(leaf.validity().not_before.timestamp()),
        not_after: seconds(leaf.validity().not_after.timestamp()),
        pod_uid: location::pod_uid(&leaf),
    })
}

/// Where a leaf says its holder runs, without any trust in it.
///
/// # Errors
/// [`SvidError::BadCertificate`].
pub fn location(certificate: &CertificateDer<'_>) -> Result<Option<location::Location>, SvidError> {
    Ok(location::of(&parse(1, certificate)?))
}

/// End of validity of a certificate, seconds since the Unix epoch.
///
/// # Errors
/// [`SvidError::BadCertificate`].
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<u64, SvidError> {
    let end = parse(1, certificate)?.validity().not_after.timestamp();
    Ok(u64::try_from(end).unwrap_or(0))
}

/// `subjectPublicKey` of a certificate: what [`crate::SigningKey::public_key`] must equal.
///
/// # Errors
/// [`SvidError::BadCertificate`].
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, SvidError> {
    Ok(parse(1, certificate)?.public_key().subject_public_key.data.to_vec())
}

/// `SubjectPublicKeyInfo` of a certificate, DER.
///
/// # Errors
/// [`SvidError::BadCertificate`].
pub fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, SvidError> {
    Ok(parse(1, certificate)?.public_key().raw.to_vec())
}
