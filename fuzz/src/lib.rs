//! What the targets share: putting fuzzed bytes into the place they are meant for.

use rustls_pki_types::CertificateDer;

/// The trust domain the targets verify for.
pub const DOMAIN: &str = "prod.example.com";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding.
pub fn part(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

/// PEM of one section.
pub fn pem(kind: &str, der: &[u8]) -> String {
    let mut text = part(der).replace('-', "+").replace('_', "/");
    text.push_str(["", "", "==", "="][text.len() % 4]);
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

/// Cuts DER elements that follow each other; what has no sound length is the last one.
pub fn certificates(mut bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = match *bytes {
            [_, short @ ..=0x7f, ..] => 2 + usize::from(short),
            [_, 0x81, length, ..] => 3 + usize::from(length),
            [_, 0x82, high, low, ..] => 4 + usize::from(u16::from_be_bytes([high, low])),
            _ => bytes.len(),
        };
        let (one, rest) = bytes.split_at(length.min(bytes.len()));
        found.push(one.to_vec().into());
        bytes = rest;
    }
    found
}
