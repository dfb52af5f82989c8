//! Whether whoever vouched for the token of a long exchange still may.
//!
//! Invariant: as at its beginning, with the lists of today: the issuer, what it may say, its key,
//! who may present the token, and who signed that it was handed to them. Only ends are not looked
//! at, of the token and of certificates: an exchange may outlive both.

use countersign_ctxtoken::{KeyProblem, RequestContext, UnixTime, VerifyError, check_presenter};

use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::context::Context;
use crate::inbound::crossing;
use crate::inbound::custody::Path;
use crate::registry::{Against, EndReason, Verdict};

/// Whether the token of an exchange would be accepted again.
///
/// # Errors
/// `revoked/issuer_key`, `revoked/authority`, or what revokes an earlier holder's certificate.
pub(super) fn token(
    conn: &Connection,
    head: &Head,
    ctx: &Context,
    against: &Against<'_>,
) -> Result<(), Verdict> {
    let Context::Verified { token, path } = ctx else { return Ok(()) };
    check(conn, head, (token, path), against).map_err(|error| EndReason::Revoked(lost(&error)))?;
    holders(path, against).map_err(|by| EndReason::Revoked(by).into())
}

fn check(
    conn: &Connection,
    head: &Head,
    (token, path): (&RequestContext, &Path),
    against: &Against<'_>,
) -> Result<(), VerifyError> {
    let snap = against.snap;
    let (Ok(Some(bytes)), Some(peer)) = (head.presented.token(), conn.peer().mesh()) else {
        return Err(VerifyError::PresenterRefused);
    };
    let until = UnixTime(against.now.secs().min(token.iat.0));
    if path.minted.is_some() {
        return crossing::again(conn, peer, bytes.as_bytes(), (snap, until));
    }
    let chains = snap.chains();
    let with = snap.verifying(&chains, UnixTime(against.now.secs().min(token.exp.0)));
    let mut tokens = conn.worker().tokens.borrow_mut();
    tokens.verify(bytes.as_bytes(), snap.generation, &with)?;
    check_presenter(&snap.presenters, snap.trust_domain(), peer.id(), head.path.path())
}

/// The path itself cannot change; what it rests on can: that custody is not demanded, or the
/// certificates of earlier holders.
fn holders(path: &Path, against: &Against<'_>) -> Result<(), &'static str> {
    let Against { snap, trust_shrank, now } = *against;
    if !snap.custody_required {
        return Ok(());
    }
    if !path.custody.proven {
        return Err("custody");
    }
    let lost = path.signers.iter().find_map(|signer| signer.lost(snap, trust_shrank, now));
    lost.map_or(Ok(()), Err)
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
