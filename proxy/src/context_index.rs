//! Contexts of the inbound requests that are open in this pod, or ended a moment ago, and of work
//! that no request began.
//!
//! Inbound gives each request a handle (a header for the app) and remembers its trace id, and its
//! token where the app may hand that on itself; the app's onward call is matched to it by
//! `outbound/context`. Invariant: whatever is unknown, expired, ambiguous or contradictory finds
//! nothing: the call goes out as the service alone, never with a guess. Shared by all workers,
//! because the onward call may land on another one; critical sections are short and never await.

mod call;
mod few;
mod kept;
mod names;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_config::limits;
use countersign_ctxtoken::{HopList, RequestContext, Verified};
use http::HeaderValue;

use crate::clock::Now;
use crate::signers::Signer;

use call::{Ambiguous, Found};
pub use call::{Asked, Call, Lookup, Propagation};
use few::Few;
use kept::Kept;
use names::{ByHandle, TokenName};
pub use names::{Handle, TRACEPARENT, TraceId};

const SHARDS: usize = 16;

/// The context one inbound request brought.
#[derive(Clone)]
pub struct Held {
    /// The token, byte for byte as it came.
    pub token: HeaderValue,
    /// End of the token, seconds since the Unix epoch.
    pub exp: u64,
    /// Whether this workload may hand it on: the issuer, or a record, addressed it to us.
    pub may_pass_on: bool,
    /// The records of earlier holders; none where this workload is the first.
    pub hops: Option<Arc<HopList>>,
    /// What they left of the token's scope; `None`: all of it.
    pub scope: Option<Arc<[String]>>,
    /// Who signed them, for those who have not met them.
    pub signers: Arc<[Arc<Signer>]>,
    /// What it says, to be held against what is revoked; `None` where nothing was verified.
    pub context: Option<Arc<Verified<RequestContext>>>,
}

struct Entry {
    /// `None` for a request that brought no context: it makes its trace id ambiguous all the same.
    held: Option<Kept>,
    trace: Option<TraceId>,
    token: Option<TokenName>,
    life: Life,
}

/// How long an entry is found.
#[derive(Clone, Copy)]
enum Life {
    /// Its inbound request is open.
    Open,
    /// The response ended; the grace runs until this time.
    Closed(u64),
    /// Begun without an inbound request: until this time.
    Begun(u64),
}

impl Entry {
    /// Whether a call may still be caused by it. The end of its token does not change that: only
    /// then there is nothing to attach.
    fn live(&self, now: Now) -> bool {
        match self.life {
            Life::Open => true,
            Life::Closed(until) | Life::Begun(until) => now.millis() < until,
        }
    }

    /// The context to attach, as long as its token lives.
    fn held(&self, now: Now) -> Option<&Kept> {
        self.held.as_ref().filter(|held| now.secs() < held.held().exp)
    }
}

#[derive(Default)]
struct Handles {
    open: HashMap<Handle, Entry, ByHandle>,
    /// Those in grace, by its end.
    closed: VecDeque<(u64, Handle)>,
    /// Those begun without an inbound request, by their end.
    begun: BTreeSet<(u64, Handle)>,
    /// The header of the last token that went into grace: most share it.
    header: Option<Arc<[u8]>>,
}

impl Handles {
    /// One whose time is over.
    fn pop_over(&mut self, now: Now) -> Option<Handle> {
        let closed = self.closed.front();
        if closed.is_some_and(|(until, _)| now.millis() >= *until) {
            return self.closed.pop_front().map(|(_, handle)| handle);
        }
        let begun = self.begun.first();
        if begun.is_some_and(|(until, _)| now.millis() >= *until) {
            return self.begun.pop_first().map(|(_, handle)| handle);
        }
        None
    }
}

/// The requests of each name, oldest first.
type Names<K> = Mutex<HashMap<K, Few<Handle>>>;

/// All contexts of requests that are open, or ended a moment ago, in this pod.
pub struct ContextIndex {
    handles: [Mutex<Handles>; SHARDS],
    traces: [Names<TraceId>; SHARDS],
    tokens: [Names<TokenName>; SHARDS],
    entries: AtomicUsize,
    entries_max: usize,
    begun: AtomicUsize,
    grace_ms: u64,
}

/// Keeps a context open; dropping it starts the grace.
pub struct OpenContext {
    index: Arc<ContextIndex>,
    handle: Handle,
    by_token: bool,
}

