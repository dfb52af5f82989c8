//! The memory for used proofs: what it keeps, what it forgets, and what happens when it is full.

use std::collections::HashSet;

use countersign_config::limits::DPOP_PROOFS_PER_KEY_MAX;
use proptest::prelude::*;

use crate::clock::Now;
use crate::gateway::proofs::ProofError;
use crate::gateway::proofs::dpop::Proof;
use crate::gateway::proofs::used::UsedProofs;

fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

fn proof(id: &str, made_at: u64) -> Proof {
    Proof { id: id.into(), made_at, nonce: None }
}

#[test]
fn nothing_is_kept_for_longer_than_it_counts() {
    let used = UsedProofs::default();
    for second in 1_000..3_000 {
        used.enter(&[1; 32], &proof(&format!("{second}"), second), 60, at(second)).unwrap();
    }
    // Sixty seconds, the buckets' width on either side, and what shards nobody asked still hold.
    assert!(used.len() < 60 + 3 * 16 + 16 * 16, "{}", used.len());
    used.enter(&[1; 32], &proof("later", 9_000), 60, at(9_000)).unwrap();
    assert!(used.len() < 200);
}

/// A document that is changed to allow older proofs does not revive forgotten ones.
#[test]
fn attack_replays_dpop_proof_after_the_allowance_grew() {
    let used = UsedProofs::default();
    let old = proof("old", 1_000);
    used.enter(&[1; 32], &old, 10, at(1_000)).unwrap();
    // Every shard sees something later, and forgets.
    for number in 0..200 {
        used.enter(&[2; 32], &proof(&format!("{number}"), 1_100), 10, at(1_100)).unwrap();
    }
    assert_eq!(used.enter(&[1; 32], &old, 300, at(1_100)), Err(ProofError::TooOld { by_s: 100 }));
}

#[test]
fn attack_fills_the_memory_for_dpop_proofs() {
    let used = UsedProofs::default();
    let flood =
        (0..).map(|number| used.enter(&[1; 32], &proof(&format!("{number}"), 0), 60, at(0)));
    let refused = flood.take(2 * DPOP_PROOFS_PER_KEY_MAX).filter(Result::is_err).count();
    assert!(refused >= DPOP_PROOFS_PER_KEY_MAX);
    assert!(used.len() <= DPOP_PROOFS_PER_KEY_MAX);
    assert_eq!(used.enter(&[2; 32], &proof("0", 0), 60, at(0)), Ok(()), "others are served");
    // What was used stays used.
    assert_eq!(used.enter(&[1; 32], &proof("0", 0), 60, at(0)), Err(ProofError::Replayed));
    // And places come back.
    assert_eq!(used.enter(&[1; 32], &proof("0", 500), 60, at(500)), Ok(()));
}

proptest! {
    /// Against a set that never forgets: nothing counts twice, and nothing new and fresh is refused.
    #[test]
    fn a_proof_counts_once(steps in proptest::collection::vec((0u8..3, 0u16..40, 0u64..90, 0u64..20), 1..300)) {
        let (used, mut ever, mut now) = (UsedProofs::default(), HashSet::new(), 10_000);
        for (key, id, age, wait) in steps {
            now += wait;
            let made_at = now - age.min(60);
            let one = proof(&format!("{id}"), made_at);
            let outcome = used.enter(&[key; 32], &one, 60, at(now));
            let fresh = ever.insert((key, id, made_at));
            // The same id made at another time may fall into the same bucket: refused, too.
            if !fresh {
                prop_assert!(outcome.is_err());
                continue;
            }
            let twins = ever.iter().filter(|(k, i, t)| (*k, *i, *t / 16) == (key, id, made_at / 16));
            if twins.count() == 1 {
                prop_assert_eq!(outcome, Ok(()));
            }
        }
    }
}
