//! Users whose tokens were verified a moment ago, one cache per worker: a user's token comes with
//! every one of their requests, and its signature does not change.
//! Invariants: the key is the SHA-256 of the whole token; a hit still checks the times, the place
//! the credential came from, and that provider and keys are the very ones it was verified with;
//! a refusal is never remembered.

use std::sync::Arc;

use aws_lc_rs::digest;
use http::HeaderMap;
use quick_cache::unsync::Cache;

use super::identify::{EndUser, IdentifyError, UserVerifier};
use super::provider_keys::KeysSnapshot;
use super::user_keys::UserKeySet;
use crate::clock::Now;

/// Users remembered; one is about 1 KiB.
const USERS_MAX: usize = 1_024;

/// The scheme of tokens that come with a DPoP proof (RFC 9449 §7.1).
const DPOP_SCHEME: &str = "DPoP";

/// A user, and how the token came; what the token is bound to is still to be shown.
#[derive(Clone, Debug)]
#[must_use]
pub struct Identified {
    /// The user.
    pub user: Arc<EndUser>,
    /// SHA-256 of the token.
    pub token_sha256: [u8; 32],
    /// Whether it was sent as one with a DPoP proof.
    pub as_dpop: bool,
}

/// Verified users by token.
pub struct UserCache {
    users: Cache<[u8; 32], Remembered>,
}

#[derive(Clone)]
struct Remembered {
    user: Arc<EndUser>,
    keys: Arc<UserKeySet>,
}

impl Default for UserCache {
    fn default() -> UserCache {
        UserCache { users: Cache::new(USERS_MAX) }
    }
}

impl UserCache {
    /// As [`UserVerifier::identify`], with what a proof of possession is checked against, and without checking a signature again that was good.
    ///
    /// # Errors
    /// As [`UserVerifier::identify`].
    pub fn identify(
        &mut self,
        verifier: &UserVerifier,
        headers: &HeaderMap,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<Option<Identified>, IdentifyError> {
        let Some((token, source)) = verifier.credential(headers)? else { return Ok(None) };
        let key = sha256(token.as_bytes());
        let as_dpop = source.scheme.as_ref().is_some_and(|s| s.eq_ignore_ascii_case(DPOP_SCHEME));
        let identified = |user| Some(Identified { user, token_sha256: key, as_dpop });
        if let Some(known) = self.users.get(&key)
            && same_keys(known, keys, now)
            && let Some(outcome) = known.user.check_again(source, verifier, now)
        {
            return outcome.map(|()| identified(known.user.clone()));
        }
        let user = Arc::new(verifier.verify(token, source, keys, now)?);
        if let Some(set) = keys.current(user.provider(), now) {
            self.users.insert(key, Remembered { user: user.clone(), keys: set.clone() });
        }
        Ok(identified(user))
    }
}

fn same_keys(known: &Remembered, keys: &KeysSnapshot, now: Now) -> bool {
    keys.current(known.user.provider(), now).is_some_and(|set| Arc::ptr_eq(set, &known.keys))
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
