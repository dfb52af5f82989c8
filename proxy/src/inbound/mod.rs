//! The direction from another sidecar to the app of this pod.
//!
//! The stages, in order: `accept` (mutual TLS gives the `Peer`), `context` (verify the token and
//! how it got here), `decide` (policy gives a `Permit`), `enrich` (verified headers), `forward`
//! (to the app) or `service` (this process itself answers). [`serve`] is the whole order. What lasts is judged `again`. Invariant: `forward` cannot be called without the
//! values that only the earlier stages can make.

pub mod accept;
pub mod again;
mod caller_cert;
mod connection;
pub mod context;
pub mod crossing;
pub mod custody;
pub mod decide;
pub mod enrich;
pub mod forward;
mod handshake;
pub mod once;
pub mod service;
mod tcp;
mod vouched;

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::lasting;
use crate::http::request::Head;
use crate::http::upgrade::Switch;
use crate::inbound::accept::Connection;
use crate::inbound::forward::Arrived;
use crate::inbound::service::Called;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::Refused;

/// One request, from the head to the response head.
async fn serve(
    conn: &Rc<Connection>,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let now = journal.started;
    let slot = conn.worker().admit()?;
    let (mut parts, body) = request.into_parts();
    let head = Head::inbound(&mut parts, conn, snap, journal)?;
    let switches = conn.switches(parts.version);
    let switch = Switch::take(&mut parts, &head.hop, &body, switches)?;
    let ctx = context::verify(conn, &head, snap, now, journal)?;
    again::check_revoked(conn, &head, &ctx, snap, now)?;
    let permit = decide::authorize(conn, &head, &parts, &ctx, snap, now, journal)?;
    conn.worker().shared.once.take(&permit, &ctx, now)?;
    journal.before_forward().await?;
    if let Some(service) = conn.service() {
        let called = Called { parts: &parts, head: &head, body, permit };
        return service::answer(conn, service, called, snap, journal).await;
    }
    let noted = again::note(&parts, snap);
    let enriched = enrich::apply(conn, parts, &head, &permit, &ctx, snap, journal)?;
    let lasting = again::register(conn, head, ctx, noted, &permit, snap, now);
    let forwarded =
        forward::to_app(conn, Arrived { enriched, body, permit, slot, switch }, journal);
    lasting::until_ended(lasting, forwarded).await.map_err(|ended| ended.refused(journal))
}
