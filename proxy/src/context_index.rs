//! Contexts of the inbound requests that are open in this pod, or ended a moment ago, and of work
//! that no request began.
//!
//! Inbound gives each request a handle (a header for the app) and remembers its trace id; the app's
//! onward call is matched to it by `outbound/context`. Invariant: whatever is unknown, expired,
//! ambiguous or contradictory finds nothing: the call goes out as the service alone, never with a
//! guess. Shared by all workers, because the onward call may land on another one; critical
//! sections are short and never await.

mod names;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_config::limits;
use countersign_ctxtoken::{RequestContext, Verified};
use http::HeaderValue;

use crate::clock::Now;

pub use names::{Handle, TraceId};

const SHARDS: usize = 16;

/// How long a context stays usable after the response that carried it ended.
const GRACE_MS: u64 = 5_000;

/// The context one inbound request brought.
pub struct Held {
    /// The token, byte for byte as it came.
    pub token: HeaderValue,
    /// Its transaction, for audit.
    pub txn: Arc<str>,
    /// End of the token, seconds since the Unix epoch.
    pub exp: u64,
    /// Whether this workload is the token's first holder and may hand it on.
    pub may_pass_on: bool,
    /// What it says, to be held against what is revoked; `None` where nothing was verified.
    pub context: Option<Arc<Verified<RequestContext>>>,
}

struct Entry {
    /// `None` for a request that brought no context: it makes its trace id ambiguous.
    held: Option<Arc<Held>>,
    trace: Option<TraceId>,
    life: Life,
}

/// How long an entry is found.
#[derive(Clone, Copy)]
enum Life {
    /// Its inbound request is open.
    Open,
    /// The response ended at this time; the grace runs.
    Closed(u64),
    /// Begun without an inbound request: until this time.
    Begun(u64),
}

impl Entry {
    fn live(&self, now: Now) -> bool {
        let lives = match self.life {
            Life::Open => true,
            Life::Closed(closed) => now.millis() < closed + GRACE_MS,
            Life::Begun(until) => now.millis() < until,
        };
        lives && self.held.as_ref().is_none_or(|held| now.secs() < held.exp)
    }
}

#[derive(Default)]
struct Handles {
    open: HashMap<Handle, Entry>,
    closed: VecDeque<(u64, Handle)>,
    /// Those begun without an inbound request, by their end.
    begun: BTreeSet<(u64, Handle)>,
}

impl Handles {
    /// One whose time is over.
    fn pop_over(&mut self, now: Now) -> Option<Handle> {
        let closed = self.closed.front();
        if closed.is_some_and(|(closed, _)| now.millis() >= closed + GRACE_MS) {
            return self.closed.pop_front().map(|(_, handle)| handle);
        }
        let begun = self.begun.first();
        if begun.is_some_and(|(until, _)| now.millis() >= *until) {
            return self.begun.pop_first().map(|(_, handle)| handle);
        }
        None
    }
}

/// All contexts of requests that are open, or ended a moment ago, in this pod.
pub struct ContextIndex {
    handles: [Mutex<Handles>; SHARDS],
    traces: [Mutex<HashMap<TraceId, Vec<Handle>>>; SHARDS],
    entries: AtomicUsize,
    entries_max: usize,
    begun: AtomicUsize,
}

impl Default for ContextIndex {
    fn default() -> ContextIndex {
        ContextIndex::with_capacity(limits::CONTEXT_INDEX_ENTRIES_MAX)
    }
}

/// What was found for an onward call. The name is the label of `countersign_context_lookup_total`.
pub enum Lookup {
    /// By handle.
    Handle(Arc<Held>),
    /// By trace id.
    Traceparent(Arc<Held>),
    /// Neither a handle nor a known trace id.
    None,
    /// A handle nobody knows, that has ended, or that was sent twice.
    UnknownHandle,
    /// One trace id, several different tokens.
    Ambiguous,
    /// Handle and trace id lead to different tokens.
    Mismatch,
}

impl Lookup {
    /// Metric label and audit value.
    pub fn result(&self) -> &'static str {
        match self {
            Lookup::Handle(_) => "handle",
            Lookup::Traceparent(_) => "traceparent",
            Lookup::None => "none",
            Lookup::UnknownHandle => "unknown_handle",
            Lookup::Ambiguous => "ambiguous",
            Lookup::Mismatch => "mismatch",
        }
    }

    /// The context to attach, if exactly one was found.
    pub fn held(&self) -> Option<&Arc<Held>> {
        match self {
            Lookup::Handle(held) | Lookup::Traceparent(held) => Some(held),
            Lookup::None | Lookup::UnknownHandle | Lookup::Ambiguous | Lookup::Mismatch => None,
        }
    }
}

