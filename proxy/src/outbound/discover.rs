//! Finds the destination of a call: address or host → destination → endpoints and who may answer.
//!
//! Invariant: destinations come from documents, never from DNS or a request; each carries the
//! identities expected of its servers, so nothing is dialled without knowing who must answer. The
//! one exception, an unknown address where the mesh lets it pass, gets no context.

use std::sync::Arc;

use countersign_policy::host::canonical_host;
use http::uri::Authority;

use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
pub use crate::outbound::destinations::{Destination, Destinations, Endpoint, Found, ToPeer};
use crate::refusal::{Refusal, Refused, Stage};

/// The destination of a call: the one the listener is bound to, else the one at the address the
/// app dialled, else the one of its authority.
///
/// # Errors
/// `destination_unknown`, `host_invalid`; names are never resolved by DNS.
pub fn destination(
    conn: &Connection,
    authority: &Authority,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Found, Refused> {
    if let Some(found) = conn.known(snap) {
        if conn.bound_to().is_none() {
            journal.host = canonical_host(authority.as_str()).ok().map(Into::into);
        }
        return Ok(found);
    }
    if let Some(name) = conn.bound_to() {
        return Err(unknown(format!("no Destination document {name}")));
    }
    let host = canonical_host(authority.as_str())
        .map_err(|error| Refused::new(Refusal::HostInvalid, Stage::Discover, error.to_string()))?;
    let dialled = conn.orig_dst();
    // What the app dialled counts, not what it says it did.
    let port = dialled.map_or(authority.port_u16(), |addr| Some(addr.port()));
    let found = snap.destinations.by_host(&host, port).map(Arc::clone);
    journal.host = Some(host.into());
    match (found, dialled) {
        (Some(destination), only) if destination.endpoints.is_empty() => {
            let nowhere = || unknown(format!("{} names no endpoint to dial", destination.name));
            let only = Some(only.ok_or_else(nowhere)?);
            Ok(Found { destination, only })
        }
        (Some(destination), _) => Ok(Found { destination, only: None }),
        (None, Some(addr)) if conn.passes_unknown(snap) => Ok(Destinations::passed(addr)),
        (None, Some(addr)) => {
            Err(unknown(format!("no Destination has the address {addr} or the host `{authority}`")))
        }
        (None, None) => {
            Err(unknown(format!("no Destination has the host and port of `{authority}`")))
        }
    }
}

fn unknown(detail: String) -> Refused {
    Refused::new(Refusal::DestinationUnknown, Stage::Discover, detail)
}
