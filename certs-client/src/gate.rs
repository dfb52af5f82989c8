//! The gate: what a source delivered becomes an identity, whole, or is discarded, whole.
//!
//! Every source ends here. Nothing is published that a peer following the same rules would refuse,
//! so a broken delivery is seen at once, in our own readiness, and not in refused handshakes.

use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    bundle::{BundleError, TrustBundles},
    crl::Crl,
    identity::Identity,
    key::{KeyError, SigningKey},
    svid::{self, SvidError, Usage},
};

/// What a source delivered, parsed but not yet believed.
#[derive(Debug)]
pub struct Delivered {
    /// Certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: SigningKey,
    /// Revocation lists that came along.
    pub crls: Vec<Crl>,
}

/// Why a delivery was discarded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GateError {
    /// The trust bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A mandatory field of the message is empty.
    #[error("the delivery is incomplete: {0} is empty")]
    EmptyField(&'static str),
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The private key is not the one of the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// An empty subject needs a critical subject alternative name.
    #[error("the subject is empty and the subject alternative name is not critical")]
    SanNotCritical,
    /// Our certificate breaks a rule that peers would refuse it for.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Not who this process is configured to be.
    #[error("the source delivered {presented}, the configuration expects {expected}")]
    UnexpectedId {
        /// From the configuration.
        expected: WorkloadId,
        /// From the certificate.
        presented: WorkloadId,
    },
    /// The delivery does not have the form of its source.
    #[error("the delivery cannot be read: {0}")]
    Unreadable(String),
}

impl GateError {
    /// The stable name of this reason.
    pub fn reason(&self) -> &'static str {
        match self {
            GateError::Bundle(_) => "bad_bundle",
            GateError::EmptyField(_) => "empty_field",
            GateError::Key(_) => "bad_key",
            GateError::KeyMismatch => "key_mismatch",
            GateError::SanNotCritical => "san_not_critical",
            GateError::Svid(error) => error.reason(),
            GateError::UnexpectedId { .. } => "unexpected_identity",
            GateError::Unreadable(_) => "unreadable",
        }
    }
}

/// Validates a delivery against the bundles that came with it.
///
/// # Errors
/// The first rule that does not hold; nothing of the delivery may be used then.
pub fn admit(
    delivered: Delivered,
    bundles: &TrustBundles,
    expected_id: Option<&WorkloadId>,
    now: u64,
) -> Result<Identity, GateError> {
    let Delivered { chain, key, .. } = delivered;
    let svid = svid::validate(&chain, bundles, Usage::TlsClient, svid::unix_time(now))?;
    if svid.public_key != key.public_key() {
        return Err(GateError::KeyMismatch);
    }
    if let Some(expected) = expected_id
        && *expected != svid.id
    {
        return Err(GateError::UnexpectedId { expected: expected.clone(), presented: svid.id });
    }
    check_san_critical(&chain)?;
    Ok(Identity {
        id: svid.id,
        chain_der: chain,
        key,
        not_before: svid.not_before,
        not_after: svid.not_after,
        leaf_sha256: svid.leaf_sha256,
    })
}

/// with an empty subject the name in the SAN is the only one, so it must be critical.
///
/// # Errors
/// [`GateError::SanNotCritical`]; others where there is no leaf to look at.
pub fn check_san_critical(chain: &[CertificateDer<'static>]) -> Result<(), GateError> {
    let Some(leaf) = chain.first() else { return Err(SvidError::NoCertificate.into()) };
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return Err(GateError::Unreadable("the leaf does not parse".to_owned()));
    };
    let critical =
        leaf.subject_alternative_name().ok().flatten().is_some_and(|extension| extension.critical);
    if leaf.subject().iter().next().is_none() && !critical {
        return Err(GateError::SanNotCritical);
    }
    Ok(())
}
