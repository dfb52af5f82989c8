//! Verifies the context token and how it got here. Steps 1 to 11 of the verification order.
//!
//! Invariant: a token that is present and does not verify refuses the request, whatever the rules
//! say about missing ones; claims of an unverified token are read by nobody.

use std::sync::Arc;

use countersign_ctxtoken::{
    CacheResult, RequestContext, UnixTime, Verified, VerifyError, check_presenter,
};
use http::HeaderValue;

use crate::clock::Now;
use crate::http::certs;
use crate::http::hygiene::CERTS;
use crate::http::request::{Head, of_hygiene};
use crate::inbound::accept::Connection;
use crate::inbound::crossing;
use crate::inbound::custody::{self, Broken, Holder, Path};
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage, of_verify_error};
use crate::telemetry::CacheUse;
use crate::tls::peer::{MeshPeer, Peer};

/// Clock difference that is forgiven, seconds.
pub const SKEW_S: u64 = 30;

/// The context of a request.
pub enum Context {
    /// Proven, and presented by a workload it was handed to.
    Verified {
        /// What it says.
        token: Arc<Verified<RequestContext>>,
        /// How it came here.
        path: Arc<Path>,
    },
    /// None came.
    Absent,
}

impl Context {
    /// The proven context, if one came.
    pub fn verified(&self) -> Option<&Arc<Verified<RequestContext>>> {
        match self {
            Context::Verified { token, .. } => Some(token),
            Context::Absent => None,
        }
    }

    /// What the peer presented: where ours was minted for a token of another trust domain, that one.
    pub fn presented(&self) -> Option<&Arc<Verified<RequestContext>>> {
        self.path().and_then(|path| path.theirs.as_ref()).or_else(|| self.verified())
    }

    /// How it came here.
    pub fn path(&self) -> Option<&Arc<Path>> {
        match self {
            Context::Verified { path, .. } => Some(path),
            Context::Absent => None,
        }
    }
}

/// Verifies what the peer presented.
///
/// # Errors
/// The refusal of the first step that failed.
pub fn verify(
    conn: &Connection,
    head: &Head,
    snap: &Snapshot,
    now: Now,
    journal: &mut Journal,
) -> Result<Context, Refused> {
    let token = head.presented.token().map_err(of_hygiene)?;
    let Some(token) = token else { return Ok(Context::Absent) };
    let peer = match conn.peer() {
        Peer::Mesh(peer) => peer,
        Peer::None(why) => {
            let detail = format!("a token came from a peer without identity ({})", why.reason());
            return Err(Refused::new(Refusal::PresenterRefused, Stage::Context, detail));
        }
    };
    if !conn.worker().failures.borrow().allows(peer.id(), now) {
        let detail = "too many bad tokens from this peer within a second";
        return Err(Refused::new(Refusal::RateLimited, Stage::Context, detail));
    }
    let checked = if snap.crossings.takes(peer) {
        crossing::take(conn, peer, (token.as_bytes(), head), (snap, now))
    } else {
        check(conn, peer, token.as_bytes(), head, (snap, now))
    };
    match checked {
        Ok((token, path)) => {
            conn.worker().metrics.context_verified("ok");
            conn.met_token(head.presented.in_parts);
            let path = Arc::new(path);
            journal.context = Some(Arc::clone(&token));
            journal.path_of_context = Some(Arc::clone(&path));
            Ok(Context::Verified { token, path })
        }
        Err(broken) => Err(refuse(conn, peer, broken, now)),
    }
}

fn refuse(conn: &Connection, peer: &MeshPeer, broken: Broken, now: Now) -> Refused {
    let Broken { error, seen, garbage } = broken;
    conn.worker().metrics.context_verified(error.reason());
    if garbage {
        conn.worker().failures.borrow_mut().count(peer.id(), now);
    }
    let detail = match seen {
        Some(seen) => format!("{error}: {seen}"),
        None => error.to_string(),
    };
    let refused = Refused::new(of_verify_error(&error), Stage::Context, detail);
    let VerifyError::HopCertUnknown { thumbprints } = &error else { return refused };
    match HeaderValue::try_from(certs::write_thumbprints(thumbprints)) {
        Ok(missing) => refused.answering(CERTS, missing),
        Err(_) => refused,
    }
}

fn check(
    conn: &Connection,
    peer: &MeshPeer,
    token: &[u8],
    head: &Head,
    (snap, now): (&Snapshot, Now),
) -> Result<(Arc<Verified<RequestContext>>, Path), Broken> {
    let chains = snap.chains();
    let with = snap.verifying(&chains, UnixTime(now.secs()));
    let verified = conn.worker().tokens.borrow_mut().verify(token, snap.generation, &with);
    let (verified, cache) = verified?;
    conn.worker().metrics.cache(match cache {
        CacheResult::Hit => CacheUse::Hit,
        CacheResult::Miss => CacheUse::Miss,
    });
    check_presenter(&snap.presenters, snap.trust_domain(), peer.id(), head.path.path())?;
    let me = conn.own_id.as_ref().ok_or(VerifyError::KeysUnavailable)?;
    let from = Holder { peer, believed_at: conn.believed_at };
    let shown = (&head.presented.hops, &head.presented.certs);
    let path = custody::prove(conn.worker(), (from, me), (&verified, shown), (snap, now))?;
    Ok((verified, path))
}
