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

use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response, request};
use hyper::body::Incoming;

use crate::http::body::ProxyBody;
use crate::http::lasting::{self, Lasting};
use crate::http::request::Head;
use crate::http::upgrade::Switch;
use crate::inbound::accept::Connection;
use crate::inbound::context::Context;
use crate::inbound::decide::Permit;
use crate::inbound::forward::{Arrived, Leaving};
use crate::inbound::service::Called;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::Refused;
use crate::worker::InFlight;

/// One request, from the head to the response head. Between its two halves nothing is kept but what
/// the second needs: whatever a future holds across a wait is moved with it.
async fn serve(
    conn: &Rc<Connection>,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let asked = permit(conn, request, snap, journal)?;
    journal.before_forward().await?;
    if let Some(service) = conn.service() {
        let called = Called {
            parts: &asked.parts,
            head: &asked.head,
            body: asked.body,
            permit: asked.permit,
        };
        return Box::pin(service::answer(conn, service, called, snap, journal)).await;
    }
    let (leaving, lasting) = leave(conn, *asked, snap, journal)?;
    let answered = {
        let forwarded = pin!(forward::to_app(conn, leaving, journal));
        lasting::until_ended(lasting, forwarded).await
    };
    answered.map_err(|ended| ended.refused(journal))
}

/// A request that may go on.
struct Asked {
    parts: request::Parts,
    head: Head,
    body: Incoming,
    switch: Option<Switch>,
    ctx: Context,
    permit: Permit,
    slot: InFlight,
}

/// The stages up to the decision.
fn permit(
    conn: &Connection,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Box<Asked>, Refused> {
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
    Ok(Box::new(Asked { parts, head, body, switch, ctx, permit, slot }))
}

/// The stages behind it: what the app is to see, and the place in the registry.
fn leave(
    conn: &Rc<Connection>,
    asked: Asked,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<(Leaving, Lasting), Refused> {
    let Asked { parts, head, body, switch, ctx, permit, slot } = asked;
    let noted = again::note(&parts, snap);
    let enriched = enrich::apply(conn, parts, &head, &permit, &ctx, snap, journal)?;
    let lasting = again::register(conn, head, ctx, noted, &permit, snap, journal.started);
    let arrived = Arrived { enriched, body, permit, slot, switch };
    Ok((Leaving::of(conn, arrived, journal)?, lasting))
}
