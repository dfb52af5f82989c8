//! `grants`: what an issuer makes deferred grants by.

use std::path::PathBuf;

use crate::limits::GRANT_TTL_S_MAX;

/// How an issuer makes deferred grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Private keys, PEM: the first signs, all of them are believed. Empty: the key of the
    /// certificate in force signs, and a grant ends with it.
    pub key_files: Vec<PathBuf>,
    /// Longest life of a grant, seconds.
    pub max_ttl_s: u64,
    /// How often one grant may be redeemed, because queues deliver again.
    pub max_redemptions: u32,
}

impl Default for Grants {
    fn default() -> Grants {
        Grants { key_files: Vec::new(), max_ttl_s: GRANT_TTL_S_MAX, max_redemptions: 5 }
    }
}
