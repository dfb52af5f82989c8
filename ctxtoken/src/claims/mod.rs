//! What a context token says, as typed values, and the rules each value keeps to.
//!
//! [`RequestContext`] is read from a token (`read`) and written into one (`write`) through the
//! same rules (`rules`), so nothing can be minted that a verifier refuses. These are no serde
//! types: the JSON names and shapes live in `read` and `write` only.

mod rctx;
mod read;
mod rules;
mod shown;
mod subject;
mod tctx;
mod write;

pub use rctx::{
    Approval, Device, DeviceSource, IngressWorkload, IpSource, Justification, Origin, Rctx,
    SenderConstraint, TlsFacts,
};
pub use shown::{shown, shown_names};
pub use subject::{Subject, UserName};
pub use tctx::Tctx;

pub(crate) use read::{GrantClaims, Near, parse, parse_grant};
pub(crate) use rules::{check_body, check_requesters, check_scope, check_txn, is_scope_name};
pub(crate) use write::{Envelope, GrantEnvelope, write, write_grant};

use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::UnixTime;

/// A JSON object whose members configuration chose: extra claims, facts, parameters.
pub type JsonMap = serde_json::Map<String, serde_json::Value>;

/// Everything a token says. Worth something only inside a [`Verified`](crate::Verified).
#[derive(Debug, Clone, PartialEq)]
pub struct RequestContext {
    /// Who signed.
    pub iss: WorkloadId,
    /// The trust domain the token is for.
    pub aud: TrustDomain,
    /// When it was signed.
    pub iat: UnixTime,
    /// When it ends.
    pub exp: UnixTime,
    /// Not to be used before, where the issuer says so.
    pub nbf: Option<UnixTime>,
    /// The transaction, the same in every token of one transaction.
    pub txn: String,
    /// This token, 22 characters.
    pub jti: String,
    /// On whose behalf the request is made.
    pub sub: Subject,
    /// What the transaction is for; never empty, no name twice.
    pub scope: Vec<String>,
    /// The workload where the request entered the mesh.
    pub req_wl: WorkloadId,
    /// The environment the minting side saw.
    pub rctx: Rctx,
    /// What must stay true along the path.
    pub tctx: Tctx,
    /// The worker that acts for the subject: asynchronous work and impersonation only.
    pub act: Option<WorkloadId>,
}