/// What the app's call says about its cause.
pub enum Asked<'a> {
    /// No handle header.
    Nothing,
    /// One handle header.
    Once(&'a str),
    /// Several.
    Repeatedly,
}

/// Which ways of finding a context are switched on.
#[derive(Clone, Copy, Debug)]
pub struct Propagation {
    /// By the `Countersign-Context` header.
    pub handle: bool,
    /// By the W3C trace id.
    pub traceparent: bool,
}

/// Keeps a context open; dropping it starts the grace.
pub struct OpenContext {
    index: Arc<ContextIndex>,
    handle: Handle,
}

impl Drop for OpenContext {
    fn drop(&mut self) {
        self.index.close(self.handle, Now::read());
    }
}

impl ContextIndex {
    /// An index that holds at most `entries_max` contexts.
    pub fn with_capacity(entries_max: usize) -> ContextIndex {
        ContextIndex {
            handles: std::array::from_fn(|_| Mutex::default()),
            traces: std::array::from_fn(|_| Mutex::default()),
            entries: AtomicUsize::new(0),
            entries_max,
            begun: AtomicUsize::new(0),
        }
    }

    /// Remembers a request that is about to reach the app, with the context it brought or with
    /// none. `None` when the index is full of open requests, or of requests of this trace: then the
    /// app must see neither a handle nor this trace id.
    pub fn open(
        self: &Arc<ContextIndex>,
        handle: Handle,
        trace: Option<TraceId>,
        held: Option<Arc<Held>>,
    ) -> Option<OpenContext> {
        if self.entries.load(Ordering::Relaxed) >= self.entries_max && !self.evict_one(handle) {
            return None;
        }
        if let Some(trace) = trace {
            let mut traces = lock(&self.traces[trace.shard()]);
            let handles = traces.entry(trace).or_default();
            if handles.len() >= limits::CONTEXT_INDEX_TRACE_MAX {
                return None;
            }
            handles.push(handle);
        }
        lock(&self.handles[handle.shard()])
            .open
            .insert(handle, Entry { held, trace, life: Life::Open });
        self.entries.fetch_add(1, Ordering::Relaxed);
        Some(OpenContext { index: Arc::clone(self), handle })
    }

