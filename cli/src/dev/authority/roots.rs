//! The roots of the authority over time: published before they sign, kept until nothing they
//! signed is left. Pure, but for the keys it makes.
//!
//! Invariant: whatever a root signs, that root is published; it was so for [`HINTS_AHEAD`] refresh
//! hints before it signed, and is until the last leaf below it has ended.

use std::sync::Arc;

use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::ca::Ca;

/// Refresh hints between publishing a root and signing with it: three to five, so that everybody
/// who asks at the hint has it, one failure included.
const HINTS_AHEAD: u64 = 4;

/// When roots change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Seconds between a root's first signature and the making of the next one; `None`: never.
    pub(super) every_s: Option<u64>,
    /// The refresh hint that goes out with the bundle, seconds.
    pub(super) hint_s: u64,
    /// Longest life of a leaf, seconds.
    pub(super) leaf_s: u64,
}

impl Pace {
    /// The shortest time between two roots: one must be gone before the next but one comes.
    pub(super) fn every_s_min(self) -> u64 {
        HINTS_AHEAD.saturating_mul(self.hint_s).saturating_add(self.leaf_s).saturating_add(1)
    }
}

/// What a look at the clock changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turned {
    /// Another root signs from now on.
    Activated,
    /// A root is published that does not sign yet.
    Published,
    /// A root is gone, with everything below it.
    Removed,
}

struct Until {
    ca: Arc<Ca>,
    at: u64,
}

/// Every root that counts.
pub(super) struct Roots {
    trust_domain: TrustDomain,
    pace: Pace,
    active: Arc<Ca>,
    since: u64,
    next: Option<Until>,
    old: Option<Until>,
    sequence: u64,
}

impl Roots {
    /// Begins with one root at `now`, seconds since the Unix epoch.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn new(trust_domain: TrustDomain, pace: Pace, now: u64) -> anyhow::Result<Roots> {
        let active = Arc::new(Ca::new(trust_domain.clone(), now)?);
        // Keys end with the process, sequence numbers must not begin anew: they are times.
        Ok(Roots { trust_domain, pace, active, since: now, next: None, old: None, sequence: now })
    }

    /// Does what is due; call it again until it says nothing.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn turn(&mut self, now: u64) -> anyhow::Result<Option<Turned>> {
        if self.old.as_ref().is_some_and(|old| old.at <= now) {
            self.old = None;
            self.changed(now);
            return Ok(Some(Turned::Removed));
        }
        if let Some(next) = self.next.take_if(|next| next.at <= now) {
            let signed_last = std::mem::replace(&mut self.active, next.ca);
            let at = now.saturating_add(self.pace.leaf_s).saturating_add(1);
            self.old = Some(Until { ca: signed_last, at });
            self.since = now;
            return Ok(Some(Turned::Activated));
        }
        let due = self.pace.every_s.is_some_and(|every| self.since.saturating_add(every) <= now);
        if due && self.next.is_none() && self.old.is_none() {
            let ca = Arc::new(Ca::new(self.trust_domain.clone(), now)?);
            let at = now.saturating_add(HINTS_AHEAD.saturating_mul(self.pace.hint_s));
            self.next = Some(Until { ca, at });
            self.changed(now);
            return Ok(Some(Turned::Published));
        }
        Ok(None)
    }

    fn changed(&mut self, now: u64) {
        self.sequence = now.max(self.sequence.saturating_add(1));
    }

    /// The root that signs.
    pub(super) fn active(&self) -> &Arc<Ca> {
        &self.active
    }

    /// Every root that counts, oldest first.
    pub(super) fn published(&self) -> Vec<CertificateDer<'static>> {
        let old = self.old.iter().map(|old| &old.ca);
        let next = self.next.iter().map(|next| &next.ca);
        let all = old.chain([&self.active]).chain(next);
        all.map(|ca| CertificateDer::from(ca.bundle_der())).collect()
    }

    /// Grows with each change of what is published.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The refresh hint, seconds.
    pub(super) fn hint_s(&self) -> u64 {
        self.pace.hint_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    /// F-8 by a clock that the test turns: what is published and who signs.
    #[test]
    fn f8_roots_are_published_early_and_removed_late() {
        let pace = Pace { every_s: Some(100), hint_s: 5, leaf_s: 30 };
        let mut roots = Roots::new("demo.test".parse().unwrap(), pace, NOW).unwrap();
        let first = roots.published();
        let mut last = (roots.sequence(), first.clone());
        let mut seen = Vec::new();
        for at in 0..=260 {
            while let Some(turned) = roots.turn(NOW + at).unwrap() {
                seen.push((at, turned));
            }
            let published = roots.published();
            let signs = CertificateDer::from(roots.active().bundle_der());
            assert!(published.contains(&signs), "at {at}");
            assert_eq!(published == last.1, roots.sequence() == last.0, "at {at}");
            assert!(roots.sequence() >= last.0, "at {at}");
            last = (roots.sequence(), published);
        }
        use Turned::{Activated, Published, Removed};
        let first_round = [(100, Published), (120, Activated), (151, Removed)];
        let second_round = [(220, Published), (240, Activated)];
        assert_eq!(seen, [first_round.as_slice(), &second_round].concat());
        assert!(!last.1.contains(&first[0]));
        assert_eq!(pace.every_s_min(), 51);
    }

    #[test]
    fn roots_that_never_change_never_do() {
        let pace = Pace { every_s: None, hint_s: 1, leaf_s: 1 };
        let mut roots = Roots::new("demo.test".parse().unwrap(), pace, NOW).unwrap();
        assert_eq!(roots.turn(u64::MAX).unwrap(), None);
        assert_eq!(roots.published().len(), 1);
    }
}
