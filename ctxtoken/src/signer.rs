//! Private keys that sign tokens: the seam for keys kept elsewhere, and one for keys in memory.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};

use crate::{Algorithm, Message, SignError, SignerError, VerifyingKey};

/// Makes signatures. Implemented by the workload's identity key and by [`LocalSigner`].
pub trait TokenSigner: Send + Sync {
    /// The one algorithm of this key.
    fn algorithm(&self) -> Algorithm;

    /// Signs `message` in JOSE form: 64 bytes, for ES256 `r‖s`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// The same for a message whose hash is known. A key that takes the hash spares computing it
    /// again; the default does not.
    fn sign_hashed(&self, message: &Message<'_>) -> Result<Vec<u8>, SignError> {
        self.sign(message.bytes())
    }
}

/// A P-256 or Ed25519 private key in this process.
pub struct LocalSigner {
    pair: Pair,
    public: VerifyingKey,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl LocalSigner {
    /// Takes a DER PKCS#8 private key.
    pub fn from_pkcs8_der(pkcs8: &[u8]) -> Result<Self, SignerError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8) {
            let point = pair.public_key().as_ref().get(1..).ok_or(SignerError::Invalid)?;
            let public = VerifyingKey::p256(point)?;
            return Ok(Self { pair: Pair::P256(pair), public });
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8)
            .map_err(|_| SignerError::Unsupported)?;
        let public = VerifyingKey::ed25519(pair.public_key().as_ref())?;
        Ok(Self { pair: Pair::Ed25519(pair), public })
    }

    /// The public half; its [`kid`](VerifyingKey::kid) names this key in tokens.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }
}

impl TokenSigner for LocalSigner {
    fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError),
            Pair::Ed25519(pair) => pair
                .try_sign(message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError),
        }
    }

    fn sign_hashed(&self, message: &Message<'_>) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::P256(pair) => pair
                .sign_digest(&message.sha256())
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError),
            Pair::Ed25519(_) => self.sign(message.bytes()),
        }
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalSigner({})", self.public.kid())
    }
}
