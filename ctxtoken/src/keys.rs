//! Public keys that verify tokens. A key record carries its algorithm, so a header can never
//! choose one; a key is either P-256 or Ed25519 and there is no code for anything else.

use std::fmt;

use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey},
};
use countersign_workload_id::WorkloadId;

use crate::{Algorithm, Message, SignerError, UnixTime, jws};

/// Length of the only two signature forms: `r‖s` on P-256, and Ed25519.
const SIGNATURE_BYTES: usize = 64;

/// `SubjectPublicKeyInfo` up to the point: id-ecPublicKey, prime256v1, 66-byte bit string.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// `SubjectPublicKeyInfo` up to the key: id-Ed25519 without parameters, 33-byte bit string.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key with the one algorithm it is for, parsed and checked to be on its curve.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    parsed: std::sync::Arc<ParsedPublicKey>,
    /// P-256: `x‖y`, Ed25519: the 32 bytes of the key.
    raw: Box<[u8]>,
}

impl VerifyingKey {
    /// Takes a DER `SubjectPublicKeyInfo`, in the one encoding each kind of key has.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, SignerError> {
        if let Some([0x04, point @ ..]) = spki.strip_prefix(&P256_SPKI_PREFIX[..]) {
            return Self::p256(point);
        }
        match spki.strip_prefix(&ED25519_SPKI_PREFIX[..]) {
            Some(key) => Self::ed25519(key),
            None => Err(SignerError::Unsupported),
        }
    }

    /// Takes one JWK, `EC`/`P-256` or `OKP`/`Ed25519`, by the same rules as a key of a set.
    pub fn from_jwk(jwk: &[u8]) -> Result<Self, crate::JwksError> {
        crate::jwks::single_key(jwk)
    }

    pub(crate) fn p256(xy: &[u8]) -> Result<Self, SignerError> {
        if xy.len() != 64 {
            return Err(SignerError::Invalid);
        }
        let mut point = [0x04; 65];
        point[1..].copy_from_slice(xy);
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| SignerError::Invalid)?;
        Ok(Self { algorithm: Algorithm::Es256, parsed: parsed.into(), raw: xy.into() })
    }

    pub(crate) fn ed25519(key: &[u8]) -> Result<Self, SignerError> {
        if key.len() != 32 {
            return Err(SignerError::Invalid);
        }
        let parsed = ParsedPublicKey::new(&ED25519, key).map_err(|_| SignerError::Invalid)?;
        Ok(Self { algorithm: Algorithm::Ed25519, parsed: parsed.into(), raw: key.into() })
    }

    /// The algorithm this key is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key's name in tokens: the first 12 bytes of its RFC 7638 thumbprint, 16 characters.
    pub fn kid(&self) -> String {
        let thumbprint = digest::digest(&digest::SHA256, self.jwk_members().as_bytes());
        jws::encode(thumbprint.as_ref().get(..12).unwrap_or_default())
    }

    /// The public JWK for a countersign issuer's key set, without `nbf`, `exp` and `iss`.
    pub fn to_jwk(&self) -> String {
        self.jwk_with(crate::jwks::USE, "")
    }

    /// The public JWK with a `use`, and `more` members as JSON text that begins with a comma.
    pub(crate) fn jwk_with(&self, usage: &str, more: &str) -> String {
        let members = self.jwk_members();
        let open = members.strip_suffix('}').unwrap_or(&members);
        let (kid, alg) = (self.kid(), self.algorithm.name());
        format!(r#"{open},"kid":"{kid}","alg":"{alg}","use":"{usage}"{more}}}"#)
    }

    /// The required members in the order and form RFC 7638 hashes.
    fn jwk_members(&self) -> String {
        match self.algorithm {
            Algorithm::Es256 => {
                let (x, y) = self.raw.split_at_checked(32).unwrap_or_default();
                let (x, y) = (jws::encode(x), jws::encode(y));
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Algorithm::Ed25519 => {
                let x = jws::encode(&self.raw);
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
            }
        }
    }

    /// [`verifies`](Self::verifies) for a message whose hash is known: ES256 signs that.
    pub(crate) fn verifies_hashed(&self, message: &Message<'_>, signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Es256 => {
                signature.len() == SIGNATURE_BYTES
                    && self.parsed.verify_digest_sig(&message.sha256(), signature).is_ok()
            }
            Algorithm::Ed25519 => self.verifies(message.bytes(), signature),
        }
    }

    /// Whether `signature` is this key's signature of `message`. Any other length than 64 bytes
    /// is no signature.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.len() == SIGNATURE_BYTES && self.parsed.verify_sig(message, signature).is_ok()
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.raw == other.raw
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({} {})", self.algorithm, self.kid())
    }
}

/// What a validated certificate chain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainKey {
    /// The leaf's one URI SAN.
    pub id: WorkloadId,
    /// The leaf's key.
    pub key: VerifyingKey,
    /// When the leaf ends.
    pub not_after: UnixTime,
}

/// Validates certificate chains by the X509-SVID rules, against the bundle of the trust domain
/// the leaf names. Called once per new chain; a [`TokenCache`](crate::TokenCache) remembers the
/// chains of issuers.
pub trait ChainValidator {
    /// `chain_der`: leaf first, 1..=3 certificates. The error text goes to the audit record.
    fn validate(&self, chain_der: &[Vec<u8>], now: UnixTime) -> Result<ChainKey, String>;
}
