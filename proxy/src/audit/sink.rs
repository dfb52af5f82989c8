//! The queue between the workers and the writer thread.
//!
//! Each worker has a lane: a short list behind a lock that only the writer shares, which takes the
//! whole list every [`TICK_MS`]. So a record costs an uncontended lock and no wake-up; only the
//! first record after a quiet time wakes the writer.
//! LIMIT: all lanes together hold `AUDIT_QUEUE_RECORDS_MAX` records.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use countersign_config::limits;
use countersign_workload_id::WorkloadId;
use tokio::sync::oneshot;

use super::pseudonym::Personal;
use super::record::Record;
use super::syncing::Syncing;
use super::writer::Writer;
use crate::clock::Now;
use crate::telemetry::encode::Page;
use crate::telemetry::names;

/// How long the writer lets records gather.
pub(super) const TICK_MS: u64 = 25;
/// How long a stop waits for a sink that blocks.
const STOP_MS_MAX: u64 = 5_000;

/// Where the lines go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

impl From<&countersign_config::AuditSink> for Target {
    fn from(configured: &countersign_config::AuditSink) -> Target {
        match configured {
            countersign_config::AuditSink::Stdout => Target::Stdout,
            countersign_config::AuditSink::File(path) => Target::File(path.clone()),
        }
    }
}

impl Target {
    fn name(&self) -> &'static str {
        match self {
            Target::Stdout => "stdout",
            Target::File(_) => "file",
        }
    }
}

/// What happens while the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Requests are served, and a `gap` record says how many records are missing.
    Gap,
    /// Requests are refused.
    Refuse,
}

/// Where this proxy runs, in every record.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Pod.
    pub pod: Option<String>,
    /// Node.
    pub node: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Cluster.
    pub cluster: Option<String>,
    /// Version of this program.
    pub version: Option<String>,
}

/// How the trail of this process is written.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Where to.
    pub target: Target,
    /// What a full queue means.
    pub on_full: OnFull,
    /// How personal values are written.
    pub personal: Personal,
    /// The own SPIFFE ID.
    pub self_id: WorkloadId,
    /// Where this proxy runs.
    pub place: Place,
    /// Records that may wait; `AUDIT_QUEUE_RECORDS_MAX` except in tests.
    pub queue_records_max: usize,
}

impl AuditConfig {
    /// Lines of `self_id` to `target`, with gaps when the queue is full.
    pub fn new(target: Target, personal: Personal, self_id: WorkloadId) -> AuditConfig {
        AuditConfig {
            target,
            on_full: OnFull::Gap,
            personal,
            self_id,
            place: Place::default(),
            queue_records_max: limits::AUDIT_QUEUE_RECORDS_MAX,
        }
    }
}

/// The record cannot be kept, so the request must not be served (`audit_unavailable`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail cannot take a record")]
pub struct AuditUnavailable;

/// What the trail counts.
#[derive(Debug)]
pub struct AuditStats {
    sink: &'static str,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) gaps: Mutex<Vec<(&'static str, u64)>>,
    pub(super) queued: AtomicU64,
}

impl AuditStats {
    /// Records written so far, `start` and `gap` included.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Records lost so far; each is covered by a gap record.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub(super) fn gap(&self, why: &'static str) {
        let mut gaps = lock(&self.gaps);
        match gaps.iter_mut().find(|entry| entry.0 == why) {
            Some(entry) => entry.1 += 1,
            None => gaps.push((why, 1)),
        }
    }

    pub(crate) fn write(&self, page: &mut Page) {
        page.begin(&names::AUDIT_RECORDS);
        let results =
            [("written", &self.written), ("lost", &self.lost), ("refused", &self.refused)];
        for (result, count) in results {
            page.sample(&names::AUDIT_RECORDS, &[self.sink, result], count.load(Relaxed));
        }
        page.begin(&names::AUDIT_QUEUE);
        page.sample(&names::AUDIT_QUEUE, &[self.sink], self.queued.load(Relaxed));
        page.begin(&names::AUDIT_GAPS);
        for (why, count) in lock(&self.gaps).iter() {
            page.sample(&names::AUDIT_GAPS, &[why], count);
        }
    }
}

/// A record on its way, and who waits for it.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) record: Record,
    pub(super) synced: Option<oneshot::Sender<()>>,
}

/// Records that found no room since the last gap record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) count: u64,
    pub(super) from: Now,
    pub(super) to: Now,
}

