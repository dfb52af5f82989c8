//! The ring of recent decisions that `why` is answered from.
//!
//! Denials and refusals are all kept, permitted requests are sampled; what is kept is the input
//! and the snapshot it was decided under. The explanation is computed when somebody asks, so
//! nothing is traced on the data path.
//! LIMIT: 1,024 denied and 256 permitted entries, and `RING_BYTES_MAX` of inputs for each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_workload_id::WorkloadId;
use serde_json::Value;

use crate::audit::{DecisionId, Personal, Reason};
use crate::clock::Now;
use crate::telemetry::{Direction, Verdict};

/// Denied and refused requests that are remembered.
pub const DENIED_MAX: usize = 1_024;
/// Permitted requests that are remembered.
pub const PERMITTED_MAX: usize = 256;
/// Bytes of remembered inputs, for denied and permitted requests each.
pub const RING_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Permitted requests are sampled at 20 a second, after a burst of 64.
const SAMPLE_INTERVAL_MS: u64 = 50;
const SAMPLE_BURST_MS: u64 = 64 * SAMPLE_INTERVAL_MS;

/// An explanation, for programs and for people.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// For programs.
    pub json: Value,
    /// For people; several lines.
    pub text: String,
}

/// Something that can say why it was decided as it was. Called on the control thread, for a
/// reader for whom personal values are shown as `personal` says.
pub trait Explain: Send + Sync {
    /// The explanation, computed now.
    fn explain(&self, personal: &Personal) -> Explained;

    /// About how many bytes the stored input takes.
    fn bytes(&self) -> usize {
        1_024
    }
}

/// What the list of decisions shows, and the way to the explanation.
pub struct WhyEntry {
    /// The decision.
    pub id: DecisionId,
    /// When.
    pub at: Now,
    /// The direction.
    pub direction: Direction,
    /// What was decided.
    pub verdict: Verdict,
    /// Status the caller got, if any.
    pub status: Option<u16>,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// `namespace/policy/rule` that decided.
    pub rule: Option<String>,
    /// The caller, or why there is none.
    pub caller: Result<WorkloadId, &'static str>,
    /// The method; an opaque connection has none.
    pub method: Option<http::Method>,
    /// The host.
    pub host: String,
    /// The path template of the rule that decided.
    pub route: Option<Arc<str>>,
    /// The path without query; personal.
    pub path: Option<String>,
    /// Transaction, if there is a context.
    pub txn: Option<String>,
    /// Computes the explanation.
    pub explain: Arc<dyn Explain>,
}

#[derive(Default)]
struct Side {
    entries: VecDeque<Arc<WhyEntry>>,
    bytes: usize,
}

impl Side {
    fn push(&mut self, entry: Arc<WhyEntry>, max: usize) {
        self.bytes = self.bytes.saturating_add(entry.explain.bytes());
        self.entries.push_back(entry);
        while self.entries.len() > max || (self.bytes > RING_BYTES_MAX && self.entries.len() > 1) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.explain.bytes());
            }
        }
    }
}

#[derive(Default)]
struct Sides {
    denied: Side,
    permitted: Side,
}

#[derive(Default)]
struct Inner {
    sides: Mutex<Sides>,
    /// When the next sample would be due at the steady rate, in ms.
    sample_due_ms: AtomicU64,
}

/// The ring. Clones share it.
#[derive(Clone, Default)]
pub struct WhyRing {
    inner: Arc<Inner>,
}

impl WhyRing {
    /// An empty ring.
    pub fn new() -> WhyRing {
        WhyRing::default()
    }

    /// Should this permitted request be remembered? Ask before building an entry.
    pub fn samples(&self, now: Now) -> bool {
        let now = now.millis();
        let due = self.inner.sample_due_ms.load(Relaxed).max(now);
        if due - now > SAMPLE_BURST_MS {
            return false;
        }
        // Two workers may both take the last sample of a burst; nothing depends on the number.
        self.inner.sample_due_ms.store(due + SAMPLE_INTERVAL_MS, Relaxed);
        true
    }

    /// Remembers a decision.
    pub fn push(&self, entry: WhyEntry) {
        let entry = Arc::new(entry);
        let mut sides = self.lock();
        match entry.verdict {
            Verdict::Deny => sides.denied.push(entry, DENIED_MAX),
            Verdict::Allow => sides.permitted.push(entry, PERMITTED_MAX),
        }
    }

    /// The entry of a decision.
    pub fn find(&self, id: DecisionId) -> Option<Arc<WhyEntry>> {
        let sides = self.lock();
        let mut entries = sides.denied.entries.iter().chain(&sides.permitted.entries).rev();
        entries.find(|entry| entry.id == id).cloned()
    }

    /// The newest entries, newest first.
    pub fn recent(&self, verdict: Option<Verdict>, limit: usize) -> Vec<Arc<WhyEntry>> {
        let sides = self.lock();
        let mut entries = Vec::new();
        if verdict != Some(Verdict::Allow) {
            entries.extend(sides.denied.entries.iter().rev().take(limit).cloned());
        }
        if verdict != Some(Verdict::Deny) {
            entries.extend(sides.permitted.entries.iter().rev().take(limit).cloned());
        }
        drop(sides);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        entries.truncate(limit);
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.inner.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for WhyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WhyRing(..)")
    }
}
