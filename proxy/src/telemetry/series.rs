//! Counters: arrays over closed label sets, and families with open label values under a cap.
//!
//! Invariant: a cell has one writer, the worker that owns it, so counting is a plain load and
//! store without a bus lock; a scrape only reads.
//! LIMIT: a family exports at most `SERIES_PER_METRIC_MAX` series over the whole process; what is
//! new after that is counted under `overflow`.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::labels::{Direction, Label, Protocol, StatusClass, Verdict};

/// The label value of everything beyond the cap.
pub const OVERFLOW: &str = "overflow";
/// The label value of something that does not exist, such as the namespace of a public client.
pub const ABSENT: &str = "-";

/// The closed labels of a request.
pub type RequestKey = (Direction, Protocol, StatusClass);
/// The closed labels of a decision.
pub type DecisionKey = (Direction, Verdict);

/// Adds to a cell that only the calling worker writes.
fn bump(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}

fn cells(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// One counter for each value of a closed label set.
#[derive(Debug)]
pub(crate) struct Table<L> {
    cells: Box<[AtomicU64]>,
    set: PhantomData<fn(L)>,
}

impl<L: Label> Table<L> {
    pub(crate) fn new() -> Table<L> {
        Table { cells: cells(L::COUNT), set: PhantomData }
    }

    pub(crate) fn add(&self, label: L, count: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            bump(cell, count);
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = u64> {
        self.cells.iter().map(|cell| cell.load(Relaxed))
    }
}

/// Counters by a closed label set and a reason; `ok` is counted without a look-up.
#[derive(Debug)]
pub(crate) struct Reasons<L> {
    ok: Table<L>,
    others: Mutex<Vec<(usize, &'static str, u64)>>,
}

/// The result that needs no reason.
pub(crate) const OK: &str = "ok";

impl<L: Label> Reasons<L> {
    pub(crate) fn new() -> Reasons<L> {
        Reasons { ok: Table::new(), others: Mutex::default() }
    }

    pub(crate) fn add(&self, label: L, reason: &'static str) {
        if reason == OK {
            return self.ok.add(label, 1);
        }
        let index = label.index();
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        match others.iter_mut().find(|entry| entry.0 == index && entry.1 == reason) {
            Some(entry) => entry.2 += 1,
            None => others.push((index, reason, 1)),
        }
    }

    /// All counters above zero: (index of the label, reason, count).
    pub(crate) fn values(&self) -> Vec<(usize, &'static str, u64)> {
        let ok = self.ok.values().enumerate().map(|(index, count)| (index, OK, count));
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        ok.filter(|entry| entry.2 > 0).chain(others.iter().copied()).collect()
    }
}

/// Upper bounds of the duration buckets, in microseconds and as Prometheus writes them.
pub(crate) const BUCKETS: [(u64, &str); 14] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];
/// Cells of one histogram: the buckets, `+Inf`, and the sum in microseconds.
pub(crate) const HISTOGRAM_CELLS: usize = BUCKETS.len() + 2;

/// One duration histogram for each value of a closed label set.
#[derive(Debug)]
pub(crate) struct Histograms<L> {
    cells: Box<[AtomicU64]>,
    set: PhantomData<fn(L)>,
}

impl<L: Label> Histograms<L> {
    pub(crate) fn new() -> Histograms<L> {
        Histograms { cells: cells(L::COUNT * HISTOGRAM_CELLS), set: PhantomData }
    }

    pub(crate) fn observe(&self, label: L, micros: u64) {
        let bucket = BUCKETS.partition_point(|(bound, _)| *bound < micros);
        let first = label.index() * HISTOGRAM_CELLS;
        for (cell, count) in [(first + bucket, 1), (first + HISTOGRAM_CELLS - 1, micros)] {
            if let Some(cell) = self.cells.get(cell) {
                bump(cell, count);
            }
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = u64> {
        self.cells.iter().map(|cell| cell.load(Relaxed))
    }
}

/// What one process may still export of a metric with open label values.
#[derive(Debug)]
pub(crate) struct Budget {
    admitted: Mutex<HashSet<u64>>,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { admitted: Mutex::default(), max }
    }

    /// May this series be exported? Asked once per worker and series.
    fn admit(&self, series: u64) -> bool {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.len() < self.max {
            admitted.insert(series);
        }
        admitted.contains(&series)
    }
}

/// The counters of one pair of open label values in one worker.
#[derive(Debug)]
pub(crate) struct Entry<L> {
    pub(crate) labels: [Box<str>; 2],
    cells: Table<L>,
    hash: u64,
    budget: Option<Arc<Budget>>,
    /// One bit for each cell that the budget refused.
    refused: AtomicU64,
    /// Where refused cells count; `None` in the overflow entry itself.
    overflow: Option<Arc<Entry<L>>>,
}

impl<L: Label> Entry<L> {
    const FITS: () = assert!(L::COUNT <= 64, "one bit for each cell");

    fn overflow() -> Entry<L> {
        let labels = [OVERFLOW.into(), OVERFLOW.into()];
        let cells = Table::new();
        Entry { labels, cells, hash: 0, budget: None, refused: AtomicU64::new(0), overflow: None }
    }

    pub(crate) fn add(&self, label: L) {
        let () = Self::FITS;
        let index = label.index();
        let Some(cell) = self.cells.cells.get(index) else { return };
        if cell.load(Relaxed) == 0 && !self.admitted(index) {
            if let Some(overflow) = &self.overflow {
                overflow.cells.add(label, 1);
            }
            return;
        }
        bump(cell, 1);
    }

    fn admitted(&self, index: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        let bit = 1_u64 << index;
        if self.refused.load(Relaxed) & bit != 0 {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        (self.hash, index).hash(&mut hasher);
        let admitted = budget.admit(hasher.finish());
        if !admitted {
            self.refused.store(self.refused.load(Relaxed) | bit, Relaxed);
        }
        admitted
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = u64> {
        self.cells.values()
    }
}

/// A counter family with two open label values, in one worker.
#[derive(Debug)]
pub(crate) struct Family<L> {
    budget: Arc<Budget>,
    overflow: Arc<Entry<L>>,
    entries: Mutex<Vec<Arc<Entry<L>>>>,
}

impl<L: Label> Family<L> {
    pub(crate) fn new(budget: Arc<Budget>) -> Family<L> {
        Family { budget, overflow: Arc::new(Entry::overflow()), entries: Mutex::default() }
    }

    /// A new entry, or the overflow entry if this worker has as many as may be exported.
    fn create(&self, hash: u64, first: &str, second: &str) -> Arc<Entry<L>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.budget.max {
            return self.overflow.clone();
        }
        let entry = Arc::new(Entry {
            labels: [first.into(), second.into()],
            cells: Table::new(),
            hash,
            budget: Some(self.budget.clone()),
            refused: AtomicU64::new(0),
            overflow: Some(self.overflow.clone()),
        });
        entries.push(entry.clone());
        entry
    }

    /// All entries of this worker, the overflow last.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry<L>>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().chain([&self.overflow]).cloned().collect()
    }
}

/// A worker's way from label values to entries.
#[derive(Debug)]
pub(crate) struct Index<L> {
    known: std::collections::HashMap<u64, Arc<Entry<L>>, BuildPrehashed>,
}

impl<L: Label> Index<L> {
    pub(crate) fn new() -> Index<L> {
        Index { known: std::collections::HashMap::with_hasher(BuildPrehashed) }
    }

    pub(crate) fn entry(&mut self, family: &Family<L>, first: &str, second: &str) -> Arc<Entry<L>> {
        let hash = text_hash(first, second);
        if let Some(entry) = self.known.get(&hash) {
            let same = *entry.labels[0] == *first && *entry.labels[1] == *second;
            return if same { entry.clone() } else { family.overflow.clone() };
        }
        let entry = family.create(hash, first, second);
        if !Arc::ptr_eq(&entry, &family.overflow) {
            self.known.insert(hash, entry.clone());
        }
        entry
    }
}

/// FNV-1a. The texts come from documents and authenticated identities; entries are compared with
/// the texts and capped, so a collision costs a series its name and nothing else.
fn text_hash(first: &str, second: &str) -> u64 {
    let bytes = first.bytes().chain([0]).chain(second.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The keys of an [`Index`] are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct BuildPrehashed;

impl std::hash::BuildHasher for BuildPrehashed {
    type Hasher = Prehashed;

    fn build_hasher(&self) -> Prehashed {
        Prehashed(0)
    }
}

#[derive(Debug)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The request counters of one peer, resolved once per connection.
#[derive(Clone, Debug)]
pub struct PeerSeries {
    pub(crate) entry: Arc<Entry<RequestKey>>,
    /// A series belongs to the worker that resolved it.
    not_send: PhantomData<Rc<()>>,
}

impl PeerSeries {
    pub(crate) fn new(entry: Arc<Entry<RequestKey>>) -> PeerSeries {
        PeerSeries { entry, not_send: PhantomData }
    }
}
