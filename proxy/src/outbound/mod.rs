//! The direction from the app of this pod to other workloads.
//!
//! The stages, in order: `accept` (the app's connection), `context` (the inbound request that
//! caused this call), `discover` (endpoint and the identity that must answer), `encrypt` (mutual
//! TLS, the peer is checked), `forward` (attach the context, send). [`serve`] is the whole order.

pub mod accept;
pub mod ask;
pub mod context;
pub mod destinations;
pub mod discover;
pub mod encrypt;
mod exchange;
pub mod forward;
pub mod hand_on;
pub mod reached;
mod tcp;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::hygiene;
use crate::http::request::{of_hygiene, refuse_oversized};
use crate::http::upgrade::{self, Switch};
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
use crate::outbound::discover::Found;
use crate::outbound::forward::Outgoing;
use crate::outbound::hand_on::Carries;
use crate::refusal::Refused;
use crate::telemetry::RemovedFrom;

/// One call of the app, from the head to the response head.
async fn serve(
    conn: &Connection,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let slot = conn.worker().admit()?;
    let (mut parts, body) = request.into_parts();
    let clean = hygiene::outbound_request(&mut parts).map_err(of_hygiene)?;
    journal.reserved_removed(RemovedFrom::Header, clean.presented.dropped);
    refuse_oversized(&parts.headers)?;
    let held = context::find(conn, &clean.presented, &parts, snap, journal);
    let Found { destination, only } = discover::destination(conn, &clean.authority, snap, journal)?;
    let switch = Switch::take(&mut parts, &clean.hop, &body, destination.switches())?;
    let version = upgrade::transport_version(parts.version, switch.as_ref());
    let secured = encrypt::lease(conn.worker(), &destination, only, version, snap, journal).await?;
    let held = held.filter(|_| destination.takes_context());
    let carries = held.map_or(Carries::Nothing, Carries::Held);
    let (authority, dialled) = (clean.authority, conn.orig_dst());
    let outgoing = Outgoing { parts, body, authority, carries, slot, switch, dialled };
    forward::to_callee(conn.worker(), secured, &destination, outgoing, journal).await
}
