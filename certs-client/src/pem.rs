//! PEM sections of the files people give us. Text outside the sections is ignored, as everywhere.

use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use zeroize::Zeroizing;

/// All `CERTIFICATE` sections, in order.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text)
        .map(|section| section.map_err(|error| error.to_string()))
        .collect()
}

/// A private key section, and how it was spelled.
pub(crate) enum KeySection {
    /// `BEGIN PRIVATE KEY`.
    Pkcs8(Zeroizing<Vec<u8>>),
    /// `BEGIN EC PRIVATE KEY` or `BEGIN RSA PRIVATE KEY`; the name is kept for the message.
    Other(&'static str),
}

/// The first private key section, if there is one.
pub(crate) fn private_key(text: &[u8]) -> Result<Option<KeySection>, String> {
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, bytes) = section.map_err(|error| error.to_string())?;
        let bytes = Zeroizing::new(bytes);
        match kind {
            SectionKind::PrivateKey => return Ok(Some(KeySection::Pkcs8(bytes))),
            SectionKind::EcPrivateKey => return Ok(Some(KeySection::Other("EC PRIVATE KEY"))),
            SectionKind::RsaPrivateKey => return Ok(Some(KeySection::Other("RSA PRIVATE KEY"))),
            _ => {}
        }
    }
    Ok(None)
}
