//! The field `Countersign-Certs`: in a request the certificate chains of earlier holders, in an
//! answer the thumbprints of those that are missing.
//!
//! Both are Lists of RFC 9651, read in the one spelling that this profile writes: no parameters,
//! padded base64, nothing but space or tab around commas. Invariant: what is read is bounded before
//! anything is decoded, and no byte of it is believed: chains are validated elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_config::limits;
use rustls::pki_types::CertificateDer;

/// Certificates of one chain: a leaf and up to two intermediates.
const CHAIN_MAX: usize = 3;

/// Characters of a thumbprint: base64url of 32 bytes.
const THUMBPRINT_CHARS: usize = 43;

/// A certificate chain, leaf first.
pub type Chain = Vec<CertificateDer<'static>>;

/// SHA-256 of a leaf certificate.
pub type Thumbprint = [u8; 32];

/// Why the field cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertsError {
    /// Longer than its limit.
    #[error("`Countersign-Certs` has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes received.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not in the form of this profile.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// Reads the chains of a request.
///
/// # Errors
/// [`CertsError`], for the field as a whole.
pub fn read_chains(field: &[u8]) -> Result<Vec<Chain>, CertsError> {
    members(field)?.into_iter().map(read_chain).collect()
}

/// Reads the thumbprints of an answer.
///
/// # Errors
/// [`CertsError`], for the field as a whole.
pub fn read_thumbprints(field: &[u8]) -> Result<Vec<Thumbprint>, CertsError> {
    members(field)?.into_iter().map(read_thumbprint).collect()
}

/// Writes chains, as many as fit: what is missing will be asked for.
pub fn write_chains<'a>(chains: impl IntoIterator<Item = &'a [CertificateDer<'static>]>) -> String {
    let mut field = String::new();
    let fits = |chain: &&[CertificateDer<'_>]| (1..=CHAIN_MAX).contains(&chain.len());
    for chain in chains.into_iter().filter(fits).take(limits::HOPS_MAX) {
        let texts: Vec<_> = chain.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
        let member = format!("({})", texts.join(" "));
        if field.len() + 2 + member.len() > limits::HOP_CERTS_BYTES_MAX {
            break;
        }
        push(&mut field, &member);
    }
    field
}

/// Writes thumbprints.
pub fn write_thumbprints<'a>(thumbprints: impl IntoIterator<Item = &'a Thumbprint>) -> String {
    let mut field = String::new();
    for thumbprint in thumbprints.into_iter().take(limits::HOPS_MAX) {
        push(&mut field, &format!("\"{}\"", URL_SAFE_NO_PAD.encode(thumbprint)));
    }
    field
}

fn push(field: &mut String, member: &str) {
    if !field.is_empty() {
        field.push_str(", ");
    }
    field.push_str(member);
}

/// Cuts a List at its commas. No member of ours can contain one.
fn members(field: &[u8]) -> Result<Vec<&str>, CertsError> {
    let limit = limits::HOP_CERTS_BYTES_MAX;
    if field.len() > limit {
        return Err(CertsError::TooLarge { bytes: field.len(), limit });
    }
    let text = str::from_utf8(field)
        .map_err(|_| CertsError::Malformed("bytes that are not text in `Countersign-Certs`"))?;
    let members: Vec<&str> = text.split(',').take(limits::HOPS_MAX + 1).collect();
    if members.len() > limits::HOPS_MAX {
        return Err(CertsError::Malformed(
            "more chains in `Countersign-Certs` than a list has records",
        ));
    }
    Ok(members.into_iter().map(|member| member.trim_matches([' ', '\t'])).collect())
}

fn read_chain(member: &str) -> Result<Chain, CertsError> {
    let malformed =
        CertsError::Malformed("a member of `Countersign-Certs` that is no list of byte sequences");
    let inner =
        member.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or(malformed)?;
    let mut chain = Chain::new();
    for item in inner.split(' ').filter(|item| !item.is_empty()) {
        if chain.len() == CHAIN_MAX {
            return Err(CertsError::Malformed(
                "a chain of more than three certificates in `Countersign-Certs`",
            ));
        }
        let text = item.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
        let der = STANDARD.decode(text.ok_or(malformed)?).map_err(|_| malformed)?;
        chain.push(CertificateDer::from(der));
    }
    let sound = !chain.is_empty() && chain.iter().all(|der| !der.is_empty());
    if sound {
        Ok(chain)
    } else {
        Err(CertsError::Malformed("an empty chain in `Countersign-Certs`"))
    }
}

fn read_thumbprint(member: &str) -> Result<Thumbprint, CertsError> {
    let malformed = CertsError::Malformed("a member of `Countersign-Certs` that is no thumbprint");
    let text = member.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(malformed)?;
    if text.len() != THUMBPRINT_CHARS {
        return Err(malformed);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed)?;
    bytes.try_into().map_err(|_| malformed)
}

#[cfg(test)]
#[path = "tests/certs.rs"]
mod tests;