#[derive(Debug, Default)]
struct Lane {
    queued: Mutex<Vec<Queued>>,
    /// Room promised to requests in flight.
    reserved: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Shared {
    lanes: Mutex<Vec<Arc<Lane>>>,
    lane_max: AtomicUsize,
    queue_max: usize,
    on_full: OnFull,
    lost: Mutex<Option<Lost>>,
    pub(super) stats: Arc<AuditStats>,
    writer: OnceLock<Thread>,
    /// The writer sleeps until it is woken.
    pub(super) idle: AtomicBool,
    /// Somebody waits for a record; do not let records gather.
    pub(super) urgent: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// How many flushes were asked for, and how many are done.
    flushes: Mutex<(u64, u64)>,
    flushed: Condvar,
}

/// Locks; a panic elsewhere does not make the data unusable here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Takes everything that waits, in order of time.
    pub(super) fn take(&self, batch: &mut Vec<Queued>) {
        for lane in lock(&self.lanes).iter() {
            batch.append(&mut lock(&lane.queued));
        }
        batch.sort_by_key(|queued| queued.record.at);
        self.stats.queued.store(u64::try_from(batch.len()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.lanes).iter().all(|lane| lock(&lane.queued).is_empty())
            && lock(&self.lost).is_none()
    }

    pub(super) fn take_lost(&self) -> Option<Lost> {
        lock(&self.lost).take()
    }

    fn lose(&self, at: Now) {
        self.stats.lost.fetch_add(1, Relaxed);
        let mut lost = lock(&self.lost);
        let lost = lost.get_or_insert(Lost { count: 0, from: at, to: at });
        lost.count += 1;
        lost.to = lost.to.max(at);
    }

    pub(super) fn flushes_asked(&self) -> u64 {
        lock(&self.flushes).0
    }

    pub(super) fn flushes_done(&self, up_to: u64) {
        let mut flushes = lock(&self.flushes);
        flushes.1 = flushes.1.max(up_to);
        drop(flushes);
        self.flushed.notify_all();
    }

    pub(super) fn flush_pending(&self) -> bool {
        let flushes = lock(&self.flushes);
        flushes.0 > flushes.1
    }
}

/// Takes records. Clones share a lane; give each worker its own with [`AuditSink::for_worker`].
#[derive(Clone, Debug)]
pub struct AuditSink {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
}

/// Room for one record, promised before the request is served.
#[must_use]
#[derive(Debug)]
pub struct AuditSlot {
    sink: AuditSink,
    reserved: bool,
}

impl AuditSink {
    /// Opens the target, writes the `start` record and starts the writer thread. `nonce` makes
    /// the chain of this process different from the one before it.
    pub fn start(
        config: AuditConfig,
        now: Now,
        nonce: [u8; 16],
    ) -> io::Result<(AuditSink, AuditWriter)> {
        let stats = Arc::new(AuditStats {
            sink: config.target.name(),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            gaps: Mutex::default(),
            queued: AtomicU64::new(0),
        });
        let lane = Arc::new(Lane::default());
        let shared = Arc::new(Shared {
            lanes: Mutex::new(vec![lane.clone()]),
            lane_max: AtomicUsize::new(config.queue_records_max.max(1)),
            queue_max: config.queue_records_max,
            on_full: config.on_full,
            lost: Mutex::default(),
            stats,
            writer: OnceLock::new(),
            idle: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
        });
        let mut writer = Writer::open(config, shared.clone(), &nonce)?;
        writer.begin(now)?;
        let thread = std::thread::Builder::new();
        let thread = thread.name("audit".to_owned()).spawn(move || writer.run())?;
        _ = shared.writer.set(thread.thread().clone());
        let sink = AuditSink { lane, shared: shared.clone() };
        Ok((sink, AuditWriter { shared, thread }))
    }

    /// The same trail with a lane of its own, so that workers do not share a lock.
    pub fn for_worker(&self) -> AuditSink {
        let lane = Arc::new(Lane::default());
        let mut lanes = lock(&self.shared.lanes);
        lanes.push(lane.clone());
        let share = (self.shared.queue_max / lanes.len()).max(1);
        self.shared.lane_max.store(share, Relaxed);
        AuditSink { lane, shared: self.shared.clone() }
    }

    /// What the trail counts.
    pub fn stats(&self) -> Arc<AuditStats> {
        self.shared.stats.clone()
    }

