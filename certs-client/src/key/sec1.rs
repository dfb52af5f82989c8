//! Which curve a SEC 1 key (RFC 5915) names, read before the cryptographic library takes it:
//! `SEQUENCE { 1, OCTET STRING, [0] curve OPTIONAL, [1] public key OPTIONAL }`.

use x509_parser::{
    asn1_rs::{Any, Class, FromDer as _, Integer, OctetString, Tag},
    der_parser::Oid,
};

use super::{KeyError, pkcs8};

/// Refuses what is no SEC 1 key, and one that names another curve than P-256.
pub(super) fn check(der: &[u8]) -> Result<(), KeyError> {
    match curve(der).ok_or(KeyError::Malformed)? {
        // It may be left out; reading the key as P-256 tells then.
        None => Ok(()),
        Some(curve) if curve == pkcs8::P256 => Ok(()),
        Some(curve) => Err(KeyError::Unsupported { found: pkcs8::curve_name(&curve) }),
    }
}

fn curve(der: &[u8]) -> Option<Option<Oid<'_>>> {
    let (rest, key) = Any::from_der(der).ok()?;
    if key.tag() != Tag::Sequence {
        return None;
    }
    let (content, version) = Integer::from_der(key.data).ok()?;
    let (content, _) = OctetString::from_der(content).ok()?;
    if !rest.is_empty() || version.as_u32().ok()? != 1 {
        return None;
    }
    let Ok((_, next)) = Any::from_der(content) else { return content.is_empty().then_some(None) };
    if next.class() != Class::ContextSpecific || next.tag().0 != 0 {
        return Some(None);
    }
    let (_, curve) = Oid::from_der(next.data).ok()?;
    Some(Some(curve))
}
