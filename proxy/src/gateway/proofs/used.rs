//! DPoP proofs that were used (RFC 9449 §11.1), one set for all workers of this process.
//! Invariant: a proof is remembered until its age alone refuses it, also where a provider document
//! later allows older ones. Only proofs that passed every other check are entered; a full set
//! refuses, and one key may fill no more than its share of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use countersign_config::limits::{DPOP_PROOFS_MAX, DPOP_PROOFS_PER_KEY_MAX};

use super::ProofError;
use super::dpop::Proof;
use crate::clock::Now;

/// Two workers seldom meet at one lock. The proofs of each key are spread over all shards.
const SHARDS: usize = 16;
/// Proofs made within so many seconds are forgotten together.
const BUCKET_S: u64 = 16;

/// Names a proof, or a key: the first half of a SHA-256.
type Short = [u8; 16];

/// The used proofs.
#[derive(Default)]
pub(in crate::gateway) struct UsedProofs {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// By the time they were made.
    buckets: BTreeMap<u64, Bucket>,
    /// How many are remembered, and of each key.
    all: usize,
    of_key: HashMap<Short, usize>,
    /// Proofs made before this are forgotten, so they no longer count.
    forgotten_before_s: u64,
}

#[derive(Default)]
struct Bucket {
    proofs: HashSet<Short>,
    /// Whose they are.
    keys: HashMap<Short, usize>,
    /// Until then one made at its end could count.
    until_s: u64,
}

impl UsedProofs {
    /// Enters a proof that passed all other checks.
    pub(in crate::gateway) fn enter(
        &self,
        key: &[u8; 32],
        proof: &Proof,
        max_age_s: u64,
        now: Now,
    ) -> Result<(), ProofError> {
        let name = short(&[key, proof.id.as_bytes()]);
        let [first, ..] = &self.shards;
        let shard = self.shards.get(usize::from(name[0]) % SHARDS).unwrap_or(first);
        // Counts and sets change together under the lock; no code in between can panic.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.forget(now);
        if proof.made_at < shard.forgotten_before_s {
            return Err(ProofError::TooOld { by_s: now.secs().saturating_sub(proof.made_at) });
        }
        shard.enter(short(&[key]), name, proof.made_at, max_age_s)
    }

    #[cfg(test)]
    pub(in crate::gateway) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().map_or(0, |shard| shard.all)).sum()
    }
}

impl Shard {
    fn enter(
        &mut self,
        key: Short,
        proof: Short,
        made_at: u64,
        max_age_s: u64,
    ) -> Result<(), ProofError> {
        let number = made_at / BUCKET_S;
        let end = number.saturating_add(1).saturating_mul(BUCKET_S);
        let bucket = self.buckets.entry(number).or_default();
        bucket.until_s = bucket.until_s.max(end.saturating_add(max_age_s));
        if bucket.proofs.contains(&proof) {
            return Err(ProofError::Replayed);
        }
        let held = self.of_key.get(&key).copied().unwrap_or_default();
        let full = self.all >= DPOP_PROOFS_MAX / SHARDS;
        if full || held >= DPOP_PROOFS_PER_KEY_MAX / SHARDS {
            return Err(ProofError::TooMany);
        }
        bucket.proofs.insert(proof);
        *bucket.keys.entry(key).or_default() += 1;
        *self.of_key.entry(key).or_default() += 1;
        self.all += 1;
        Ok(())
    }

    /// Forgets the oldest, as far as their age refuses them.
    fn forget(&mut self, now: Now) {
        while let Some(oldest) = self.buckets.first_entry() {
            if oldest.get().until_s >= now.secs() {
                return;
            }
            let (number, bucket) = oldest.remove_entry();
            let end = number.saturating_add(1).saturating_mul(BUCKET_S);
            self.forgotten_before_s = self.forgotten_before_s.max(end);
            self.all = self.all.saturating_sub(bucket.proofs.len());
            for (key, count) in bucket.keys {
                if let Some(held) = self.of_key.get_mut(&key) {
                    *held = held.saturating_sub(count);
                    if *held == 0 {
                        self.of_key.remove(&key);
                    }
                }
            }
        }
    }
}

fn short(parts: &[&[u8]]) -> Short {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    out
}
