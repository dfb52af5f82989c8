//! Trust bundles: which certificate authorities may vouch for which trust domain.
//!
//! Invariant: anchors are only ever looked up by trust domain. There is no function that returns
//! the anchors of all domains, so a certificate of one domain can never be checked against the
//! authorities of another.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::digest::{SHA256, digest};
use countersign_workload_id::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pem;

/// Why a bundle was refused. A refused bundle changes nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// A certificate in it cannot be read.
    #[error("certificate {position} of the trust bundle cannot be read: {detail}")]
    BadCertificate {
        /// Counted from 1.
        position: usize,
        /// What the parser said.
        detail: String,
    },
    /// Not a SPIFFE bundle, or one that breaks its rules.
    #[error("the SPIFFE bundle cannot be used: {0}")]
    BadDocument(String),
    /// Not a JSON bundle map, or one that breaks its rules.
    #[error("the SPIFFE bundle map cannot be used: {0}")]
    BadMap(String),
    /// There is no certificate in it.
    #[error("the trust bundle is empty")]
    Empty,
    /// A certificate in it is not an authority (`cA` is false, or it may not sign certificates).
    #[error("certificate {position} of the trust bundle is not a certificate authority")]
    NotAnAuthority {
        /// Counted from 1.
        position: usize,
    },
    /// The PEM around the certificates is broken.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(String),
}

/// The authorities of one trust domain.
#[derive(Clone, Eq, PartialEq)]
pub struct Bundle {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Bundle {
    /// Builds a bundle from certificates, each of which must be an authority.
    ///
    /// # Errors
    /// When it would be empty or holds anything but authorities.
    pub fn from_certificates(
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Bundle, BundleError> {
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        let anchors = certificates
            .iter()
            .enumerate()
            .map(|(index, certificate)| anchor(index.saturating_add(1), certificate))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Bundle { certificates, anchors })
    }

    /// Reads DER certificates that follow each other without separator (Workload API).
    ///
    /// # Errors
    /// As [`Bundle::from_certificates`], and when the bytes do not split into certificates.
    pub fn from_concatenated_der(bytes: &[u8]) -> Result<Bundle, BundleError> {
        let certificates = split_der(bytes)
            .map_err(|(position, detail)| BundleError::BadCertificate { position, detail })?;
        Bundle::from_certificates(certificates)
    }

    /// Reads the `CERTIFICATE` sections of a PEM file.
    ///
    /// # Errors
    /// As [`Bundle::from_certificates`], and when the PEM is broken.
    pub fn from_pem(text: &[u8]) -> Result<Bundle, BundleError> {
        let certificates = pem::certificates(text).map_err(BundleError::Pem)?;
        Bundle::from_certificates(certificates)
    }

    /// The authorities as they were delivered.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The authorities as path building takes them.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({} authorities)", self.certificates.len())
    }
}

/// One bundle per trust domain, never merged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, Bundle>,
}

impl TrustBundles {
    /// No domain is trusted.
    pub fn new() -> TrustBundles {
        TrustBundles::default()
    }

    /// Sets the bundle of one domain; an earlier one is replaced, not merged.
    pub fn insert(&mut self, domain: TrustDomain, bundle: Bundle) {
        self.by_domain.insert(domain, bundle);
    }

    /// The authorities of one domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.by_domain.get(domain)
    }

    /// The domains in order.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.by_domain.keys()
    }

    /// Whether no domain is trusted.
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }

    /// Whether every authority of `other` is one here too.
    pub fn covers(&self, other: &TrustBundles) -> bool {
        other.by_domain.iter().all(|(domain, bundle)| {
            let here = self.get(domain).map(Bundle::certificates).unwrap_or_default();
            bundle.certificates.iter().all(|certificate| here.contains(certificate))
        })
    }

    /// A digest over all domains and authorities, to see whether two snapshots trust the same.
    pub fn sha256(&self) -> [u8; 32] {
        let mut all = Vec::new();
        for (domain, bundle) in &self.by_domain {
            all.extend_from_slice(domain.as_str().as_bytes());
            all.push(0);
            for certificate in &bundle.certificates {
                all.extend_from_slice(&sha256(certificate));
            }
        }
        sha256(&all)
    }
}

impl FromIterator<(TrustDomain, Bundle)> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = (TrustDomain, Bundle)>>(items: I) -> TrustBundles {
        TrustBundles { by_domain: items.into_iter().collect() }
    }
}

/// Splits concatenated DER certificates; the error names the position, counted from 1.
pub(crate) fn split_der(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, (usize, String)> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        let position = certificates.len().saturating_add(1);
        let (rest, _) = X509Certificate::from_der(bytes)
            .map_err(|error| (position, format!("not a DER certificate ({error})")))?;
        let length = bytes.len().saturating_sub(rest.len());
        let one = bytes.get(..length).unwrap_or_default();
        certificates.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    Ok(certificates)
}

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn anchor(
    position: usize,
    certificate: &CertificateDer<'static>,
) -> Result<TrustAnchor<'static>, BundleError> {
    let bad = |detail: String| BundleError::BadCertificate { position, detail };
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| bad(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow the certificate".to_owned()));
    }
    let usage = parsed.key_usage().map_err(|error| bad(error.to_string()))?;
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !parsed.is_ca() || !signs {
        return Err(BundleError::NotAnAuthority { position });
    }
    let anchor =
        webpki::anchor_from_trusted_cert(certificate).map_err(|error| bad(error.to_string()))?;
    Ok(anchor.to_owned())
}
