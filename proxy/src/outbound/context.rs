//! Finds the context of the inbound request that caused this call.
//!
//! Invariant: nothing the app wrote is believed beyond its handle, its trace id and, where that is
//! switched on, a token that it was given; a context is
//! attached only if it is the one and only, and only if this workload may hand it on.

use std::sync::Arc;

use http::request;

use crate::clock::Now;
use crate::context_index::{Asked, Call, Held, Lookup, TRACEPARENT, TraceId};
use crate::http::hygiene::{Field, Presented};
use crate::inbound::again;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
use crate::telemetry;

/// The context to attach to this call, if there is exactly one.
pub fn find(
    conn: &Connection,
    presented: &Presented,
    parts: &request::Parts,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Option<Arc<Held>> {
    let shared = &conn.worker().shared;
    let handle = match &presented.handle {
        Field::Absent => Asked::Nothing,
        Field::One(value) => value.to_str().map_or(Asked::Repeatedly, Asked::Once),
        Field::Repeated => Asked::Repeatedly,
    };
    let token = match presented.token() {
        Ok(None) => Asked::Nothing,
        Ok(Some(token)) => Asked::Once(token),
        Err(_) => Asked::Repeatedly,
    };
    let mut traces = parts.headers.get_all(TRACEPARENT).iter();
    let trace = match (traces.next(), traces.next()) {
        (Some(only), None) => only.to_str().ok().and_then(TraceId::parse),
        _ => None,
    };
    let call = Call { handle, token, trace };
    let found = shared.contexts.find(&call, shared.propagation, journal.started);
    journal.lookup(label(&found));
    let held = found.held()?;
    if !held.may_pass_on {
        // It came without a record addressed to us: the path ends at whoever sent it, and the
        // callee would refuse the token.
        conn.worker().metrics.limit_hit("HOLDER_WITHOUT_RECORD");
        return None;
    }
    if let Some(by) = revoked(held, snap, journal.started) {
        // The callee may not know yet. The call goes out as the service alone.
        tracing::info!(by, decision = journal.id_text(), "a revoked token is not attached");
        return None;
    }
    journal.txn = Some(held.txn().into());
    Some(Arc::clone(held))
}

/// Which entry hits a token that was accepted before it was revoked.
fn revoked(held: &Held, snap: &Snapshot, now: Now) -> Option<&'static str> {
    let context = held.context.as_ref()?;
    again::revoked(context, || again::KeyUsed::of(&held.token), &snap.revocations, now)
}

fn label(found: &Lookup) -> telemetry::Lookup {
    match found {
        Lookup::Handle(_) => telemetry::Lookup::Handle,
        Lookup::Traceparent(_) => telemetry::Lookup::Traceparent,
        Lookup::Token(_) => telemetry::Lookup::Token,
        Lookup::None => telemetry::Lookup::None,
        Lookup::UnknownHandle => telemetry::Lookup::UnknownHandle,
        Lookup::UnknownToken => telemetry::Lookup::UnknownToken,
        Lookup::Ambiguous => telemetry::Lookup::Ambiguous,
        Lookup::Mismatch => telemetry::Lookup::Mismatch,
    }
}
