//! The attested location of a leaf: which pod it was issued to, as its signer says.
//!
//! A non-critical extension holds a DER sequence of UTF-8 texts: pod UID, node, zone, region, an
//! empty text where the signer does not know. Invariant: a value that cannot be read whole is no
//! location at all; nothing is guessed from the request that asked for the certificate.

use x509_parser::{
    asn1_rs::{FromDer as _, Sequence, Utf8String},
    prelude::X509Certificate,
};

/// The extension `2.999.4747.1`, DER without tag and length: in the arc for examples until one is
/// registered.
pub const LOCATION_OID: &[u8] = &[0x88, 0x37, 0xa5, 0x0b, 0x01];

/// Texts of a location.
const TEXTS: usize = 4;
/// One text.
const TEXT_BYTES_MAX: usize = 253;

/// The pod UID of a leaf.
pub(crate) fn pod_uid(leaf: &X509Certificate<'_>) -> Option<String> {
    let mut found = leaf.extensions().iter().filter(|ext| ext.oid.as_bytes() == LOCATION_OID);
    let (only, None) = (found.next()?, found.next()) else { return None };
    let [uid, ..] = texts(only.value)?;
    (!uid.is_empty()).then_some(uid)
}

/// All texts of a location.
fn texts(value: &[u8]) -> Option<[String; TEXTS]> {
    let (rest, sequence) = Sequence::from_der(value).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut content = sequence.content.as_ref();
    let mut out: [String; TEXTS] = Default::default();
    for text in &mut out {
        let (rest, read) = Utf8String::from_der(content).ok()?;
        *text = read.string();
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        content = rest;
    }
    content.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn sequence(texts: &[&str]) -> Vec<u8> {
        let texts: Vec<u8> = texts.iter().flat_map(|text| der(0x0c, text.as_bytes())).collect();
        der(0x30, &texts)
    }

    #[test]
    fn a_location_is_read_whole_or_not_at_all() {
        let good = sequence(&["uid", "node", "", "region"]);
        assert_eq!(texts(&good).unwrap(), ["uid", "node", "", "region"]);
        for cut in 0..good.len() {
            assert_eq!(texts(&good[..cut]), None, "{cut}");
        }
        assert_eq!(texts(&sequence(&["uid", "node", "zone"])), None);
        assert_eq!(texts(&sequence(&["uid", "node", "zone", "region", "more"])), None);
        assert_eq!(texts(&[good.as_slice(), &[0]].concat()), None);
        assert_eq!(texts(&der(0x30, &der(0x16, b"uid"))), None, "another string type");
    }
}
