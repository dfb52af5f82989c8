//! `tctx`: facts of the transaction that must stay true along its whole path.

use countersign_workload_id::WorkloadId;

use super::JsonMap;
use crate::UnixTime;

/// What the transaction is: fixed when it begins, compared by later hops.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tctx {
    /// Method of the entry request.
    pub m: Option<String>,
    /// Authority of the entry request.
    pub h: Option<String>,
    /// Path template of the entry request, never the raw path.
    pub p: Option<String>,
    /// Parameters the mint rule chose.
    pub params: Option<JsonMap>,
    /// When the caller stops waiting.
    pub deadline: Option<UnixTime>,
    /// SHA-256 of the token this one replaced, base64url.
    pub parent: Option<String>,
    /// The transaction this one came out of.
    pub parent_txn: Option<String>,
    /// Earlier requesters, oldest first.
    pub req_chain: Option<Vec<WorkloadId>>,
}

impl Tctx {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
