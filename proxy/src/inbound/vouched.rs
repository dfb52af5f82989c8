//! Whether whoever vouched for the token of a long exchange still may.
//!
//! Invariant: as at its beginning, with the lists of today: the issuer, what it may say, its key,
//! who may present the token and whom it was handed to. Only the end of the token is not looked at:
//! an exchange may outlive it.

use countersign_ctxtoken::{KeyProblem, RequestContext, UnixTime, VerifyError, VerifyWith};
use countersign_ctxtoken::{check_custody, check_presenter};

use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::context::{Context, SKEW_S, custody_of};
use crate::registry::{Against, EndReason, Verdict};

/// Whether the token of an exchange would be accepted again.
///
/// # Errors
/// `revoked/issuer_key` or `revoked/authority`.
pub(super) fn token(
    conn: &Connection,
    head: &Head,
    ctx: &Context,
    against: &Against<'_>,
) -> Result<(), Verdict> {
    let Some(token) = ctx.verified() else { return Ok(()) };
    check(conn, head, token, against).map_err(|error| EndReason::Revoked(lost(&error)).into())
}

fn check(
    conn: &Connection,
    head: &Head,
    token: &RequestContext,
    against: &Against<'_>,
) -> Result<(), VerifyError> {
    let snap = against.snap;
    let (Ok(Some(bytes)), Some(peer)) = (head.presented.token(), conn.peer().mesh()) else {
        return Err(VerifyError::PresenterRefused);
    };
    let with = VerifyWith {
        issuers: &snap.issuers,
        chains: &snap.chains(),
        trust_domain: snap.trust_domain(),
        now: UnixTime(against.now.secs().min(token.exp.0)),
        skew_s: SKEW_S,
        limits: &snap.token_limits,
    };
    let mut tokens = conn.worker().tokens.borrow_mut();
    let (token, _) = tokens.verify(bytes.as_bytes(), snap.generation, &with)?;
    check_presenter(&snap.presenters, snap.trust_domain(), peer.id(), head.path.path())?;
    if snap.custody_required {
        let me = conn.own_id.as_ref().ok_or(VerifyError::KeysUnavailable)?;
        let _custody = check_custody(&token, &custody_of(peer, me, against.now))?;
    }
    Ok(())
}

/// What is no longer there: the issuer with its key, or somebody's right to it.
fn lost(error: &VerifyError) -> &'static str {
    match error {
        VerifyError::KeyUnknown(KeyProblem::ChainInvalid(_))
        | VerifyError::PresenterRefused
        | VerifyError::CustodyBroken(_) => "authority",
        _ => "issuer_key",
    }
}
