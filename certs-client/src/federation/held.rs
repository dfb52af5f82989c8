//! What is held of one federated trust domain, and what becomes of it when an answer comes. Pure.
//!
//! Invariants: an older document never replaces a newer one; a failure changes nothing but the
//! clock; what nobody confirmed for too long is dropped.

use std::time::Duration;

use crate::bundle_doc::BundleDoc;

/// B-3: the time between two fetches where the endpoint does not say.
const REFRESH_S: u64 = 300;

/// Bounds on the time between two fetches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// At least so many seconds.
    pub least_s: u64,
    /// At most so many seconds.
    pub most_s: u64,
}

/// What one answer did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Took {
    /// Another document is in force.
    Changed,
    /// The same document was confirmed.
    Unchanged,
    /// B-2: an older document came; the newer one stays.
    Regression {
        /// The highest sequence number so far.
        held: u64,
        /// The one that came.
        came: u64,
    },
}

/// The bundle of one domain over time.
#[derive(Debug, Default)]
pub struct Held {
    doc: Option<BundleDoc>,
    highest: Option<u64>,
    confirmed_at: Option<u64>,
}

impl Held {
    /// Starts from a bundle that an operator provided, taken as confirmed at `now`.
    pub fn starting_from(doc: BundleDoc, now: u64) -> Held {
        Held { highest: doc.sequence, doc: Some(doc), confirmed_at: Some(now) }
    }

    /// A document came from the endpoint.
    pub fn take(&mut self, doc: BundleDoc, now: u64) -> Took {
        if let (Some(held), Some(came)) = (self.highest, doc.sequence)
            && came < held
        {
            return Took::Regression { held, came };
        }
        self.highest = self.highest.max(doc.sequence);
        self.confirmed_at = Some(now);
        if self.doc.as_ref() == Some(&doc) {
            return Took::Unchanged;
        }
        self.doc = Some(doc);
        Took::Changed
    }

    /// The document in force; `None` before the first one, and once it is too old.
    pub fn in_force(&self, now: u64, max_stale_s: u64) -> Option<&BundleDoc> {
        let confirmed_at = self.confirmed_at?;
        let fresh = now.saturating_sub(confirmed_at) <= max_stale_s;
        self.doc.as_ref().filter(|_| fresh)
    }

    /// The document that came last, however old: what its endpoint is authenticated with.
    pub fn latest(&self) -> Option<&BundleDoc> {
        self.doc.as_ref()
    }

    /// When it was confirmed last, seconds since the Unix epoch.
    pub fn confirmed_at(&self) -> Option<u64> {
        self.confirmed_at
    }

    /// F-6: the time to the next fetch, after a success and after a failure alike.
    pub fn interval(&self, pace: Pace) -> Duration {
        let hint = self.doc.as_ref().and_then(|doc| doc.refresh_hint_s).unwrap_or(REFRESH_S);
        Duration::from_secs(hint.min(pace.most_s).max(pace.least_s))
    }
}
