//! The live connections and long exchanges of one worker, judged again when their reason may have
//! gone: a new policy, trust or revocation, the end of a certificate, the end of a permit.
//!
//! Invariant: registered before asserted. An entry names the snapshot it was judged by; one that
//! differs from the snapshot in force is judged again, so no change slips in between. What is
//! stored is what was decided on, never a copy of the permit. Nothing here does I/O or reads the
//! clock: `worker` calls [`Registry::pass`].

mod verdict;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use countersign_config::limits;
use countersign_policy::Decision;

use crate::clock::Now;
use crate::live::Snapshot;
use crate::telemetry::WorkerMetrics;

pub use self::verdict::{Against, EndReason, Judged, Standing, Verdict};

/// Exchanges shorter than this end under the snapshot they began with.
pub const ORDINARY_MS: u64 = 1_000;

/// A pass takes twice as much in a turn after so many turns,
const REEVALUATE_TURNS_PER_DOUBLING: u32 = 4;
/// this many times.
const REEVALUATE_DOUBLINGS_MAX: u32 = 4;

/// What is to be registered.
pub struct Watch<J> {
    /// What it is judged by.
    pub judged: J,
    /// Generation of the snapshot it was, or is about to be, judged by.
    pub generation: u64,
    /// When it began.
    pub since: Now,
    /// Unix second at which the certificates behind it end.
    pub certificate_ends: Option<u64>,
    /// Seconds it may outlive them; `u64::MAX` for as long as it likes.
    pub allowance_s: u64,
    /// Unix milliseconds at which its permit ends.
    pub valid_until_ms: Option<u64>,
}

/// Everything registered on one worker. Clones share it.
#[derive(Clone, Default)]
pub struct Registry(Rc<Inner>);

#[derive(Default)]
struct Inner {
    slots: RefCell<Slots>,
    /// Newest snapshot a pass has begun for.
    generation: Cell<u64>,
    /// An entry may have been judged by an older snapshot than the newest.
    behind: Cell<bool>,
    /// Unix milliseconds of the earliest deadline; 0 for none.
    next_ms: Cell<u64>,
    past_expiry: Cell<usize>,
    metrics: Option<Rc<WorkerMetrics>>,
}

#[derive(Default)]
struct Slots {
    entries: Vec<Option<Rc<Entry>>>,
    free: Vec<usize>,
}

struct Entry<J: ?Sized = dyn Judged> {
    generation: Cell<u64>,
    since_ms: u64,
    certificate_ends_ms: Option<u64>,
    allowance_ms: u64,
    past_expiry: Cell<bool>,
    valid_until_ms: Cell<Option<u64>>,
    /// Whether the end of its permit ends it: not so for a request that is still being answered.
    streams: Cell<bool>,
    /// Whether its end is counted.
    counts: Cell<bool>,
    ended: Cell<Option<EndReason>>,
    /// It was entered when its snapshot was no longer the newest: it had its time.
    late: bool,
    /// Unix milliseconds at which it ends because its reason is gone, and that reason.
    spared: Cell<Option<(u64, EndReason)>>,
    decision: RefCell<Option<Decision>>,
    waker: RefCell<Option<Waker>>,
    judged: J,
}

/// A place in the registry; given up when dropped.
pub struct Registered {
    registry: Rc<Inner>,
    entry: Rc<Entry>,
    slot: usize,
}

impl Registry {
    /// An empty one that counts what it ends.
    pub fn new(metrics: Rc<WorkerMetrics>) -> Registry {
        Registry(Rc::new(Inner { metrics: Some(metrics), ..Inner::default() }))
    }

