//! A private key that is somewhere else and signs there.
//!
//! Invariant: nothing but a message goes out and nothing but a signature comes back. A key that
//! fails fails the handshake or the token it was asked for; there is no other key to fall back to.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use countersign_ctxtoken::SignError;
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    sign::{Signer, public_key_to_spki},
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, alg_id};
use tracing::warn;

use super::KeyType;

/// A private key outside of this process (or at least outside of our code).
///
/// `sign` is called on the data path: an implementation answers within its budget or fails.
pub trait ExternalKey: fmt::Debug + Send + Sync {
    /// Which kind of key it is.
    fn key_type(&self) -> KeyType;

    /// The public half, as it stands in the `subjectPublicKey` of a certificate.
    fn public_key(&self) -> &[u8];

    /// Signs a message: `r‖s` for P-256 with SHA-256, 64 bytes for Ed25519.
    ///
    /// # Errors
    /// Why there is no signature.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure>;

    /// Whether it may sign again. `false` is for good: the key is gone.
    fn is_usable(&self) -> bool {
        true
    }
}

/// Why a key outside of this process did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{holder}: {call}: {answer}{}", .hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct KeyFailure {
    /// Who holds the key: token and module.
    pub holder: String,
    /// What was asked.
    pub call: &'static str,
    /// What came back.
    pub answer: String,
    /// What a person can do about it.
    pub hint: Option<&'static str>,
}

/// Length of `r‖s` on P-256, and of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// Signs for a token; the reason of a failure goes to the log.
pub(super) fn sign(key: &dyn ExternalKey, message: &[u8]) -> Result<Vec<u8>, SignError> {
    signature(key, message).map_err(|failure| {
        report(&failure);
        SignError
    })
}

/// The key as rustls takes it.
pub(super) fn to_rustls(key: Arc<dyn ExternalKey>) -> Arc<dyn rustls::sign::SigningKey> {
    Arc::new(TlsKey(key))
}

fn signature(key: &dyn ExternalKey, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
    let signature = key.sign(message)?;
    if signature.len() != SIGNATURE_BYTES {
        return Err(KeyFailure {
            holder: format!("{key:?}"),
            call: "sign",
            answer: format!("a signature of {} bytes", signature.len()),
            hint: Some("the token does not follow its standard"),
        });
    }
    Ok(signature)
}

/// Every failed signature is a failed handshake or request; of many with the same reason the
/// first, second, fourth and so on say it.
fn report(failure: &KeyFailure) {
    static LAST: Mutex<Option<(KeyFailure, u64)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let times = match &mut *last {
        Some((same, times)) if same == failure => {
            *times = times.saturating_add(1);
            *times
        }
        _ => {
            *last = Some((failure.clone(), 1));
            1
        }
    };
    if times.is_power_of_two() {
        warn!(%failure, times, "the key of this identity did not sign");
    }
}

#[derive(Clone, Debug)]
struct TlsKey(Arc<dyn ExternalKey>);

impl TlsKey {
    fn scheme_of(&self) -> SignatureScheme {
        match self.0.key_type() {
            KeyType::Ed25519 => SignatureScheme::ED25519,
            KeyType::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        }
    }
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme_of()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let algorithm = match self.0.key_type() {
            KeyType::Ed25519 => alg_id::ED25519,
            KeyType::P256 => alg_id::ECDSA_P256,
        };
        Some(public_key_to_spki(&algorithm, self.0.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.key_type() {
            KeyType::Ed25519 => SignatureAlgorithm::ED25519,
            KeyType::P256 => SignatureAlgorithm::ECDSA,
        }
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = signature(&*self.0, message).map_err(|failure| {
            report(&failure);
            Error::General(failure.to_string())
        })?;
        Ok(match self.0.key_type() {
            KeyType::Ed25519 => signature,
            KeyType::P256 => ecdsa_der(&signature),
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme_of()
    }
}

/// `r‖s` as TLS wants it: a DER sequence of two integers.
fn ecdsa_der(fixed: &[u8]) -> Vec<u8> {
    let (r, s) = fixed.split_at_checked(SIGNATURE_BYTES / 2).unwrap_or((fixed, &[]));
    let content = [integer(r), integer(s)].concat();
    tlv(0x30, &content)
}

/// An unsigned number, big endian, as DER `INTEGER`: no leading zero but the one of the sign.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let digits = number.get(zeros..).unwrap_or_default();
    let negative = digits.first().is_none_or(|first| *first >= 0x80);
    let sign: &[u8] = if negative { &[0] } else { &[] };
    tlv(0x02, &[sign, digits].concat())
}

/// One DER element of fewer than 128 bytes; two integers of 33 bytes are 70.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(0x7f);
    [&[tag, length], content].concat()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use countersign_ctxtoken::TokenSigner;

    use super::*;
    use crate::{KeyMaker, SigningKey};

    /// A software key behind the door of external ones.
    #[derive(Debug)]
    struct Elsewhere(SigningKey);

    impl ExternalKey for Elsewhere {
        fn key_type(&self) -> KeyType {
            self.0.key_type()
        }

        fn public_key(&self) -> &[u8] {
            self.0.public_key()
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
            Ok(TokenSigner::sign(&self.0, message).unwrap())
        }
    }

    #[test]
    fn der_signatures_are_what_tls_peers_verify() {
        let key = SigningKey::external(Arc::new(Elsewhere(KeyMaker::Software.make().unwrap())));
        let signer =
            key.to_rustls().choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        // Every 256th r or s is shorter, every second one needs a zero for the sign.
        for number in 0..2_000_u32 {
            let message = number.to_be_bytes();
            let signature = signer.sign(&message).unwrap();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key())
                .verify(&message, &signature)
                .unwrap();
        }
        assert!(key.to_rustls().choose_scheme(&[SignatureScheme::ED25519]).is_none());
    }

    #[test]
    fn numbers_are_in_their_shortest_form() {
        assert_eq!(integer(&[0, 0, 0x7f]), [0x02, 1, 0x7f]);
        assert_eq!(integer(&[0, 0x80]), [0x02, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [0x02, 1, 0]);
    }

    /// A token that answers with something else than a signature.
    #[derive(Debug)]
    struct Broken(SigningKey);

    impl ExternalKey for Broken {
        fn key_type(&self) -> KeyType {
            KeyType::P256
        }

        fn public_key(&self) -> &[u8] {
            self.0.public_key()
        }

        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, KeyFailure> {
            Ok(vec![7; 63])
        }
    }

    #[test]
    fn what_is_no_signature_is_never_passed_on() {
        let key = SigningKey::external(Arc::new(Broken(KeyMaker::Software.make().unwrap())));
        assert!(TokenSigner::sign(&key, b"message").is_err());
        let signer =
            key.to_rustls().choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        let error = signer.sign(b"message").unwrap_err().to_string();
        assert!(error.contains("a signature of 63 bytes"), "{error}");
    }
}
