//! Where new keys come from, for the sources whose key this process makes.
//!
//! Invariant: every call makes another key. A key is never used for a second request to an
//! authority, not even when the first one failed.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use countersign_config::pkcs11::Pkcs11Token;

use super::{KeyError, SigningKey, pkcs11::Token};

/// Makes P-256 keys, here or in a token.
#[derive(Clone, Debug, Default)]
pub enum KeyMaker {
    /// In the memory of this process, by the cryptographic library.
    #[default]
    Software,
    /// In a PKCS#11 token, which they never leave.
    Pkcs11(Pkcs11Token),
}

impl KeyMaker {
    /// Makes a key. It may take as long as a token takes: not for the data path.
    ///
    /// # Errors
    /// When the library has no randomness, or the token made none.
    pub fn make(&self) -> Result<SigningKey, KeyError> {
        match self {
            KeyMaker::Software => software(),
            KeyMaker::Pkcs11(token) => Token::of(token)?.make(),
        }
    }
}

/// The PKCS#8 form in between is wiped by its own type.
fn software() -> Result<SigningKey, KeyError> {
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Generate)?;
    SigningKey::from_pkcs8(document.as_ref())
}
