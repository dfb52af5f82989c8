//! The wait for a record of a rule with `audit: full`.
//!
//! Invariant: whoever holds one has a record that may be written, whatever the wait says.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::audit::AuditUnavailable;

/// A record on its way to stable storage.
pub struct Syncing(pub(super) oneshot::Receiver<()>);

impl Syncing {
    /// Waits until it is there.
    ///
    /// # Errors
    /// Nobody can say whether it will ever be: it takes too long, or writing failed.
    pub async fn done(self, limit: Duration) -> Result<(), AuditUnavailable> {
        let synced = tokio::time::timeout(limit, self.0).await;
        synced.ok().and_then(Result::ok).ok_or(AuditUnavailable)
    }
}
