//! The private key of an identity: it signs, and that is all it does.
//!
//! Invariants: it cannot be printed, cloned or serialised; the bytes it was read from are wiped,
//! and the copy the cryptographic library keeps is wiped when the last user is gone. Callers hold
//! signatures, never key bytes: a key in a PKCS#11 token or TPM ([`ExternalKey`]) takes the same
//! place, for TLS and for tokens alike.

mod external;
mod maker;
pub mod pkcs11;
mod pkcs8;
mod sec1;

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use countersign_ctxtoken::{Algorithm, Message, SignError, TokenSigner};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

pub use external::{ExternalKey, KeyFailure};
pub use maker::KeyMaker;

/// Why a private key was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// A key outside of this process cannot be used.
    #[error(transparent)]
    External(#[from] KeyFailure),
    /// The cryptographic library made no key.
    #[error("a new key could not be made: the cryptographic library failed")]
    Generate,
    /// Not DER of the form it claims to have, or not a valid key.
    #[error("the private key is not a valid PKCS#8 or SEC 1 key")]
    Malformed,
    /// PEM of another form than PKCS#8 and SEC 1.
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
         cert-manager: privateKey: {{algorithm: ECDSA, size: 256}}; \
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
    External(Arc<dyn ExternalKey>),
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Reads a PKCS#8 key. The caller wipes its copy of the bytes.
    ///
    /// # Errors
    /// When it is not PKCS#8, or not a P-256 or Ed25519 key; the text names the fix.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, KeyError> {
        let jose = match pkcs8::key_type(der)? {
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

    /// Reads a SEC 1 (RFC 5915) key, the form of `BEGIN EC PRIVATE KEY`. The caller wipes its copy
    /// of the bytes.
    ///
    /// # Errors
    /// When it is not of that form, or not a P-256 key.
    pub fn from_sec1(der: &[u8]) -> Result<SigningKey, KeyError> {
        sec1::check(der)?;
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| KeyError::Malformed)?;
        let der = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der));
        let tls = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)
            .map_err(|_| KeyError::Malformed)?;
        Ok(SigningKey { jose: JoseKey::P256(pair), tls })
    }

    /// A key that stays where it is: only messages and signatures pass.
    pub fn external(key: Arc<dyn ExternalKey>) -> SigningKey {
        let tls = external::to_rustls(Arc::clone(&key));
        SigningKey { jose: JoseKey::External(key), tls }
    }

    /// Which kind of key this is.
    pub fn key_type(&self) -> KeyType {
        match &self.jose {
            JoseKey::Ed25519(_) => KeyType::Ed25519,
            JoseKey::External(key) => key.key_type(),
            JoseKey::P256(_) => KeyType::P256,
        }
    }

    /// Whether it can still sign. A key in a token can be gone for good; the identity then needs
    /// a new one before its time.
    pub fn is_usable(&self) -> bool {
        match &self.jose {
            JoseKey::Ed25519(_) | JoseKey::P256(_) => true,
            JoseKey::External(key) => key.is_usable(),
        }
    }

    /// The public half, as it stands in the `subjectPublicKey` of a certificate.
    pub fn public_key(&self) -> &[u8] {
        match &self.jose {
            JoseKey::Ed25519(pair) => pair.public_key().as_ref(),
            JoseKey::External(key) => key.public_key(),
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
        match self.key_type() {
            KeyType::Ed25519 => Algorithm::Ed25519,
            KeyType::P256 => Algorithm::Es256,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = match &self.jose {
            JoseKey::Ed25519(pair) => pair.try_sign(message),
            JoseKey::External(key) => return external::sign(&**key, message),
            JoseKey::P256(pair) => pair.sign(&SystemRandom::new(), message),
        };
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError)
    }

    fn sign_hashed(&self, message: &Message<'_>) -> Result<Vec<u8>, SignError> {
        let JoseKey::P256(pair) = &self.jose else { return self.sign(message.bytes()) };
        let signature = pair.sign_digest(&message.sha256());
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}
