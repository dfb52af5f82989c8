//! The one X509-SVID validation, for both directions, for signers of tokens, for our own identity.
//!
//! Path building is rustls-webpki's, with the authorities of exactly the trust domain that the
//! certificate names. What SPIFFE asks beyond that (one URI SAN, key usage, leaf and not
//! authority, both extended usages) is checked here, because path building does not look at it.
//! Invariant: a [`Svid`] exists only after every rule held.

mod facts;

use std::time::Duration;

use countersign_config::limits::{PEER_CHAIN_BYTES_MAX, PEER_CHAIN_CERTS_MAX};
use countersign_ctxtoken::{ChainKey, ChainValidator, VerifyingKey};
use countersign_workload_id::{TrustDomain, WorkloadId};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;
use x509_parser::{
    error::X509Error,
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::bundle::{Bundle, TrustBundles, sha256};
use crate::crl::Crls;
use crate::location;

pub(crate) use self::facts::public_key;
pub use self::facts::{LeafFacts, claimed_id, facts, location, not_after, spki};

/// What the leaf is used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usage {
    /// It signs a token, outside of any handshake.
    Signature,
    /// It proves who calls.
    TlsClient,
    /// It proves who answers.
    TlsServer,
}

/// Why a certificate chain was refused. Closed: each reason is a metric label.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// A certificate cannot be parsed.
    #[error("certificate {position} of the chain cannot be read: {detail}")]
    BadCertificate {
        /// Counted from 1, the leaf.
        position: usize,
        /// What the parser said.
        detail: String,
    },
    /// Extended key usage is there, but not both serverAuth and clientAuth.
    #[error("the extended key usage does not hold both serverAuth and clientAuth")]
    BadEku,
    /// Key usage is missing, not critical, or not what a leaf or an authority must have.
    #[error("the key usage is wrong: {0}")]
    BadKeyUsage(&'static str),
    /// Not exactly one URI name, or one that is not a SPIFFE ID of a workload.
    #[error("the certificate does not carry exactly one SPIFFE ID: {0}")]
    BadSan(String),
    /// Each certificate must have been issued by the next one in the chain.
    #[error("the chain is not in order, leaf first")]
    ChainOutOfOrder,
    /// More certificates or bytes than allowed.
    #[error("the chain is too long: {certificates} certificates, {bytes} bytes")]
    ChainTooLong {
        /// How many certificates came.
        certificates: usize,
        /// How many bytes came.
        bytes: usize,
    },
    /// A critical extension that nobody here can enforce.
    #[error("the certificate has a critical extension that is not understood")]
    CriticalExtension,
    /// After `notAfter`.
    #[error("the certificate ended at {not_after} (Unix time)")]
    Expired {
        /// Seconds since the Unix epoch.
        not_after: u64,
    },
    /// An authority forbids this name, or constrains names in a form that cannot be checked.
    #[error("a name constraint of an authority does not allow this identity")]
    NameConstraint,
    /// The peer sent no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// The first certificate is an authority.
    #[error("the first certificate is not a leaf")]
    NotALeaf,
    /// Before `notBefore`.
    #[error("the certificate starts at {not_before} (Unix time); is a clock off?")]
    NotYetValid {
        /// Seconds since the Unix epoch.
        not_before: u64,
    },
    /// No bundle for the trust domain it names.
    #[error("trust domain {0} is not trusted here")]
    UnknownTrustDomain(TrustDomain),
    /// No path to an authority of the trust domain it names.
    #[error("no authority of its trust domain vouches for the certificate: {0}")]
    UntrustedChain(String),
}

impl SvidError {
    /// Every reason, for documentation and for metrics that start at zero.
    pub const REASONS: [&str; 14] = [
        "bad_certificate",
        "bad_eku",
        "bad_key_usage",
        "bad_san",
        "chain_out_of_order",
        "chain_too_long",
        "critical_extension",
        "expired",
        "name_constraint",
        "no_certificate",
        "not_a_leaf",
        "not_yet_valid",
        "unknown_trust_domain",
        "untrusted_chain",
    ];

    /// The stable name of this reason in metrics and audit.
    pub fn reason(&self) -> &'static str {
        match self {
            SvidError::BadCertificate { .. } => "bad_certificate",
            SvidError::BadEku => "bad_eku",
            SvidError::BadKeyUsage(_) => "bad_key_usage",
            SvidError::BadSan(_) => "bad_san",
            SvidError::ChainOutOfOrder => "chain_out_of_order",
            SvidError::ChainTooLong { .. } => "chain_too_long",
            SvidError::CriticalExtension => "critical_extension",
            SvidError::Expired { .. } => "expired",
            SvidError::NameConstraint => "name_constraint",
            SvidError::NoCertificate => "no_certificate",
            SvidError::NotALeaf => "not_a_leaf",
            SvidError::NotYetValid { .. } => "not_yet_valid",
            SvidError::UnknownTrustDomain(_) => "unknown_trust_domain",
            SvidError::UntrustedChain(_) => "untrusted_chain",
        }
    }
}

