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

/// The arcs of [`LOCATION_OID`], for those who write the extension.
pub const LOCATION_ARCS: &[u64] = &[2, 999, 4747, 1];

/// Where a workload runs, as its signer attests it; `None` where the signer does not know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Location {
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// Name of the node.
    pub node: Option<String>,
    /// Zone of the node.
    pub zone: Option<String>,
    /// Region of the node.
    pub region: Option<String>,
}

impl Location {
    /// The value of the extension. A text that is too long for it is left out: unknown, not cut.
    pub fn to_der(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for text in [&self.pod_uid, &self.node, &self.zone, &self.region] {
            let text = text.as_deref().filter(|text| text.len() <= TEXT_BYTES_MAX);
            element(0x0c, text.unwrap_or_default().as_bytes(), &mut content);
        }
        let mut out = Vec::new();
        element(0x30, &content, &mut out);
        out
    }

    /// Reads the value of the extension, whole or not at all.
    pub fn from_der(value: &[u8]) -> Option<Location> {
        let known = |text: String| (!text.is_empty()).then_some(text);
        let [pod_uid, node, zone, region] = texts(value)?.map(known);
        Some(Location { pod_uid, node, zone, region })
    }
}

/// One DER element; the contents here have fewer than 65,536 bytes.
fn element(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    out.push(tag);
    match (high, low) {
        (0, ..0x80) => out.push(low),
        (0, _) => out.extend_from_slice(&[0x81, low]),
        _ => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(content);
}

/// The location in a leaf, if it has exactly one that can be read.
pub(crate) fn of(leaf: &X509Certificate<'_>) -> Option<Location> {
    let mut found = leaf.extensions().iter().filter(|ext| ext.oid.as_bytes() == LOCATION_OID);
    let (only, None) = (found.next()?, found.next()) else { return None };
    Location::from_der(only.value)
}

/// The pod UID of a leaf.
pub(crate) fn pod_uid(leaf: &X509Certificate<'_>) -> Option<String> {
    of(leaf)?.pod_uid
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
    fn what_a_signer_writes_is_what_is_read() {
        let long = "n".repeat(TEXT_BYTES_MAX);
        let location = Location {
            pod_uid: Some("5c0e7a0e-3b0f-4c55-9f6b-1d8f0a2b7c11".to_owned()),
            node: Some(long.clone()),
            zone: None,
            region: Some("r".repeat(130)),
        };
        let read = texts(&location.to_der()).unwrap();
        assert_eq!(read, [location.pod_uid.clone().unwrap(), long, String::new(), "r".repeat(130)]);
        let too_long = Location { node: Some("n".repeat(TEXT_BYTES_MAX + 1)), ..location };
        assert_eq!(texts(&too_long.to_der()).unwrap()[1], "", "unknown, not cut");
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