    /// Enters something. From now on every change is held against it.
    pub fn register<J: Judged>(&self, watch: Watch<J>) -> Registered {
        let Watch { judged, generation, since, certificate_ends, allowance_s, valid_until_ms } =
            watch;
        let streams = !judged.is_exchange();
        let entry: Rc<Entry> = Rc::new(Entry {
            generation: Cell::new(generation),
            since_ms: since.millis(),
            certificate_ends_ms: certificate_ends.map(|s| s.saturating_mul(1_000)),
            allowance_ms: allowance_s.saturating_mul(1_000),
            past_expiry: Cell::new(false),
            valid_until_ms: Cell::new(valid_until_ms),
            streams: Cell::new(streams),
            counts: Cell::new(true),
            ended: Cell::new(None),
            late: generation < self.0.generation.get(),
            spared: Cell::new(None),
            decision: RefCell::new(None),
            waker: RefCell::new(None),
            judged,
        });
        if generation < self.0.generation.get() {
            self.0.behind.set(true);
        }
        self.0.expects(entry.deadline_ms());
        let slot = self.0.slots.borrow_mut().insert(Rc::clone(&entry));
        Registered { registry: Rc::clone(&self.0), entry, slot }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        let slots = self.0.slots.borrow();
        slots.entries.len() - slots.free.len()
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections that outlive the certificates they were opened with.
    pub fn past_expiry(&self) -> usize {
        self.0.past_expiry.get()
    }

    /// Ends everything, as at the end of a drain.
    pub fn end_all(&self, reason: EndReason) {
        let all: Vec<_> = self.0.slots.borrow().entries.iter().flatten().cloned().collect();
        for entry in all {
            entry.end(reason.into());
        }
    }

    /// Whether a pass has anything to do.
    pub fn is_due(&self, generation: u64, now: Now) -> bool {
        let next = self.0.next_ms.get();
        self.0.behind.get()
            || generation > self.0.generation.get()
            || (next != 0 && next <= now.millis())
    }

    /// Begins a pass over all entries; call [`Pass::turn`] until it says that it is over, giving
    /// others a turn in between.
    pub fn pass(&self, snap: Arc<Snapshot>, now: Now) -> Pass {
        let inner = &self.0;
        inner.behind.set(false);
        inner.next_ms.set(0);
        if snap.generation > inner.generation.get() {
            inner.generation.set(snap.generation);
        }
        Pass { registry: Rc::clone(inner), snap, now, at: 0, turns: 0 }
    }
}

impl Inner {
    fn expects(&self, deadline_ms: Option<u64>) {
        let Some(deadline) = deadline_ms else { return };
        let next = self.next_ms.get();
        if next == 0 || deadline < next {
            self.next_ms.set(deadline.max(1));
        }
    }
}

impl Slots {
    fn insert(&mut self, entry: Rc<Entry>) -> usize {
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.entries.get_mut(slot)
        {
            *place = Some(entry);
            return slot;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn remove(&mut self, slot: usize) {
        if let Some(place) = self.entries.get_mut(slot)
            && place.take().is_some()
        {
            self.free.push(slot);
        }
    }
}

/// One look at every entry.
pub struct Pass {
    registry: Rc<Inner>,
    snap: Arc<Snapshot>,
    now: Now,
    at: usize,
    turns: u32,
}

impl Pass {
    /// What comes next is judged by `snap` if it is newer, so that a revocation does not wait for
    /// the end of a long pass. What was judged before comes up again in another one.
    pub fn follow(&mut self, snap: Arc<Snapshot>, now: Now) {
        self.now = now;
        if snap.generation > self.snap.generation {
            self.registry.generation.set(snap.generation);
            self.registry.behind.set(true);
            self.snap = snap;
        }
    }

    /// Judges the next batch; false when there is none left. On a busy worker a turn comes round
    /// after all other tasks had theirs, so batches grow: a long pass must end soon, too.
    pub fn turn(&mut self) -> bool {
        let doublings = (self.turns / REEVALUATE_TURNS_PER_DOUBLING).min(REEVALUATE_DOUBLINGS_MAX);
        self.turns += 1;
        let mut cost = 0;
        while cost < limits::REEVALUATE_BATCH_MAX << doublings {
            let Some(entry) = self.registry.slots.borrow().entries.get(self.at).cloned() else {
                return false;
            };
            self.at += 1;
            cost += entry.map_or(1, |entry| self.look_at(&entry));
        }
        self.at < self.registry.slots.borrow().entries.len()
    }

    /// Looks at one entry; what that costs, as a share of a batch.
    fn look_at(&self, entry: &Rc<Entry>) -> usize {
        if entry.ended.get().is_some_and(|reason| !reason.has_grace()) {
            return 1;
        }
        let mut cost = 1;
        let now_ms = self.now.millis();
        if entry.generation.get() < self.snap.generation {
            let young = now_ms < entry.since_ms.saturating_add(ORDINARY_MS);
            if entry.judged.is_exchange() && young {
                self.registry.behind.set(true);
            } else {
                cost = self.judge(entry);
            }
        }
        self.registry.note_expiry(entry, now_ms);
        if entry.ended.get().is_some() && entry.spared.get().is_none() {
            return cost;
        }
        match entry.overdue(now_ms) {
            Some(reason) => entry.end(reason.into()),
            None => self.registry.expects(entry.deadline_ms()),
        }
        cost
    }

    /// Judges an entry by the snapshot; what that costs. An exchange has its token verified again,
    /// and where somebody is no longer believed, everybody's certificates are.
    fn judge(&self, entry: &Rc<Entry>) -> usize {
        let trust_shrank = entry.generation.get() < self.snap.trust_shrank_at;
        let against = Against { snap: &self.snap, trust_shrank, now: self.now };
        match entry.judged.judge(&against) {
            Ok(standing) => {
                entry.generation.set(self.snap.generation);
                entry.spared.set(None);
                entry.shorten(standing.valid_until_ms);
            }
            Err(verdict) if verdict.spares_ms > 0 && !entry.late => entry.spare(&verdict, self.now),
            Err(verdict) => entry.end(verdict),
        }
        let verifies = trust_shrank || entry.judged.is_exchange();
        if verifies { limits::REEVALUATE_BATCH_MAX / limits::REEVALUATE_VERIFIED_MAX } else { 1 }
    }
}

impl Inner {
    fn note_expiry(&self, entry: &Entry, now_ms: u64) {
        let past = entry.certificate_ends_ms.is_some_and(|end| end <= now_ms);
        if past && entry.allowance_ms > 0 && !entry.past_expiry.replace(true) {
            self.past_expiry.set(self.past_expiry.get() + 1);
        }
    }
}

impl<J: ?Sized> Entry<J> {
    /// When somebody must look at it again: the nearest end that has not been noted yet.
    fn deadline_ms(&self) -> Option<u64> {
        let certificate = self.certificate_ends_ms.map(|end| match self.past_expiry.get() {
            false => end,
            true => end.saturating_add(self.allowance_ms),
        });
        let permit = self.valid_until_ms.get().filter(|_| self.streams.get());
        let spared = self.spared.get().map(|(until, _)| until);
        certificate.into_iter().chain(permit).chain(spared).min()
    }

    fn overdue(&self, now_ms: u64) -> Option<EndReason> {
        if let Some((_, reason)) = self.spared.get().filter(|(until, _)| *until <= now_ms) {
            return Some(reason);
        }
        let allowed = |end: u64| end.saturating_add(self.allowance_ms);
        if self.certificate_ends_ms.is_some_and(|end| allowed(end) <= now_ms) {
            return Some(EndReason::Expiry);
        }
        let permit = self.valid_until_ms.get().filter(|_| self.streams.get());
        permit.filter(|end| *end <= now_ms).map(|_| EndReason::Age)
    }

    /// A permit may get shorter, never longer: its end is the one that was given first.
    fn shorten(&self, until_ms: Option<u64>) {
        let before = self.valid_until_ms.get();
        self.valid_until_ms.set(before.into_iter().chain(until_ms).min());
    }

    /// It ends a little later. The first verdict says when: looking again does not put it off.
    fn spare(&self, verdict: &Verdict, now: Now) {
        let until = now.millis().saturating_add(verdict.spares_ms);
        self.spared.set(self.spared.get().or(Some((until, verdict.reason))));
    }

    fn end(&self, verdict: Verdict) {
        let before = self.ended.get();
        if before.is_some_and(|before| !before.has_grace() || verdict.reason.has_grace()) {
            return;
        }
        *self.decision.borrow_mut() = verdict.decision;
        self.ended.set(Some(verdict.reason));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Registered {
    /// Waits until it must end. One task waits at a time: the last one to ask is told.
    pub async fn ended(&self) -> EndReason {
        std::future::poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Waits until it must end without any grace, whatever was said before.
    pub async fn cut(&self) -> EndReason {
        std::future::poll_fn(|cx| self.poll_cut(cx)).await
    }

    /// Whether it must end without any grace; if not, the task of `cx` is told when it must.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<EndReason> {
        match self.poll_ended(cx) {
            Poll::Ready(reason) if reason.has_grace() => {
                self.wake_later(cx);
                Poll::Pending
            }
            other => other,
        }
    }

    /// Whether it must end; if not, the task of `cx` is told when it must.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<EndReason> {
        if let Some(reason) = self.entry.ended.get() {
            return Poll::Ready(reason);
        }
        self.wake_later(cx);
        Poll::Pending
    }

    fn wake_later(&self, cx: &Context<'_>) {
        let mut waker = self.entry.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Why it must end, if it must.
    pub fn reason(&self) -> Option<EndReason> {
        self.entry.ended.get()
    }

    /// What policy said when it ended this.
    pub fn decision(&self) -> Option<Decision> {
        self.entry.decision.borrow().clone()
    }

    /// Unix milliseconds at which it was registered.
    pub fn since_ms(&self) -> u64 {
        self.entry.since_ms
    }

    /// Another entry stands for it from now on, so that its end is counted once.
    pub fn stood_for(&self) {
        self.entry.counts.set(false);
    }

    /// From now on the end of its permit ends it: the response has begun, or it is a stream.
    pub fn streams(&self) {
        self.entry.streams.set(true);
        self.registry.expects(self.entry.deadline_ms());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let reason = self.reason().filter(|_| self.entry.counts.get());
        if let (Some(reason), Some(metrics)) = (reason, &self.registry.metrics) {
            metrics.ended(reason.text());
        }
        if self.entry.past_expiry.get() {
            let past = &self.registry.past_expiry;
            past.set(past.get().saturating_sub(1));
        }
        self.registry.slots.borrow_mut().remove(self.slot);
    }
}

#[cfg(test)]
#[path = "tests/registry.rs"]
pub(crate) mod tests;
