//! What the pool gives up when the process is short of descriptors.
//!
//! Invariant: only connections that nobody uses are closed.

use std::time::Instant;

use super::Pool;

impl Pool {
    /// Closes the older half of the idle HTTP/1 connections, for want of descriptors.
    pub fn shed_idle(&self) {
        let slots = self.slots.borrow();
        let idle = slots.values().map(|slot| slot.idle.borrow());
        let since = idle.flat_map(|idle| idle.iter().map(|one| one.since).collect::<Vec<_>>());
        let mut since: Vec<Instant> = since.collect();
        since.sort_unstable();
        let Some(median) = since.get(since.len().saturating_sub(1) / 2) else { return };
        for slot in slots.values() {
            slot.idle.borrow_mut().retain(|one| one.since > *median);
        }
    }
}
