//! Verifies the context token and how it got here. Steps 1 to 11 of the verification order.
//!
//! Invariant: a token that is present and does not verify refuses the request, whatever the rules
//! say about missing ones; claims of an unverified token are read by nobody.

use std::sync::Arc;

use countersign_ctxtoken::{
    CacheResult, ChainKey, CustodyWith, HopKeys, RequestContext, UnixTime, Verified, VerifyError,
    VerifyWith, check_custody, check_presenter,
};

use countersign_workload_id::WorkloadId;

use crate::clock::Now;
use crate::http::request::{Head, of_hygiene};
use crate::inbound::accept::Connection;
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
    Verified(Arc<Verified<RequestContext>>),
    /// None came.
    Absent,
}

impl Context {
    /// The proven context, if one came.
    pub fn verified(&self) -> Option<&Arc<Verified<RequestContext>>> {
        match self {
            Context::Verified(verified) => Some(verified),
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
    match check(conn, peer, token.as_bytes(), head, snap, now) {
        Ok((verified, cache)) => {
            conn.worker().metrics.context_verified("ok");
            conn.worker().metrics.cache(match cache {
                CacheResult::Hit => CacheUse::Hit,
                CacheResult::Miss => CacheUse::Miss,
            });
            journal.context = Some(Arc::clone(&verified));
            Ok(Context::Verified(verified))
        }
        Err(error) => {
            conn.worker().metrics.context_verified(error.reason());
            if is_garbage(&error) {
                conn.worker().failures.borrow_mut().count(peer.id(), now);
            }
            Err(Refused::new(of_verify_error(&error), Stage::Context, error.to_string()))
        }
    }
}

/// Failures that only somebody who makes tokens up, or passes them on unseen, produces. A peer must
/// not be blocked for what its users can cause: an expired token, a path it may not present on.
fn is_garbage(error: &VerifyError) -> bool {
    match error {
        VerifyError::TokenMalformed(_)
        | VerifyError::TokenTooLarge { .. }
        | VerifyError::SignatureInvalid
        | VerifyError::IssuerNotAllowed
        | VerifyError::KeyUnknown(_)
        | VerifyError::AudienceWrong
        | VerifyError::ClaimInvalid { .. }
        | VerifyError::ConstraintViolated(_)
        | VerifyError::HopsMalformed(_)
        | VerifyError::HopsTooLarge { .. }
        | VerifyError::TokenDuplicated => true,
        VerifyError::CustodyBroken(_)
        | VerifyError::HopCertUnknown { .. }
        | VerifyError::KeysUnavailable
        | VerifyError::PresenterRefused
        | VerifyError::TokenExpired { .. } => false,
    }
}

/// No certificates of earlier holders are known here: only the first holder and those it calls
/// are accepted.
struct NoHopKeys;

impl HopKeys for NoHopKeys {
    fn find(&self, _: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        None
    }
}

/// What custody of a request without hop records depends on.
pub(crate) fn custody_of<'a>(peer: &'a MeshPeer, me: &'a WorkloadId, now: Now) -> CustodyWith<'a> {
    CustodyWith {
        peer: peer.id(),
        peer_leaf_sha256: peer.leaf_sha256(),
        me,
        hops: None,
        keys: &NoHopKeys,
        seen: None,
        now: UnixTime(now.secs()),
        skew_s: SKEW_S,
        required: true,
    }
}

fn check(
    conn: &Connection,
    peer: &MeshPeer,
    token: &[u8],
    head: &Head,
    snap: &Snapshot,
    now: Now,
) -> Result<(Arc<Verified<RequestContext>>, CacheResult), VerifyError> {
    let with = VerifyWith {
        issuers: &snap.issuers,
        chains: &snap.chains(),
        trust_domain: snap.trust_domain(),
        now: UnixTime(now.secs()),
        skew_s: SKEW_S,
        limits: &snap.token_limits,
    };
    let mut tokens = conn.worker().tokens.borrow_mut();
    let (verified, cache) = tokens.verify(token, snap.generation, &with)?;
    check_presenter(&snap.presenters, snap.trust_domain(), peer.id(), head.path.path())?;
    if snap.custody_required {
        let me = conn.own_id.as_ref().ok_or(VerifyError::KeysUnavailable)?;
        let _custody = check_custody(&verified, &custody_of(peer, me, now))?;
    }
    Ok((verified, cache))
}
