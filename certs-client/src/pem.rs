//! PEM sections of the files people give us. Text outside the sections is ignored, as everywhere.
//!
//! Invariant: no section is passed over in silence because of how it is set: a byte order mark
//! before the first one is taken off, and a `BEGIN` line with anything but nothing before it is an
//! error. A certificate that is skipped would be a missing leaf or a missing authority.

use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer,
    pem::{Error, PemObject, SectionKind},
};
use zeroize::Zeroizing;

/// What some editors and PowerShell write in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// All `CERTIFICATE` sections, in order.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(sections(text)?)
        .map(|section| section.map_err(|error| words(&error)))
        .collect()
}

/// All `X509 CRL` sections, in order, DER.
pub(crate) fn crls(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    CertificateRevocationListDer::pem_slice_iter(sections(text)?)
        .map(|section| section.map(|crl| crl.as_ref().to_vec()).map_err(|error| words(&error)))
        .collect()
}

/// A private key section, and how it was spelled.
pub(crate) enum KeySection {
    /// `BEGIN PRIVATE KEY`.
    Pkcs8(Zeroizing<Vec<u8>>),
    /// `BEGIN EC PRIVATE KEY`: SEC 1, which cert-manager writes unless told otherwise.
    Sec1(Zeroizing<Vec<u8>>),
    /// Any other form; the name is kept for the message.
    Other(&'static str),
}

/// The first private key section, if there is one.
pub(crate) fn private_key(text: &[u8]) -> Result<Option<KeySection>, String> {
    let text = sections(text)?;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, bytes) = section.map_err(|error| words(&error))?;
        let bytes = Zeroizing::new(bytes);
        match kind {
            SectionKind::PrivateKey => return Ok(Some(KeySection::Pkcs8(bytes))),
            SectionKind::EcPrivateKey => return Ok(Some(KeySection::Sec1(bytes))),
            SectionKind::RsaPrivateKey => return Ok(Some(KeySection::Other("RSA PRIVATE KEY"))),
            _ => {}
        }
    }
    let encrypted = text
        .split(|byte| *byte == b'\n')
        .any(|line| line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    Ok(encrypted.then_some(KeySection::Other("ENCRYPTED PRIVATE KEY")))
}

/// The text without a byte order mark, if every section in it will be seen.
fn sections(text: &[u8]) -> Result<&[u8], String> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    for (index, line) in text.split(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
        let bare = line.trim_ascii_start();
        let bare = bare.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bare);
        if bare.len() < line.len() && bare.starts_with(b"-----BEGIN ") {
            let line = index.saturating_add(1);
            return Err(format!(
                "line {line} has something before its `-----BEGIN`: PEM starts at the margin"
            ));
        }
    }
    Ok(text)
}

/// The parser's error in words that can be shown: no bytes of the file.
fn words(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { end_marker } => {
            let name = String::from_utf8_lossy(end_marker);
            format!("the section {name} has no end: the file is cut off")
        }
        Error::IllegalSectionStart { .. } => {
            "a `-----BEGIN` line does not end in five hyphens".to_owned()
        }
        Error::Base64Decode(_) => "a section is not base64: the file is damaged".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn sections_are_found_however_the_text_is_set() {
        let crlf = ONE.replace('\n', "\r\n");
        let comments = format!("subject=CN = a\n# a comment\n\n{ONE}trailing words\n{ONE}");
        let commented_out = format!("# -----BEGIN CERTIFICATE-----\n{ONE}");
        for (text, count) in [
            (ONE.to_owned(), 1),
            (crlf, 1),
            (ONE.replace('\n', "\r"), 1),
            (ONE.trim_end().to_owned(), 1),
            (ONE.replace("AAAA", "AA\n AA \n"), 1),
            (format!("\u{feff}{ONE}"), 1),
            (comments, 2),
            (commented_out, 1),
            (String::new(), 0),
        ] {
            assert_eq!(
                certificates(text.as_bytes()).map(|found| found.len()),
                Ok(count),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_section_is_never_passed_over_in_silence() {
        let refused = |text: &str| certificates(text.as_bytes()).unwrap_err();
        for text in
            [format!("{ONE}  {ONE}"), format!("{ONE}\t{ONE}"), format!("{ONE}\u{feff}{ONE}")]
        {
            assert!(refused(&text).starts_with("line 4 has something before"), "{text:?}");
        }
        assert!(refused(&ONE[..40]).ends_with("the file is cut off"));
        assert!(refused(&ONE.replace("AAAA", "A?AA")).contains("not base64"));
        assert!(refused(&ONE.replacen("-----\n", "----\n", 1)).contains("five hyphens"));
        let twice = format!("{}{ONE}", &ONE[..30]);
        assert!(certificates(twice.as_bytes()).map_or(true, |found| found.len() < 2), "{twice:?}");
    }

    #[test]
    fn a_key_is_known_by_its_form() {
        let form = |text: &str| {
            private_key(text.as_bytes()).map(|found| {
                found.map(|key| match key {
                    KeySection::Pkcs8(_) => "pkcs8",
                    KeySection::Sec1(_) => "sec1",
                    KeySection::Other(name) => name,
                })
            })
        };
        let key = |label: &str| ONE.replace("CERTIFICATE", label);
        assert_eq!(form(&(ONE.to_owned() + &key("PRIVATE KEY"))), Ok(Some("pkcs8")));
        let parameters = key("EC PARAMETERS");
        assert_eq!(form(&(parameters + &key("EC PRIVATE KEY"))), Ok(Some("sec1")));
        assert_eq!(form(&key("RSA PRIVATE KEY")), Ok(Some("RSA PRIVATE KEY")));
        assert_eq!(form(&key("ENCRYPTED PRIVATE KEY")), Ok(Some("ENCRYPTED PRIVATE KEY")));
        assert_eq!(form(ONE), Ok(None));
    }
}
