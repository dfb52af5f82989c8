//! What connections are judged by while they live: the other end's certificate, and for opaque
//! ones the facts policy decided on.
//!
//! Invariant: the facts are those the connection was opened with; only the time, the snapshot and
//! what was revoked since are new.

use countersign_policy::{Decision, DenyReason, InputOwned, Outcome};

use crate::clock::Now;
use crate::live::Snapshot;
use crate::outbound::reached::Reached;
use crate::registry::{
    Against, EndReason, Judged, ORDINARY_MS, Registered, Registry, Standing, Verdict, Watch,
};
use crate::tls::peer::{MeshPeer, Peer};
use crate::worker::Worker;

/// A connection whose requests are judged one by one.
struct OfPeer(Option<MeshPeer>);

/// A connection that this end opened for requests.
struct OfCallee(MeshPeer);

/// An opaque connection.
struct Opaque {
    peer: Option<MeshPeer>,
    input: Box<InputOwned>,
}

/// Registers a connection that carries requests. It ends, with grace, with the certificates of
/// either end.
pub fn connection(worker: &Worker, peer: &Peer, snap: &Snapshot) -> Registered {
    let peer = peer.mesh().cloned();
    worker.registry.register(Watch {
        generation: snap.generation,
        since: Now::read(),
        certificate_ends: certificate_ends(peer.as_ref(), snap),
        allowance_s: 0,
        valid_until_ms: None,
        judged: OfPeer(peer),
    })
}

/// Registers an opaque connection from a peer, with what policy decided on. `decision` is the one
/// that allowed it, made with `snap`.
pub fn opaque(
    worker: &Worker,
    peer: &Peer,
    input: InputOwned,
    decision: &Decision,
    snap: &Snapshot,
) -> Registered {
    let peer = peer.mesh().cloned();
    worker.registry.register(Watch {
        generation: snap.generation,
        since: Now::read(),
        certificate_ends: certificate_ends(peer.as_ref(), snap),
        allowance_s: after_peer_expiry_s(worker),
        valid_until_ms: decision.valid_until.and_then(|ms| u64::try_from(ms).ok()),
        judged: Opaque { peer, input: Box::new(input) },
    })
}

/// Registers an opaque connection that this end opened to `callee`.
pub fn opaque_to(
    worker: &Worker,
    callee: &MeshPeer,
    reached: Reached,
    snap: &Snapshot,
) -> Registered {
    worker.registry.register(Watch {
        generation: snap.generation,
        since: Now::read(),
        certificate_ends: certificate_ends(Some(callee), snap),
        allowance_s: after_peer_expiry_s(worker),
        valid_until_ms: None,
        judged: reached,
    })
}

/// Registers what leads somewhere for as long as the documents say the same of it.
pub fn reached(registry: &Registry, reached: Reached, generation: u64) -> Registered {
    registry.register(Watch {
        generation,
        since: Now::read(),
        certificate_ends: None,
        allowance_s: 0,
        valid_until_ms: None,
        judged: reached,
    })
}

/// Registers a connection that this end opened to `callee` for requests. How long it is used is the
/// pool's business; it ends at once when the callee no longer counts, or, if its authority was
/// replaced by another one, when requests had a moment to end.
pub fn callee(registry: &Registry, callee: &MeshPeer, generation: u64) -> Registered {
    registry.register(Watch {
        generation,
        since: Now::read(),
        certificate_ends: None,
        allowance_s: 0,
        valid_until_ms: None,
        judged: OfCallee(callee.clone()),
    })
}

/// Both ends must hold a certificate.
fn certificate_ends(peer: Option<&MeshPeer>, snap: &Snapshot) -> Option<u64> {
    let own = snap.identity().map(|me| me.not_after);
    peer.map(|peer| own.map_or(peer.not_after(), |own| own.min(peer.not_after())))
}

/// How long an opaque connection may outlive certificates.
fn after_peer_expiry_s(worker: &Worker) -> u64 {
    worker.shared.config.tcp.after_peer_expiry_s
}

/// Whether the certificate behind a connection still counts.
///
/// # Errors
/// Which revocation hits it, or that no authority vouches for it any longer.
pub fn peer_counts(peer: Option<&MeshPeer>, against: &Against<'_>) -> Result<(), Verdict> {
    let Some(peer) = peer else { return Ok(()) };
    if let Some(by) = peer.revoked(against.snap, against.now) {
        return Err(EndReason::Revoked(by).into());
    }
    if against.trust_shrank && !peer.is_vouched_for(&against.snap.bundles, against.now) {
        return Err(EndReason::Revoked("authority").into());
    }
    Ok(())
}

/// Whether a callee that was sent a request still counts; an answer may be under way. Its authority
/// may only have made room for another one, of which the callee long has a certificate: this end
/// learns of that with its next connection. No new request gets this one.
///
/// # Errors
/// As [`peer_counts`], a moment later if nothing else is wrong.
pub fn callee_counts(callee: &MeshPeer, against: &Against<'_>) -> Result<(), Verdict> {
    peer_counts(Some(callee), against).map_err(|verdict| {
        let Against { snap, now, .. } = *against;
        let others = snap.bundles.get(callee.id().trust_domain());
        let replaced = others.is_some_and(|others| !others.certificates().is_empty());
        let revoked = callee.revoked(snap, now).is_some();
        let spared = replaced && !revoked && snap.identity().is_some();
        Verdict { spares_ms: if spared { ORDINARY_MS } else { 0 }, ..verdict }
    })
}

/// What a decision made again says.
///
/// # Errors
/// The denial.
pub fn of_decision(decision: Decision) -> Result<Standing, Verdict> {
    match decision.outcome {
        Outcome::Allow => {
            let until = decision.valid_until.and_then(|ms| u64::try_from(ms).ok());
            Ok(Standing { valid_until_ms: until })
        }
        Outcome::Deny(reason) => {
            Err(Verdict { decision: Some(decision), ..EndReason::Policy(reason).into() })
        }
    }
}

impl Judged for OfPeer {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        peer_counts(self.0.as_ref(), against)?;
        Ok(Standing::default())
    }
}

impl Judged for OfCallee {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        callee_counts(&self.0, against)?;
        Ok(Standing::default())
    }
}

impl Judged for Opaque {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        peer_counts(self.peer.as_ref(), against)?;
        let mut input = self.input.as_input();
        // Rules that look into requests have come since: it would not be let in any more.
        if against.snap.policy.has_l7_rules(input.port) {
            return Err(EndReason::Policy(DenyReason::Unknown).into());
        }
        input.now_ms = i64::try_from(against.now.millis()).unwrap_or(i64::MAX);
        of_decision(against.snap.policy.decide(&input))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_certs_client::{Certs, TrustBundles};

    use super::*;
    use crate::registry::tests::Snapshots;
    use crate::tls::peer::tests::{NOW, at, peer, root, trusted};

    /// Without an identity of its own, or anybody left to vouch for the callee, a process does not
    /// wait for answers.
    #[test]
    fn who_lost_more_than_one_authority_spares_nothing() {
        let callee = OfCallee(peer(&root("gone")));
        for left in [TrustBundles::new(), trusted(&root("there"))] {
            let certs = Certs { bundles: Arc::new(left), ..Certs::default() };
            let snap = &Snapshots::new().of(certs);
            let against = Against { snap, trust_shrank: true, now: at(NOW) };
            let verdict = callee.judge(&against).unwrap_err();
            assert_eq!((verdict.reason, verdict.spares_ms), (EndReason::Revoked("authority"), 0));
        }
    }
}
