//! The two signature algorithms of the profile. There is no third, no HMAC and no `none`.

use std::fmt;

/// How a token is signed. A property of the key; the header's `alg` is only compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256, signature `r‖s` of exactly 64 bytes. The default.
    Es256,
    /// Ed25519, by its fully specified name; the older name `EdDSA` is refused.
    Ed25519,
}

impl Algorithm {
    /// The value of the header member `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// Compared by bytes: no case folding, no aliases.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
