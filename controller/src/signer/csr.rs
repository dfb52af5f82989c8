//! The PKCS#10 request inside an object: bytes of a stranger.
//!
//! Two things are taken from it: a public key whose owner has signed the request, and the names it
//! asks for, which are compared and never copied. Everything else in it has no effect.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

/// Bytes of a request; ours have about 300.
pub(super) const CSR_BYTES_MAX: usize = 16 * 1024;

const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const ED25519_OID: &str = "1.3.101.112";

/// What is used of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Csr {
    /// `SubjectPublicKeyInfo`, DER; P-256 or Ed25519.
    pub(crate) spki: Vec<u8>,
    /// The URI it asks to be named, if any.
    pub(crate) uri: Option<String>,
}

/// Why a request cannot be granted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("it asks for an authority, this signer makes leaves only")]
    AsksForAuthority,
    #[error("its signature is not made with its key")]
    BadSignature,
    #[error("its key is {0}; countersign needs ECDSA P-256 or Ed25519")]
    KeyType(String),
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error("it asks for {0}; the only name it may ask for is one SPIFFE ID")]
    Names(&'static str),
}

/// Reads the PEM text of `spec.request`.
pub(crate) fn parse(pem: &[u8]) -> Result<Csr, CsrError> {
    let malformed = |problem: &str| CsrError::Malformed(problem.to_owned());
    if pem.len() > CSR_BYTES_MAX {
        return Err(malformed("it is too large"));
    }
    let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem)
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    if kind != SectionKind::Csr {
        return Err(malformed("it is no CERTIFICATE REQUEST"));
    }
    let request = unproven(&der)?;
    check_signature(&request)?;
    let uri = requested_uri(&request)?;
    Ok(Csr { spki: request.certification_request_info.subject_pki.raw.to_vec(), uri })
}

/// A request whose signature was not looked at.
pub(crate) fn unproven(der: &[u8]) -> Result<X509CertificationRequest<'_>, CsrError> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes follow it".to_owned()));
    }
    Ok(request)
}

/// Whoever asks holds the key.
fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    let info = &request.certification_request_info;
    let algorithm = &info.subject_pki.algorithm;
    let parameters = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let key = info.subject_pki.subject_public_key.data.as_ref();
    let signature = request.signature_value.data.as_ref();
    let name = algorithm.algorithm.to_id_string();
    let curve = parameters.map(|oid| oid.to_id_string());
    let verified = match (name.as_str(), curve.as_deref()) {
        (EC_PUBLIC_KEY, Some(P256)) => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(info.raw, signature)
        }
        (ED25519_OID, _) => UnparsedPublicKey::new(&ED25519, key).verify(info.raw, signature),
        (EC_PUBLIC_KEY, curve) => {
            let curve = curve.unwrap_or("not named");
            return Err(CsrError::KeyType(format!("ECDSA with curve {curve}")));
        }
        (other, _) => return Err(CsrError::KeyType(format!("of algorithm {other}"))),
    };
    verified.map_err(|_| CsrError::BadSignature)
}

/// The one URI among the names, after a look at all requested extensions.
pub(crate) fn requested_uri(
    request: &X509CertificationRequest<'_>,
) -> Result<Option<String>, CsrError> {
    let attributes = request.certification_request_info.iter_attributes();
    let mut uris = Vec::new();
    for attribute in attributes {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(basic) if basic.ca => {
                    return Err(CsrError::AsksForAuthority);
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        let GeneralName::URI(uri) = name else {
                            return Err(CsrError::Names("a name that is no URI"));
                        };
                        uris.push((*uri).to_owned());
                    }
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(CsrError::Malformed("a requested extension".to_owned()));
                }
                _ => {}
            }
        }
    }
    match uris.len() {
        0 | 1 => Ok(uris.pop()),
        _ => Err(CsrError::Names("several URIs")),
    }
}
