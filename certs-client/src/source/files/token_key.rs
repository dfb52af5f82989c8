//! The key of a certificate file, where it is in a token.
//!
//! It is looked up for the leaf that stands in the file, away from the control thread, and kept
//! until the file holds a leaf on another key. Invariant: only a key that signed for this very leaf
//! is handed out.

use std::{path::Path, sync::Arc};

use countersign_config::pkcs11::Pkcs11Key;
use rustls_pki_types::CertificateDer;
use tokio::task::spawn_blocking;

use super::contents::read;
use crate::{
    gate::GateError,
    key::{ExternalKey, KeyError, SigningKey, pkcs11::Token},
    pem, svid,
};

/// What is known about the key of the certificate that was seen last.
#[derive(Default)]
pub(super) struct TokenKey {
    /// The public key it was looked up for, and what came of it.
    found: Option<(Vec<u8>, Found)>,
}

type Found = Result<Arc<dyn ExternalKey>, KeyError>;

impl TokenKey {
    /// Looks the key up, unless it is the one we have.
    pub(super) async fn look_up(&mut self, key: &Pkcs11Key, certificate: &Path) {
        let Some(public_key) = public_key_in(certificate) else { return };
        if matches!(&self.found, Some((of, Ok(_))) if *of == public_key) {
            return;
        }
        let (key, wanted) = (key.clone(), public_key.clone());
        let found = spawn_blocking(move || Token::of(&key.token)?.find(&key, &wanted)).await;
        // A look-up that panicked counts as none.
        if let Ok(found) = found {
            self.found = Some((public_key, found));
        }
    }

    /// The key of this leaf.
    pub(super) fn of(&self, leaf: &CertificateDer<'_>) -> Result<SigningKey, GateError> {
        let public_key = svid::public_key(leaf)?;
        match &self.found {
            Some((of, Ok(key))) if *of == public_key => Ok(SigningKey::external(Arc::clone(key))),
            Some((of, Err(error))) if *of == public_key => Err(error.clone().into()),
            // The file changed between looking up and reading: the next look finds it.
            _ => Err(GateError::KeyMismatch),
        }
    }
}

/// What cannot be read here is reported by whoever reads the files as a whole.
fn public_key_in(certificate: &Path) -> Option<Vec<u8>> {
    let text = read(certificate).ok()?;
    svid::public_key(pem::certificates(&text).ok()?.first()?).ok()
}
