//! The names in the certificate of a client outside the mesh: a device, a proxy.
//!
//! Says nothing about who vouches for them. A name that stands there twice is none at all.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate calls its holder.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientNames {
    /// The one common name of its subject.
    pub common_name: Option<String>,
    /// Its DNS names, as written.
    pub dns: Vec<String>,
    /// Its URIs.
    pub uris: Vec<String>,
    /// Start of validity, seconds since 1970.
    pub not_before: u64,
}

/// Reads them; `None` for what is no certificate.
pub fn client_names(leaf: &CertificateDer<'_>) -> Option<ClientNames> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut common = certificate.subject().iter_common_name();
    let common_name = match (common.next(), common.next()) {
        (Some(one), None) => one.as_str().ok().map(str::to_owned),
        _ => None,
    };
    let mut names = ClientNames {
        common_name,
        not_before: u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or(0),
        ..ClientNames::default()
    };
    let alternatives = certificate.subject_alternative_name().ok()?;
    for name in alternatives.iter().flat_map(|found| &found.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            _ => {}
        }
    }
    Some(names)
}
