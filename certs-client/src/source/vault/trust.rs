//! Which authorities of a mount are trust anchors, and which only stand between. Pure.
//!
//! A mount may hold several issuers, and while a root is being replaced it holds the old and the
//! new one: all of them vouch. Invariant: an anchor is an authority that no other authority of the
//! mount issued, so adding an issuer never takes another one's anchor away.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, X509Certificate},
};

/// The authorities of `all` that nobody in `all` issued, each once, in order.
pub(super) fn anchors(all: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let parsed: Vec<_> = all.iter().filter_map(|der| Some((der, parse(der)?))).collect();
    let mut found: Vec<CertificateDer<'static>> = Vec::new();
    for (der, certificate) in &parsed {
        let is_issued =
            !is_root(certificate) && parsed.iter().any(|(_, other)| names(certificate, other));
        if !is_issued && !found.contains(*der) {
            found.push((*der).clone());
        }
    }
    found
}

/// The part of `authorities` that a peer needs between the leaf and its anchor.
pub(super) fn intermediates(
    authorities: Vec<CertificateDer<'static>>,
    anchors: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    authorities.into_iter().take_while(|authority| !anchors.contains(authority)).collect()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

fn is_root(certificate: &X509Certificate<'_>) -> bool {
    names(certificate, certificate)
}

/// Whether `certificate` says that `other` issued it: by name, and by key where it names one. A
/// wrong claim only costs its own place among the anchors; a path is verified when it is used.
fn names(certificate: &X509Certificate<'_>, other: &X509Certificate<'_>) -> bool {
    let by_key = match (issuer_key(certificate), own_key(other)) {
        (Some(issuer), Some(own)) => issuer == own,
        _ => true,
    };
    by_key && certificate.issuer().as_raw() == other.subject().as_raw()
}

fn issuer_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    })
}

fn own_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    })
}