impl OpenContext {
    /// Whether an onward call may name this request by its token.
    pub fn by_token(&self) -> bool {
        self.by_token
    }
}

impl Drop for OpenContext {
    fn drop(&mut self) {
        self.index.close(self.handle, Now::read());
    }
}

impl ContextIndex {
    /// An index of at most `entries_max` contexts, in which each stays for `grace_ms` after the
    /// response that carried it ended.
    pub fn new(entries_max: usize, grace_ms: u64) -> ContextIndex {
        ContextIndex {
            handles: std::array::from_fn(|_| Mutex::default()),
            traces: std::array::from_fn(|_| Mutex::default()),
            tokens: std::array::from_fn(|_| Mutex::default()),
            entries: AtomicUsize::new(0),
            entries_max,
            begun: AtomicUsize::new(0),
            grace_ms,
        }
    }

    /// Remembers a request that is about to reach the app, with the context it brought or with
    /// none, under its trace id if there is one, and under its token if the app may name it by
    /// that. `None` when the index is full of open requests, or of requests of this trace: then
    /// the app must see neither a handle nor this trace id nor the token.
    pub fn open(
        self: &Arc<ContextIndex>,
        handle: Handle,
        trace: Option<TraceId>,
        held: Option<Arc<Held>>,
        by_token: bool,
    ) -> Option<OpenContext> {
        if self.entries.load(Ordering::Relaxed) >= self.entries_max && !self.evict_one(handle) {
            return None;
        }
        if let Some(trace) = trace {
            let traces = &self.traces[trace.shard()];
            if !link(traces, trace, handle, limits::CONTEXT_INDEX_TRACE_MAX) {
                return None;
            }
        }
        let token = held.as_ref().filter(|_| by_token).map(|held| TokenName::of(&held.token));
        let token = token.filter(|token| {
            let tokens = &self.tokens[token.shard()];
            link(tokens, *token, handle, limits::CONTEXT_INDEX_TOKEN_MAX)
        });
        let held = held.map(Kept::Whole);
        lock(&self.handles[handle.shard()])
            .open
            .insert(handle, Entry { held, trace, token, life: Life::Open });
        self.entries.fetch_add(1, Ordering::Relaxed);
        Some(OpenContext { index: Arc::clone(self), handle, by_token: token.is_some() })
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
        let (held, life) = (Some(Kept::Whole(held)), Life::Begun(until_ms));
        let entry = Entry { held, trace: None, token: None, life };
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

    /// Finds the context of an onward call. A handle or a token is the app's own word: one that
    /// is not known is not made up for by the trace, and one that is known is not overruled by a
    /// trace that says nothing. Whatever they lead to must be the same token.
    pub fn find(&self, call: &Call<'_>, how: Propagation, now: Now) -> Lookup {
        let by_handle = match call.handle {
            Asked::Once(text) if how.handle => match self.by_handle(text, now) {
                Some(held) => Some(held),
                None => return Lookup::UnknownHandle,
            },
            Asked::Repeatedly if how.handle => return Lookup::UnknownHandle,
            Asked::Nothing | Asked::Once(_) | Asked::Repeatedly => None,
        };
        let by_token = match call.token {
            Asked::Once(token) if how.token => match self.by_token(token, now) {
                Ok(None) => return Lookup::UnknownToken,
                Err(Ambiguous { among }) if among.is_empty() => return Lookup::UnknownToken,
                found => found,
            },
            Asked::Repeatedly if how.token => return Lookup::UnknownToken,
            Asked::Nothing | Asked::Once(_) | Asked::Repeatedly => Ok(None),
        };
        let trace = call.trace.filter(|_| how.traceparent);
        let by_trace = trace.map_or(Ok(None), |trace| self.by_trace(trace, now));
        call::weigh(by_handle, by_token, by_trace)
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

    fn by_handle(&self, text: &str, now: Now) -> Option<Kept> {
        let handle = Handle::parse(text)?;
        let handles = lock(&self.handles[handle.shard()]);
        handles
            .open
            .get(&handle)
            .filter(|entry| entry.live(now))
            .and_then(|entry| entry.held(now).cloned())
    }

    fn by_trace(&self, trace: TraceId, now: Now) -> Found {
        let handles = lock(&self.traces[trace.shard()]).get(&trace).cloned();
        handles.map_or(Ok(None), |handles| self.the_one(&handles, now))
    }

    fn by_token(&self, token: &HeaderValue, now: Now) -> Found {
        let token = TokenName::of(token);
        let handles = lock(&self.tokens[token.shard()]).get(&token).cloned();
        handles.map_or(Ok(None), |handles| self.the_one(&handles, now))
    }

    /// The one context these requests brought: the same token, handed on along the same path with
    /// the same scope. Of lists that differ in bytes only the newest.
    fn the_one(&self, handles: &Few<Handle>, now: Now) -> Found {
        let mut live: Vec<Option<Kept>> = Vec::new();
        for handle in handles.iter() {
            let shard = lock(&self.handles[handle.shard()]);
            let entry = shard.open.get(handle).filter(|entry| entry.live(now));
            live.extend(entry.map(|entry| entry.held(now).cloned()));
        }
        let Some(newest) = live.last().cloned() else { return Ok(None) };
        // A request without context, or whose context has ended, could be the cause as well.
        let same = newest.filter(|newest| {
            let same = |kept: &Option<Kept>| {
                kept.as_ref().is_some_and(|kept| {
                    kept.is_of_the_token_of(newest) && kept.held().came_the_same_way(newest.held())
                })
            };
            live.iter().all(same)
        });
        match same {
            Some(newest) => Ok(Some(newest)),
            None => Err(Ambiguous { among: live.into_iter().flatten().collect() }),
        }
    }

    fn close(&self, handle: Handle, now: Now) {
        let mut shard = lock(&self.handles[handle.shard()]);
        let handles = &mut *shard;
        let Some(entry) = handles.open.get_mut(&handle) else { return };
        let until = now.millis().saturating_add(self.grace_ms);
        entry.life = Life::Closed(until);
        let let_go = entry.held.as_mut().and_then(|kept| kept.fold(&mut handles.header));
        handles.closed.push_back((until, handle));
        drop(shard);
        // What it said is given back outside of the lock, by the worker that took it.
        drop(let_go);
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
        if let Some(trace) = entry.trace {
            unlink(&self.traces[trace.shard()], trace, handle);
        }
        if let Some(token) = entry.token {
            unlink(&self.tokens[token.shard()], token, handle);
        }
    }
}

impl Held {
    /// SHA-256 of the token.
    pub fn token_sha256(&self) -> [u8; 32] {
        match &self.context {
            Some(verified) => *verified.token_sha256(),
            None => names::sha256(&self.token),
        }
    }

    /// Its transaction, for audit.
    pub fn txn(&self) -> &str {
        self.context.as_ref().map_or("", |context| &context.txn)
    }

    /// What of the scope a list that begins here must say is left, because the one that took the
    /// rest was left behind.
    pub fn narrowed(&self) -> Option<&[String]> {
        self.scope.as_deref().filter(|_| self.hops.is_none())
    }

    /// Whether a call with their one token may carry either: it came by way of the same holders,
    /// with the same scope left. Their records may differ in bytes.
    fn came_the_same_way(&self, other: &Held) -> bool {
        let same_path = match (&self.hops, &other.hops) {
            (None, None) => true,
            (Some(own), Some(other)) => own.leads_as(other),
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.may_pass_on == other.may_pass_on && self.scope == other.scope && same_path
    }
}

/// Remembers one more request under a name, unless there are too many.
fn link<K: Eq + Hash>(names: &Names<K>, name: K, handle: Handle, most: usize) -> bool {
    let mut names = lock(names);
    match names.entry(name) {
        MapEntry::Vacant(vacant) => {
            vacant.insert(Few::One(handle));
            true
        }
        MapEntry::Occupied(mut known) => {
            let room = known.get().len() < most;
            if room {
                known.get_mut().push(handle);
            }
            room
        }
    }
}

fn unlink<K: Eq + Hash>(names: &Names<K>, name: K, handle: Handle) {
    let mut names = lock(names);
    let Some(handles) = names.get_mut(&name) else { return };
    if !handles.remove(&handle) {
        names.remove(&name);
    }
}

/// A poisoned shard is still consistent: no code between lock and unlock can leave it half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "tests/context_model.rs"]
mod model;
#[cfg(test)]
#[path = "tests/context_index.rs"]
mod tests;
