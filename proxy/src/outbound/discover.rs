//! Finds the destination of a call: host or address → destination → endpoints and who may answer.
//!
//! Invariant: destinations come from documents, never from DNS or a request; each carries the
//! identities expected of its servers, so nothing is dialled without knowing who must answer.

use std::sync::Arc;

use countersign_policy::host::canonical_host;
use http::uri::Authority;

use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
pub use crate::outbound::destinations::{Destination, Destinations, Endpoint, Found, ToPeer};
use crate::refusal::{Refusal, Refused, Stage};

/// The destination of a call: the one the listener is bound to, else the one of its authority.
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
    let found = match conn.bound_to() {
        Some(name) => snap
            .destinations
            .by_name(name)
            .ok_or_else(|| unknown(format!("no Destination document {name}")))?,
        None => {
            let host = canonical_host(authority.as_str()).map_err(|error| {
                Refused::new(Refusal::HostInvalid, Stage::Discover, error.to_string())
            })?;
            let found = snap.destinations.by_host(&host, authority.port_u16());
            journal.host = Some(host.into());
            found.ok_or_else(|| {
                unknown(format!("no Destination has the host and port of `{authority}`"))
            })?
        }
    };
    Ok(Found { destination: Arc::clone(found), only: None })
}
