//! The request for a certificate (PKCS#10), signed by any key this process may use.
//!
//! Invariant: it says nothing but the public key and, if one is configured, the identity that is
//! asked for: the subject is empty, and who gets which identity is the authority's business.

use countersign_workload_id::WorkloadId;
use rcgen::{CertificateParams, DistinguishedName, SanType, SignatureAlgorithm};
use rustls::SignatureScheme;

use crate::key::{KeyType, SigningKey};

/// A signed request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Csr {
    /// DER.
    pub der: Vec<u8>,
    /// `BEGIN CERTIFICATE REQUEST`.
    pub pem: String,
}

/// Why there is no request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CsrError {
    /// The key did not sign.
    #[error("the private key did not sign the certificate request: {0}")]
    Sign(String),
}

/// A request for a certificate on `key`, naming `expected` as its only name if it is set.
///
/// # Errors
/// When the key does not sign.
pub fn request(key: &SigningKey, expected: Option<&WorkloadId>) -> Result<Csr, CsrError> {
    let failed = |error: rcgen::Error| CsrError::Sign(error.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(expected) = expected {
        let uri = expected.as_str().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
    }
    let request = params.serialize_request(&Remote(key)).map_err(failed)?;
    let pem = request.pem().map_err(failed)?;
    Ok(Csr { der: request.der().to_vec(), pem })
}

/// Our key as rcgen takes keys it does not hold.
struct Remote<'a>(&'a SigningKey);

impl rcgen::PublicKeyData for Remote<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0.key_type() {
            KeyType::Ed25519 => &rcgen::PKCS_ED25519,
            KeyType::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl rcgen::SigningKey for Remote<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = match self.0.key_type() {
            KeyType::Ed25519 => SignatureScheme::ED25519,
            KeyType::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        };
        // As in a handshake: certificates and TLS carry ECDSA signatures in the same form.
        let signer = self.0.to_rustls().choose_scheme(&[scheme]);
        let signer = signer.ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
