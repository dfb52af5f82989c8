//! Pseudonyms for personal values: the same person is recognisable, not readable.
//!
//! `p:` and 16 bytes of HMAC-SHA-256 in base64url, under a key that only this domain's operators
//! have. Used by the audit trail and by the admin pages.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PSEUDONYM_BYTES: usize = 16;

/// The key of pseudonyms. Prints as `PseudonymKey(..)`.
#[derive(Clone)]
pub struct PseudonymKey(Arc<hmac::Key>);

impl PseudonymKey {
    /// A key from secret bytes. Random bytes give pseudonyms that end with the process.
    pub fn new(secret: &[u8]) -> PseudonymKey {
        PseudonymKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// The pseudonym of a value; `class` keeps equal values of different kinds apart.
    pub fn pseudonym(&self, class: &str, value: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(class.as_bytes());
        context.update(&[0]);
        context.update(value.as_bytes());
        let tag = context.sign();
        let bytes = tag.as_ref().get(..PSEUDONYM_BYTES).unwrap_or_default();
        format!("p:{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey(..)")
    }
}

/// How personal values leave the process.
#[derive(Clone, Debug)]
pub enum Personal {
    /// As they are: the reader was chosen for it (`personalData: clear`).
    Clear,
    /// As pseudonyms.
    Pseudonyms(PseudonymKey),
}

impl Personal {
    /// The value as it may leave the process.
    pub fn show(&self, class: &str, value: &str) -> String {
        match self {
            Personal::Clear => value.to_owned(),
            Personal::Pseudonyms(key) => key.pseudonym(class, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_are_stable_and_tell_classes_apart() {
        let key = PseudonymKey::new(b"secret");
        let alice = key.pseudonym("user", "alice");
        assert_eq!(alice, key.pseudonym("user", "alice"));
        assert_ne!(alice, key.pseudonym("device", "alice"));
        assert_ne!(alice, PseudonymKey::new(b"other").pseudonym("user", "alice"));
        assert!(alice.starts_with("p:") && alice.len() == 24 && !alice.contains("alice"));
        assert_eq!(format!("{key:?}"), "PseudonymKey(..)");
    }
}
