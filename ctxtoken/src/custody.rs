//! Custody: is the workload on the other end of the connection the one this token was handed to?
//! A token names its first holder (`rctx.to`); a stolen one is useless to everybody else.
//!
//! Here a path has at most two ends: the issuer hands the token to its first holder, and the first
//! holder uses it. Longer paths are proven by hop records, which extend [`path_end`]: it then
//! follows the records from `rctx.to` to the last `aud`.

use countersign_workload_id::WorkloadId;

use crate::{CustodyProblem, RequestContext, VerifyError};

/// Step 11, on every request: `peer` is the workload the mTLS connection proved, `me` this one.
pub fn check_custody(
    context: &RequestContext,
    peer: &WorkloadId,
    me: &WorkloadId,
) -> Result<(), VerifyError> {
    let to = &context.rctx.to;
    if peer == path_end(context) || (*peer == context.iss && to == me) {
        return Ok(());
    }
    Err(VerifyError::CustodyBroken(if *peer == context.iss {
        CustodyProblem::MadeForAnother { to: to.clone() }
    } else {
        CustodyProblem::NoPathToPeer { peer: peer.clone(), to: to.clone() }
    }))
}

/// The workload the proven path has arrived at.
fn path_end(context: &RequestContext) -> &WorkloadId {
    &context.rctx.to
}
