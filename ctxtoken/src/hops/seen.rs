//! Records whose signature was checked before. A workload that calls several times for one request
//! sends the same older records each time.

use std::{cell::RefCell, fmt};

use quick_cache::unsync::Cache;

/// Hashes of verified records, for one worker. A record names its key by the hash of a certificate
/// and holds its own signature, so that what was true of these bytes stays true; whether the
/// certificate still counts is asked for every request. Only verified records get in, so nobody
/// without a certificate of the mesh can fill it.
pub struct VerifiedHops(RefCell<Cache<[u8; 32], ()>>);

impl VerifiedHops {
    /// Room for so many records.
    pub fn new(records_max: usize) -> Self {
        Self(RefCell::new(Cache::new(records_max)))
    }

    pub(super) fn contains(&self, record_sha256: &[u8; 32]) -> bool {
        self.0.borrow().get(record_sha256).is_some()
    }

    pub(super) fn insert(&self, record_sha256: [u8; 32]) {
        self.0.borrow_mut().insert(record_sha256, ());
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for VerifiedHops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedHops({})", self.len())
    }
}
