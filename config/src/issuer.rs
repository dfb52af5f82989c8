//! `issuer`: the keys that sign context tokens, for a process that issues them.

use std::path::PathBuf;

/// What an issuer signs tokens with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Where the keys come from.
    pub keys: TokenKeys,
    /// Where the public halves of keys are noted, so that those of before a restart stay published.
    pub state: Option<PathBuf>,
}

/// `issuer.keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenKeys {
    /// The key of the certificate, or the one that the source of identities marks for tokens.
    #[default]
    Identity,
    /// Made in this process, which it never leaves, and replaced by another one now and then.
    Generated {
        /// Seconds from one key to the next.
        rotate_s: u64,
        /// What kind of key.
        kind: TokenKeyKind,
    },
    /// PKCS#8, PEM, read again when it changes; the same in every replica.
    File(PathBuf),
}

/// `issuer.algorithm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKeyKind {
    /// ECDSA on P-256.
    #[default]
    Es256,
    /// Ed25519.
    Ed25519,
}