/// A validated X509-SVID. Only [`validate`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub struct Svid {
    /// Whose certificate it is.
    pub id: WorkloadId,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: u64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: u64,
    /// `SubjectPublicKeyInfo` of the leaf, DER.
    pub spki: Vec<u8>,
    /// `subjectPublicKey` of the leaf: what [`crate::SigningKey::public_key`] must equal.
    pub public_key: Vec<u8>,
    /// Serial number of the leaf, big endian.
    pub serial: Vec<u8>,
    /// SHA-256 of the leaf.
    pub leaf_sha256: [u8; 32],
    /// UID of the pod it was issued to, where the signer attests it.
    pub pod_uid: Option<String>,
    checked: Checked,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Checked;

/// Validates a chain, leaf first, against the authorities of the trust domain the leaf names.
///
/// Who the peer may be is not decided here: the caller compares [`Svid::id`] with what it expects.
///
/// # Errors
/// The first rule that does not hold.
pub fn validate(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    usage: Usage,
    now: UnixTime,
) -> Result<Svid, SvidError> {
    let Some((leaf_der, intermediates)) = chain.split_first() else {
        return Err(SvidError::NoCertificate);
    };
    check_size(chain)?;
    let parsed = chain
        .iter()
        .enumerate()
        .map(|(index, certificate)| parse(index.saturating_add(1), certificate))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(leaf) = parsed.first() else { return Err(SvidError::NoCertificate) };

    let id = spiffe_id(leaf)?;
    check_leaf(leaf)?;
    check_order(&parsed)?;
    let (not_before, not_after) = check_validity(leaf, now)?;
    let bundle = bundles
        .get(id.trust_domain())
        .ok_or_else(|| SvidError::UnknownTrustDomain(id.trust_domain().clone()))?;
    check_path(leaf_der, intermediates, bundle, usage, now)?;

    Ok(Svid {
        id,
        not_before,
        not_after,
        spki: leaf.public_key().raw.to_vec(),
        public_key: leaf.public_key().subject_public_key.data.to_vec(),
        serial: leaf.raw_serial().to_vec(),
        leaf_sha256: sha256(leaf_der),
        pod_uid: location::pod_uid(leaf),
        checked: Checked,
    })
}

/// Chains of signers of tokens are validated by the same rules.
impl ChainValidator for TrustBundles {
    fn validate(
        &self,
        chain_der: &[Vec<u8>],
        now: countersign_ctxtoken::UnixTime,
    ) -> Result<ChainKey, String> {
        let chain: Vec<CertificateDer<'_>> =
            chain_der.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let svid = validate(&chain, self, Usage::Signature, unix_time(now.0))
            .map_err(|error| error.to_string())?;
        let key = VerifyingKey::from_spki_der(&svid.spki).map_err(|error| error.to_string())?;
        let not_after = countersign_ctxtoken::UnixTime(svid.not_after);
        Ok(ChainKey { id: svid.id, key, not_after })
    }
}

/// Chains of signers of tokens, of which those their authorities have revoked do not count.
#[derive(Clone, Copy, Debug)]
pub struct SignerChains<'a> {
    /// The authorities, by trust domain.
    pub bundles: &'a TrustBundles,
    /// What they have revoked.
    pub crls: &'a Crls,
}

impl ChainValidator for SignerChains<'_> {
    fn validate(
        &self,
        chain_der: &[Vec<u8>],
        now: countersign_ctxtoken::UnixTime,
    ) -> Result<ChainKey, String> {
        let key = ChainValidator::validate(self.bundles, chain_der, now)?;
        let chain: Vec<CertificateDer<'_>> =
            chain_der.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        if self.crls.revoke_chain(key.id.trust_domain(), &chain) {
            return Err(format!("the certificate of {} is on a revocation list", key.id));
        }
        Ok(key)
    }
}

