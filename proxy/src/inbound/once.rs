//! Tokens that a rule takes only once.
//!
//! Invariant: within one process no token is taken twice by one rule, whichever worker has it. The
//! memory is bounded, and an entry goes when its token has ended; what would not fit is refused,
//! because it could not be refused the next time.
//! LIMIT: replicas of a workload do not know of each other's tokens.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context as Hash, SHA256};
use countersign_config::limits;
use countersign_ctxtoken::RequestContext;

use crate::clock::Now;
use crate::inbound::context::{Context, SKEW_S};
use crate::inbound::decide::Permit;
use crate::refusal::{Refusal, Refused, Stage};

/// Tokens whose entries go together.
const BUCKET_S: u64 = 60;

/// Tokens that were taken, by the minute in which they end.
#[derive(Default)]
pub struct Once(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    buckets: BTreeMap<u64, HashSet<[u8; 16]>>,
    count: usize,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    First,
    Again,
    NoRoom,
}

impl Taken {
    fn take(&mut self, key: [u8; 16], ends_s: u64, now_s: u64, max: usize) -> Use {
        while let Some(oldest) = self.buckets.first_entry() {
            if *oldest.key() >= now_s / BUCKET_S {
                break;
            }
            self.count -= oldest.remove().len();
        }
        let bucket = ends_s / BUCKET_S;
        if self.buckets.get(&bucket).is_some_and(|keys| keys.contains(&key)) {
            return Use::Again;
        }
        if self.count >= max {
            return Use::NoRoom;
        }
        self.buckets.entry(bucket).or_default().insert(key);
        self.count += 1;
        Use::First
    }
}

impl Once {
    /// Takes the token of a request, where the rule that permits it says so.
    ///
    /// # Errors
    /// `token_replayed`, and `rate_limited` where no more tokens can be remembered.
    pub fn take(&self, permit: &Permit, ctx: &Context, now: Now) -> Result<(), Refused> {
        let decision = permit.decision();
        if !decision.once {
            return Ok(());
        }
        let (Some(token), Some(rule)) = (ctx.presented(), &decision.rule) else {
            let detail = "a rule that takes a token once permitted a request without one";
            return Err(Refused::new(Refusal::TokenMissing, Stage::Decide, detail));
        };
        let key = key(rule.id(), token);
        let ends_s = token.exp.0.saturating_add(SKEW_S);
        let max = limits::ONCE_TOKENS_MAX;
        // Held for a look into a set; a panic there leaves it whole.
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.take(key, ends_s, now.secs(), max) {
            Use::First => Ok(()),
            Use::Again => {
                let detail =
                    format!("rule {} takes a token once, and this one was used", rule.id());
                Err(Refused::new(Refusal::TokenReplayed, Stage::Decide, detail))
            }
            Use::NoRoom => {
                let detail = format!("{max} tokens that may be used once are remembered already");
                let refused = Refused::new(Refusal::RateLimited, Stage::Decide, detail);
                Err(refused.with_sub("single_use"))
            }
        }
    }
}

/// By `jti` and issuer, never by the token's bytes: an ECDSA signature has two forms.
fn key(rule: &str, token: &RequestContext) -> [u8; 16] {
    let mut hash = Hash::new(&SHA256);
    for part in [rule, token.iss.as_str(), &token.jti] {
        hash.update(part.as_bytes());
        hash.update(b"\0");
    }
    let mut key = [0; 16];
    let digest = hash.finish();
    key.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> [u8; 16] {
        [number; 16]
    }

    #[test]
    fn a_token_is_taken_once_until_it_has_ended() {
        let mut taken = Taken::default();
        assert_eq!(taken.take(key(1), 1_090, 1_000, 9), Use::First);
        assert_eq!(taken.take(key(2), 1_090, 1_000, 9), Use::First);
        for now in [1_000, 1_030, 1_079, 1_089] {
            assert_eq!(taken.take(key(1), 1_090, now, 9), Use::Again);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_until_older_ones_end() {
        let mut taken = Taken::default();
        assert_eq!(taken.take(key(1), 1_090, 1_000, 2), Use::First);
        assert_eq!(taken.take(key(2), 1_290, 1_000, 2), Use::First);
        assert_eq!(taken.take(key(3), 1_290, 1_000, 2), Use::NoRoom);
        assert_eq!(taken.take(key(1), 1_090, 1_000, 2), Use::Again);
        // The first one's minute is over: its token is refused as expired long before it comes here.
        assert_eq!(taken.take(key(3), 1_290, 1_140, 2), Use::First);
        assert_eq!(taken.count, 2);
        assert_eq!(taken.take(key(2), 1_290, 1_140, 2), Use::Again);
    }
}
