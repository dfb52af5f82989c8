//! The direction from another sidecar to the app of this pod.
//!
//! The stages, in order: `accept` (mutual TLS gives the `Peer`), `context` (verify the token and
//! how it got here), `decide` (policy gives a `Permit`), `enrich` (verified headers), `forward`
//! (to the app). [`serve`] is the whole order. Invariant: `forward` cannot be called without the
//! values that only the earlier stages can make.

pub mod accept;
pub mod context;
pub mod decide;
pub mod enrich;
pub mod forward;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::Refused;

/// One request, from the head to the response head.
async fn serve(
    conn: &Connection,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let now = journal.started;
    let slot = conn.worker().admit()?;
    let (mut parts, body) = request.into_parts();
    let head = Head::inbound(&mut parts, conn, snap, journal)?;
    let ctx = context::verify(conn, &head, snap, now, journal)?;
    let permit = decide::authorize(conn, &head, &parts, &ctx, snap, now, journal)?;
    journal.before_forward().await?;
    let enriched = enrich::apply(conn, parts, &head, &permit, &ctx, snap, journal)?;
    forward::to_app(conn, enriched, body, permit, slot, journal).await
}
