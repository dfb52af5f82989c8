//! Takes a context token that the token service made for this workload, and gives the app a handle.
//!
//! Invariant: the token is verified like one that a peer presents, and it counts only if this
//! workload is its first holder; the app never sees it.

use std::sync::Arc;

use countersign_ctxtoken::UnixTime;
use http::HeaderValue;

use super::error::{LocalError, Why};
use crate::clock::Now;
use crate::context_index::{Handle, Held};
use crate::live::Snapshot;
use crate::worker::Worker;

/// What the app learns of a context.
pub(super) struct Adopted {
    /// Leads to it.
    pub(super) handle: Handle,
    /// Its transaction.
    pub(super) txn: Arc<str>,
    /// When it ends, Unix seconds.
    pub(super) until: u64,
    /// What it is for.
    pub(super) scope: Vec<String>,
}

/// Remembers the context of `token`.
///
/// # Errors
/// `token_service_answer` for a token that does not count here, `too_many_contexts`.
pub(super) fn adopt(
    worker: &Worker,
    snap: &Snapshot,
    token: &str,
    now: Now,
) -> Result<Adopted, LocalError> {
    let invalid = |detail: String| Why::ServiceAnswer.error(detail);
    let chains = snap.chains();
    let with = snap.verifying(&chains, UnixTime(now.secs()));
    let verified = {
        let mut tokens = worker.tokens.borrow_mut();
        let verified = tokens.verify(token.as_bytes(), snap.generation, &with);
        verified.map_err(|error| invalid(format!("its token does not verify: {error}")))?.0
    };
    if snap.identity().is_none_or(|me| me.id != verified.rctx.to) {
        return Err(invalid("its token is for another workload".to_owned()));
    }
    let mut value = HeaderValue::from_str(token)
        .map_err(|_| invalid("its token is no header value".to_owned()))?;
    value.set_sensitive(true);
    let txn: Arc<str> = verified.txn.as_str().into();
    let scope = verified.scope.clone();
    let held = Held {
        token: value,
        exp: verified.exp.0,
        may_pass_on: true,
        hops: None,
        scope: None,
        signers: Arc::default(),
        context: Some(verified),
    };
    let handle = Handle::new(worker.random());
    let until = worker.shared.contexts.begin(handle, Arc::new(held), u64::MAX, now);
    let until = until.ok_or_else(|| Why::Crowded.error("no room for another context"))?;
    Ok(Adopted { handle, txn, until, scope })
}
