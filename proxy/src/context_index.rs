//! Contexts of the inbound requests that are open in this pod, or ended a moment ago.
//!
//! Inbound gives each request a handle (a header for the app) and remembers its trace id; the app's
//! onward call is matched to it by `outbound/context`. Invariant: whatever is unknown, expired,
//! ambiguous or contradictory finds nothing: the call goes out as the service alone, never with a
//! guess. Shared by all workers, because the onward call may land on another one; critical
//! sections are short and never await.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_config::limits;
use countersign_ctxtoken::{RequestContext, Verified};
use http::HeaderValue;

use crate::clock::Now;

const SHARDS: usize = 16;

/// How long a context stays usable after the response that carried it ended.
const GRACE_MS: u64 = 5_000;

/// Names one open inbound request to its own app. 16 random bytes, useless in any other pod.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle([u8; 16]);

impl Handle {
    /// A handle from fresh randomness.
    pub fn new(random: [u8; 16]) -> Handle {
        Handle(random)
    }

    /// The text of the `Countersign-Context` header: 22 characters of base64url.
    pub fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the header's text.
    pub fn parse(text: &str) -> Option<Handle> {
        if text.len() != 22 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Handle(bytes.try_into().ok()?))
    }

    fn shard(self) -> usize {
        usize::from(self.0[0]) % SHARDS
    }
}

/// The trace id of a W3C `traceparent` header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(u128);

impl TraceId {
    /// Reads version 00 to fe of W3C Trace Context §3.2; anything else is no trace id.
    pub fn parse(traceparent: &str) -> Option<TraceId> {
        let mut parts = traceparent.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let flags = parts.next()?;
        let hex = |text: &str, len: usize| {
            text.len() == len
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !hex(version, 2)
            || version == "ff"
            || !hex(trace, 32)
            || !hex(parent, 16)
            || !hex(flags, 2)
        {
            return None;
        }
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let id = u128::from_str_radix(trace, 16).ok()?;
        (id != 0 && parent.bytes().any(|b| b != b'0')).then_some(TraceId(id))
    }

    /// A trace id from fresh randomness.
    pub fn new(random: [u8; 16]) -> TraceId {
        TraceId(u128::from_be_bytes(random).max(1))
    }

    /// A `traceparent` header for this trace, not sampled, with the given parent id.
    pub fn traceparent(self, parent: [u8; 8]) -> String {
        format!("00-{:032x}-{:016x}-00", self.0, u64::from_be_bytes(parent).max(1))
    }

    fn shard(self) -> usize {
        usize::try_from(self.0 % (SHARDS as u128)).unwrap_or(0)
    }
}

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
    /// When the response ended; `None` while the request is open.
    closed_ms: Option<u64>,
}

impl Entry {
    fn live(&self, now: Now) -> bool {
        let in_grace = self.closed_ms.is_none_or(|closed| now.millis() < closed + GRACE_MS);
        in_grace && self.held.as_ref().is_none_or(|held| now.secs() < held.exp)
    }
}

#[derive(Default)]
struct Handles {
    open: HashMap<Handle, Entry>,
    closed: VecDeque<(u64, Handle)>,
}

/// All contexts of requests that are open, or ended a moment ago, in this pod.
pub struct ContextIndex {
    handles: [Mutex<Handles>; SHARDS],
    traces: [Mutex<HashMap<TraceId, Vec<Handle>>>; SHARDS],
    entries: AtomicUsize,
    entries_max: usize,
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
            .insert(handle, Entry { held, trace, closed_ms: None });
        self.entries.fetch_add(1, Ordering::Relaxed);
        Some(OpenContext { index: Arc::clone(self), handle })
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
                let over = handles
                    .closed
                    .front()
                    .is_some_and(|(closed, _)| now.millis() >= closed + GRACE_MS);
                let Some((_, handle)) = over.then(|| handles.closed.pop_front()).flatten() else {
                    break;
                };
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
        entry.closed_ms = Some(now.millis());
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

    fn forget(&self, handle: Handle, removed: Option<Entry>) {
        let Some(entry) = removed else { return };
        self.entries.fetch_sub(1, Ordering::Relaxed);
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