/// Everything that is wrong with a chain by itself, without any trust in it: for inspection.
pub fn problems(chain: &[CertificateDer<'_>], now: UnixTime) -> Vec<SvidError> {
    let parsed: Result<Vec<_>, _> = chain
        .iter()
        .enumerate()
        .map(|(index, certificate)| parse(index.saturating_add(1), certificate))
        .collect();
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return vec![error],
    };
    let Some(leaf) = parsed.first() else { return vec![SvidError::NoCertificate] };
    [
        check_size(chain),
        spiffe_id(leaf).map(|_| ()),
        check_not_authority(leaf),
        check_key_usage(leaf),
        check_eku(leaf),
        check_order(&parsed),
        check_validity(leaf, now).map(|_| ()),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect()
}

fn check_size(chain: &[CertificateDer<'_>]) -> Result<(), SvidError> {
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > PEER_CHAIN_CERTS_MAX || bytes > PEER_CHAIN_BYTES_MAX {
        return Err(SvidError::ChainTooLong { certificates: chain.len(), bytes });
    }
    Ok(())
}

fn parse<'a>(
    position: usize,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, SvidError> {
    let bad = |detail: String| SvidError::BadCertificate { position, detail };
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| bad(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow the certificate".to_owned()));
    }
    Ok(parsed)
}

/// exactly one URI name, and it is a workload of a trust domain.
fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<WorkloadId, SvidError> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| SvidError::BadSan(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    // A URI that is not ASCII parses as `Invalid` with the tag of a URI: it counts as one.
    let uris: Vec<Option<&str>> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Some(*uri)),
            GeneralName::Invalid(tag, _) if tag.0 == 6 => Some(None),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [Some(uri)] => WorkloadId::parse(uri).map_err(|error| SvidError::BadSan(error.to_string())),
        [None] => Err(SvidError::BadSan("the URI name is not ASCII".to_owned())),
        many => Err(SvidError::BadSan(format!("{} URI names", many.len()))),
    }
}

/// a leaf that may sign, is no authority, and may both call and answer.
fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), SvidError> {
    check_not_authority(leaf)?;
    check_key_usage(leaf)?;
    check_eku(leaf)
}

fn check_not_authority(leaf: &X509Certificate<'_>) -> Result<(), SvidError> {
    let basic = leaf.basic_constraints().map_err(|error| malformed(1, &error))?;
    if basic.is_some_and(|basic| basic.value.ca) {
        return Err(SvidError::NotALeaf);
    }
    Ok(())
}

fn check_key_usage(leaf: &X509Certificate<'_>) -> Result<(), SvidError> {
    let Some(usage) = leaf.key_usage().map_err(|error| malformed(1, &error))? else {
        return Err(SvidError::BadKeyUsage("the extension is missing"));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(SvidError::BadKeyUsage("a leaf must not sign certificates or CRLs"));
    }
    if !usage.critical {
        return Err(SvidError::BadKeyUsage("the extension is not critical"));
    }
    if !usage.value.digital_signature() {
        return Err(SvidError::BadKeyUsage("digitalSignature is missing"));
    }
    Ok(())
}

fn check_eku(leaf: &X509Certificate<'_>) -> Result<(), SvidError> {
    match leaf.extended_key_usage().map_err(|error| malformed(1, &error))? {
        Some(eku) if !(eku.value.server_auth && eku.value.client_auth) => Err(SvidError::BadEku),
        _ => Ok(()),
    }
}

fn malformed(position: usize, error: &X509Error) -> SvidError {
    SvidError::BadCertificate { position, detail: error.to_string() }
}

/// every certificate is followed by its issuer, and those may sign certificates.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), SvidError> {
    for (issued, issuer) in chain.iter().zip(chain.iter().skip(1)) {
        if issued.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(SvidError::ChainOutOfOrder);
        }
    }
    for (index, authority) in chain.iter().enumerate().skip(1) {
        let usage =
            authority.key_usage().map_err(|error| malformed(index.saturating_add(1), &error))?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(SvidError::BadKeyUsage("an issuer may not sign certificates"));
        }
    }
    Ok(())
}

fn check_validity(leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(u64, u64), SvidError> {
    let not_before = u64::try_from(leaf.validity().not_before.timestamp()).unwrap_or(0);
    let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    if now.as_secs() < not_before {
        return Err(SvidError::NotYetValid { not_before });
    }
    if now.as_secs() > not_after {
        return Err(SvidError::Expired { not_after });
    }
    Ok((not_before, not_after))
}

/// RFC 5280 with the authorities of this one trust domain.
fn check_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    usage: Usage,
    now: UnixTime,
) -> Result<(), SvidError> {
    let purpose = match usage {
        Usage::TlsServer => webpki::KeyUsage::server_auth(),
        Usage::TlsClient | Usage::Signature => webpki::KeyUsage::client_auth(),
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(path_error)?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        bundle.anchors(),
        intermediates,
        now,
        purpose,
        None,
        None,
    )
    .map(|_| ())
    .map_err(path_error)
}

fn path_error(error: webpki::Error) -> SvidError {
    use webpki::Error;
    match error {
        Error::CaUsedAsEndEntity => SvidError::NotALeaf,
        Error::CertExpired { not_after, .. } => {
            SvidError::Expired { not_after: not_after.as_secs() }
        }
        Error::CertNotValidYet { not_before, .. } => {
            SvidError::NotYetValid { not_before: not_before.as_secs() }
        }
        Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::MaximumNameConstraintComparisonsExceeded => SvidError::NameConstraint,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => SvidError::BadEku,
        Error::UnsupportedCriticalExtension => SvidError::CriticalExtension,
        other => SvidError::UntrustedChain(other.to_string()),
    }
}

/// The time in the form path building takes it.
pub fn unix_time(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}