    /// Remembers a context that no inbound request brought, such as that of a message or of a job,
    /// until `until` (seconds since the Unix epoch) or the end of its token, whatever comes first;
    /// gives that end. No trace id leads to it. `None` when it would end at once, or when the index
    /// is full, or full of such contexts: jobs must not take the place of requests.
    pub fn begin(&self, handle: Handle, held: Arc<Held>, until: u64, now: Now) -> Option<u64> {
        let until = until.min(held.exp);
        if until <= now.secs() || !self.may_begin() {
            return None;
        }
        if self.entries.load(Ordering::Relaxed) >= self.entries_max && !self.evict_one(handle) {
            self.begun.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let until_ms = until.saturating_mul(1_000);
        let mut handles = lock(&self.handles[handle.shard()]);
        handles.begun.insert((until_ms, handle));
        let entry = Entry { held: Some(held), trace: None, life: Life::Begun(until_ms) };
        handles.open.insert(handle, entry);
        drop(handles);
        self.entries.fetch_add(1, Ordering::Relaxed);
        Some(until)
    }

    /// Ends what [`ContextIndex::begin`] began, and takes the context from an inbound request that
    /// is still open: that one is remembered as one without context, for its trace id must not
    /// become another request's alone. Whether there was anything to end.
    pub fn end(&self, handle: Handle) -> bool {
        let mut handles = lock(&self.handles[handle.shard()]);
        let Some(entry) = handles.open.get_mut(&handle) else { return false };
        let Life::Begun(until) = entry.life else { return entry.held.take().is_some() };
        handles.begun.remove(&(until, handle));
        let removed = handles.open.remove(&handle);
        drop(handles);
        self.forget(handle, removed);
        true
    }

    /// Finds the context of an onward call.
    pub fn find(
        &self,
        handle: Asked<'_>,
        trace: Option<TraceId>,
        how: Propagation,
        now: Now,
    ) -> Lookup {
        let by_trace = if how.traceparent { self.by_trace(trace, now) } else { Ok(None) };
        let by_handle = match handle {
            Asked::Once(text) if how.handle => match self.by_handle(text, now) {
                Some(held) => Some(held),
                None => return Lookup::UnknownHandle,
            },
            Asked::Repeatedly if how.handle => return Lookup::UnknownHandle,
            Asked::Nothing | Asked::Once(_) | Asked::Repeatedly => None,
        };
        match (by_handle, by_trace) {
            (Some(held), Ok(Some(traced))) if !same_token(&held, &traced) => Lookup::Mismatch,
            (Some(held), Ok(_) | Err(Ambiguous)) => Lookup::Handle(held),
            (None, Ok(Some(traced))) => Lookup::Traceparent(traced),
            (None, Ok(None)) => Lookup::None,
            (None, Err(Ambiguous)) => Lookup::Ambiguous,
        }
    }

    /// Forgets contexts whose grace is over. Called once a second.
    pub fn sweep(&self, now: Now) {
        for shard in &self.handles {
            loop {
                let mut handles = lock(shard);
                let Some(handle) = handles.pop_over(now) else { break };
                let removed = handles.open.remove(&handle);
                drop(handles);
                self.forget(handle, removed);
            }
        }
    }

    /// How many contexts are held.
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether no context is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn by_handle(&self, text: &str, now: Now) -> Option<Arc<Held>> {
        let handle = Handle::parse(text)?;
        let handles = lock(&self.handles[handle.shard()]);
        handles
            .open
            .get(&handle)
            .filter(|entry| entry.live(now))
            .and_then(|entry| entry.held.clone())
    }

    fn by_trace(&self, trace: Option<TraceId>, now: Now) -> Result<Option<Arc<Held>>, Ambiguous> {
        let Some(trace) = trace else { return Ok(None) };
        let handles = lock(&self.traces[trace.shard()]).get(&trace).cloned().unwrap_or_default();
        let mut found: Option<Arc<Held>> = None;
        for handle in handles {
            let shard = lock(&self.handles[handle.shard()]);
            let Some(entry) = shard.open.get(&handle).filter(|entry| entry.live(now)) else {
                continue;
            };
            // A request without context under this trace could be the cause as well.
            let Some(held) = &entry.held else { return Err(Ambiguous) };
            match &found {
                Some(other) if !same_token(other, held) => return Err(Ambiguous),
                Some(_) | None => found = Some(Arc::clone(held)),
            }
        }
        Ok(found)
    }

    fn close(&self, handle: Handle, now: Now) {
        let mut handles = lock(&self.handles[handle.shard()]);
        let Some(entry) = handles.open.get_mut(&handle) else { return };
        entry.life = Life::Closed(now.millis());
        handles.closed.push_back((now.millis(), handle));
    }

    /// Makes room by forgetting the oldest context in grace, looking at the newcomer's shard first.
    fn evict_one(&self, newcomer: Handle) -> bool {
        for step in 0..SHARDS {
            let mut handles = lock(&self.handles[(newcomer.shard() + step) % SHARDS]);
            let Some((_, handle)) = handles.closed.pop_front() else { continue };
            let removed = handles.open.remove(&handle);
            drop(handles);
            self.forget(handle, removed);
            return true;
        }
        false
    }

    /// Takes a place among those begun, if there is one.
    fn may_begin(&self) -> bool {
        let most = limits::CONTEXT_INDEX_BEGUN_MAX.min(self.entries_max);
        let one_more = |begun: usize| (begun < most).then_some(begun + 1);
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn forget(&self, handle: Handle, removed: Option<Entry>) {
        let Some(entry) = removed else { return };
        self.entries.fetch_sub(1, Ordering::Relaxed);
        if matches!(entry.life, Life::Begun(_)) {
            self.begun.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(trace) = entry.trace else { return };
        let mut traces = lock(&self.traces[trace.shard()]);
        if let Some(handles) = traces.get_mut(&trace) {
            handles.retain(|other| *other != handle);
            if handles.is_empty() {
                traces.remove(&trace);
            }
        }
    }
}

/// One trace id belongs to several requests with different tokens.
struct Ambiguous;

fn same_token(a: &Held, b: &Held) -> bool {
    a.token == b.token
}

/// A poisoned shard is still consistent: no code between lock and unlock can leave it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "tests/context_index.rs"]
mod tests;
