//! Finds the destination of a call: host or address → destination → endpoints and who may answer.
//!
//! Invariant: destinations come from documents, never from DNS or a request; each carries the
//! identities expected of its servers, so nothing is dialled without knowing who must answer.

use countersign_policy::host::canonical_host;
use http::uri::Authority;

use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
pub use crate::outbound::destinations::{Destination, Destinations, Endpoint, Found, ToPeer};
use crate::refusal::{Refusal, Refused, Stage};

/// The destination of a call: the one behind the address the app dialled or the listener stands
/// for, else the one of its authority. An address that no document knows, and an authority that
/// names nothing either, passes where the mesh says so: its own address, plaintext, no context.
///
/// # Errors
/// `destination_unknown`; names are never resolved by DNS.
pub fn destination(
    conn: &Connection,
    authority: &Authority,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Found, Refused> {
    let unknown =
        |detail: String| Refused::new(Refusal::DestinationUnknown, Stage::Discover, detail);
    if let Some(found) = conn.known(snap) {
        journal.host = canonical_host(authority.as_str()).ok().map(Into::into);
        return Ok(found);
    }
    if let Some(name) = conn.bound_to() {
        return Err(unknown(format!("no Destination document {name}")));
    }
    let host = canonical_host(authority.as_str())
        .map_err(|error| Refused::new(Refusal::HostInvalid, Stage::Discover, error.to_string()))?;
    let original = conn.orig_dst();
    let port = authority.port_u16().or(original.map(|original| original.port()));
    let named = snap.destinations.by_host(&host, port).cloned();
    journal.host = Some(host.into());
    match (named, original) {
        (Some(destination), _) => Ok(Found { destination, only: None }),
        (None, Some(original)) if conn.passes_unknown(snap) => Ok(Destinations::passed(original)),
        (None, Some(original)) => Err(unknown(format!(
            "no Destination has the address {original}, or the host and port of `{authority}`"
        ))),
        (None, None) => {
            Err(unknown(format!("no Destination has the host and port of `{authority}`")))
        }
    }
}
