//! The private key of an identity: it signs, and that is all it does.
//!
//! Invariants: it cannot be printed, cloned or serialised; the bytes it was read from are wiped,
//! and the copy the cryptographic library keeps is wiped when the last user is gone. Callers hold
//! signatures, never key bytes, so that a key in a PKCS#11 token or TPM can take its place.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use countersign_ctxtoken::{Algorithm, SignError, TokenSigner};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::{
    der_parser::ber::BerObjectContent,
    der_parser::{self, Oid, oid},
};

/// Why a private key was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not PKCS#8 DER, or not a valid key.
    #[error("the private key is not a valid PKCS#8 key")]
    Malformed,
    /// PEM of another form than PKCS#8.
    #[error(
        "the private key is \"BEGIN {found}\", PKCS#8 (\"BEGIN PRIVATE KEY\") is needed; \
         convert it with: openssl pkcs8 -topk8 -nocrypt -in old.pem -out new.pem"
    )]
    NotPkcs8 {
        /// The PEM label.
        found: &'static str,
    },
    /// A key type that cannot sign request context.
    #[error(
        "the private key is {found}; countersign needs ECDSA P-256 or Ed25519 \
         (SPIRE agent: workload_x509_svid_key_type = \"ec-p256\"; \
         openssl: -newkey ec -pkeyopt ec_paramgen_curve:P-256)"
    )]
    Unsupported {
        /// The name of the type, as people write it.
        found: &'static str,
    },
}

/// The key types an identity may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// Ed25519; signs as JOSE `EdDSA`.
    Ed25519,
    /// ECDSA on P-256; signs as JOSE `ES256`.
    P256,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::Ed25519 => "Ed25519",
            KeyType::P256 => "ECDSA P-256",
        })
    }
}

/// A private key that signs.
pub struct SigningKey {
    jose: JoseKey,
    tls: Arc<dyn rustls::sign::SigningKey>,
}

enum JoseKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Reads a PKCS#8 key. The caller wipes its copy of the bytes.
    ///
    /// # Errors
    /// When it is not PKCS#8, or not a P-256 or Ed25519 key; the text names the fix.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, KeyError> {
        let jose = match key_type(der)? {
            KeyType::Ed25519 => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(JoseKey::Ed25519)
            }
            KeyType::P256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(JoseKey::P256)
            }
        }
        .map_err(|_| KeyError::Malformed)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
        let tls = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)
            .map_err(|_| KeyError::Malformed)?;
        Ok(SigningKey { jose, tls })
    }

    /// Which kind of key this is.
    pub fn key_type(&self) -> KeyType {
        match self.jose {
            JoseKey::Ed25519(_) => KeyType::Ed25519,
            JoseKey::P256(_) => KeyType::P256,
        }
    }

    /// The public half, as it stands in the `subjectPublicKey` of a certificate.
    pub fn public_key(&self) -> &[u8] {
        match &self.jose {
            JoseKey::Ed25519(pair) => pair.public_key().as_ref(),
            JoseKey::P256(pair) => pair.public_key().as_ref(),
        }
    }

    /// The key as rustls takes it; it stays inside rustls' opaque type.
    pub fn to_rustls(&self) -> Arc<dyn rustls::sign::SigningKey> {
        Arc::clone(&self.tls)
    }
}

impl TokenSigner for SigningKey {
    fn algorithm(&self) -> Algorithm {
        match self.jose {
            JoseKey::Ed25519(_) => Algorithm::Ed25519,
            JoseKey::P256(_) => Algorithm::Es256,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = match &self.jose {
            JoseKey::Ed25519(pair) => pair.try_sign(message),
            JoseKey::P256(pair) => pair.sign(&SystemRandom::new(), message),
        };
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

const ED25519: Oid<'static> = oid!(1.3.101.112);
const ED448: Oid<'static> = oid!(1.3.101.113);
const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const P521: Oid<'static> = oid!(1.3.132.0.35);
const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);

/// Reads the `AlgorithmIdentifier` of a PKCS#8 key, to choose and to name what cannot be used.
fn key_type(der: &[u8]) -> Result<KeyType, KeyError> {
    let (algorithm, curve) = pkcs8_algorithm(der).ok_or(KeyError::Malformed)?;
    let unsupported = |found| Err(KeyError::Unsupported { found });
    match (algorithm, curve) {
        (algorithm, _) if algorithm == ED25519 => Ok(KeyType::Ed25519),
        (algorithm, Some(curve)) if algorithm == EC && curve == P256 => Ok(KeyType::P256),
        (algorithm, Some(curve)) if algorithm == EC && curve == P384 => unsupported("ECDSA P-384"),
        (algorithm, Some(curve)) if algorithm == EC && curve == P521 => unsupported("ECDSA P-521"),
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