    /// Keeps a record; if there is no room it is counted and a gap record will say so.
    pub fn record(&self, record: Record) {
        let at = record.at;
        if self.push(Queued { record, synced: None }, 0).is_err() {
            self.shared.lose(at);
        }
    }

    /// Keeps a record, or says that the request must be refused. With [`OnFull::Gap`] it never
    /// does.
    pub fn try_record(&self, record: Record) -> Result<(), AuditUnavailable> {
        self.reserve()?.record(record);
        Ok(())
    }

    /// Room for the record of a request that is about to be served.
    pub fn reserve(&self) -> Result<AuditSlot, AuditUnavailable> {
        let reserved = self.shared.on_full == OnFull::Refuse;
        if reserved {
            let waiting = lock(&self.lane.queued).len();
            let promised = self.lane.reserved.fetch_add(1, Relaxed);
            if waiting + promised >= self.shared.lane_max.load(Relaxed) {
                self.lane.reserved.fetch_sub(1, Relaxed);
                self.shared.stats.refused.fetch_add(1, Relaxed);
                return Err(AuditUnavailable);
            }
        }
        Ok(AuditSlot { sink: self.clone(), reserved })
    }

    /// Keeps a record, for rules with `audit: full`; what comes back waits until it is on stable
    /// storage. Once there is something to wait for, the record counts as written.
    pub fn record_synced(&self, record: Record) -> Result<Syncing, AuditUnavailable> {
        let (sender, receiver) = oneshot::channel();
        let at = record.at;
        if self.push(Queued { record, synced: Some(sender) }, 0).is_err() {
            self.shared.lose(at);
            return Err(AuditUnavailable);
        }
        self.shared.urgent.store(true, Relaxed);
        self.shared.wake();
        Ok(Syncing(receiver))
    }

    /// Waits until everything recorded so far is written; false if that took longer than `limit`.
    /// Blocks: for shutdown and tests.
    pub fn flush(&self, limit: Duration) -> bool {
        let mut flushes = lock(&self.shared.flushes);
        flushes.0 += 1;
        let mine = flushes.0;
        self.shared.wake();
        let done = self.shared.flushed.wait_timeout_while(flushes, limit, |done| done.1 < mine);
        done.is_ok_and(|(_, timeout)| !timeout.timed_out())
    }

    /// Adds to the lane unless it is full; `promised` records of room belong to the caller.
    fn push(&self, queued: Queued, promised: usize) -> Result<(), AuditUnavailable> {
        if queued.synced.is_some() && self.shared.stopping.load(Relaxed) {
            return Err(AuditUnavailable);
        }
        let max = self.shared.lane_max.load(Relaxed);
        let reserved = self.lane.reserved.load(Relaxed).saturating_sub(promised);
        let mut lane = lock(&self.lane.queued);
        if lane.len() + reserved >= max {
            return Err(AuditUnavailable);
        }
        lane.push(queued);
        let half_full = lane.len() == max.div_ceil(2);
        drop(lane);
        // The writer looks at the lanes once more after it said that it is idle.
        if half_full || self.shared.idle.load(Relaxed) {
            self.shared.wake();
        }
        Ok(())
    }
}

impl AuditSlot {
    /// Keeps the record in the room that was promised.
    pub fn record(self, record: Record) {
        let at = record.at;
        let promised = usize::from(self.reserved);
        if self.sink.push(Queued { record, synced: None }, promised).is_err() {
            self.sink.shared.lose(at);
        }
    }
}

impl Drop for AuditSlot {
    fn drop(&mut self) {
        if self.reserved {
            self.sink.lane.reserved.fetch_sub(1, Relaxed);
        }
    }
}

/// The writer thread, for the one who stops it.
#[derive(Debug)]
pub struct AuditWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl AuditWriter {
    /// Writes what waits and a closing record, then ends the thread. A sink that blocks for
    /// longer than [`STOP_MS_MAX`] is left behind.
    pub fn stop(self) {
        self.shared.stopping.store(true, Relaxed);
        self.shared.wake();
        let flushes = lock(&self.shared.flushes);
        let limit = Duration::from_millis(STOP_MS_MAX);
        let running = |done: &mut (u64, u64)| done.1 != u64::MAX && !self.thread.is_finished();
        let waited = self.shared.flushed.wait_timeout_while(flushes, limit, running);
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::error!(code = "AU-02", "stopped while the audit sink was blocked");
        } else if self.thread.join().is_err() {
            tracing::error!(code = "AU-03", "the audit writer ended with a panic");
        }
    }
}
