//! What kind of key a PKCS#8 structure holds, read before the cryptographic library takes it.

use x509_parser::{
    der_parser::ber::BerObjectContent,
    der_parser::{self, Oid, oid},
};

use super::{KeyError, KeyType};

const ED25519: Oid<'static> = oid!(1.3.101.112);
const ED448: Oid<'static> = oid!(1.3.101.113);
const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
pub(super) const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const P521: Oid<'static> = oid!(1.3.132.0.35);
const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);

/// Reads the `AlgorithmIdentifier` of a PKCS#8 key, to choose and to name what cannot be used.
pub(super) fn key_type(der: &[u8]) -> Result<KeyType, KeyError> {
    let (algorithm, curve) = pkcs8_algorithm(der).ok_or(KeyError::Malformed)?;
    let unsupported = |found| Err(KeyError::Unsupported { found });
    match (algorithm, curve) {
        (algorithm, _) if algorithm == ED25519 => Ok(KeyType::Ed25519),
        (algorithm, Some(curve)) if algorithm == EC && curve == P256 => Ok(KeyType::P256),
        (algorithm, Some(curve)) if algorithm == EC => unsupported(curve_name(&curve)),
        (algorithm, _) if algorithm == RSA => unsupported("RSA"),
        (algorithm, _) if algorithm == ED448 => unsupported("Ed448"),
        _ => unsupported("of another type"),
    }
}

fn pkcs8_algorithm(der: &[u8]) -> Option<(Oid<'_>, Option<Oid<'_>>)> {
    let (rest, key) = der_parser::parse_der(der).ok()?;
    let BerObjectContent::Sequence(key) = key.content else { return None };
    let BerObjectContent::Sequence(identifier) = key.get(1)?.content.clone() else { return None };
    let algorithm = identifier.first()?.as_oid().ok()?.to_owned();
    let curve = identifier.get(1).and_then(|parameter| parameter.as_oid().ok()).cloned();
    rest.is_empty().then_some((algorithm, curve))
}

/// A curve that cannot be used, as people write it.
pub(super) fn curve_name(curve: &Oid<'_>) -> &'static str {
    match curve {
        curve if *curve == P384 => "ECDSA P-384",
        curve if *curve == P521 => "ECDSA P-521",
        _ => "of another type",
    }
}
