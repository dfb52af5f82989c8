//! What the one writer of snapshots publishes, event by event.

use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};

use tokio::sync::watch;

use super::authority::{NOW, ORDERS, TestCa, clock, life};
use crate::{
    CertSource, Certs, State,
    source::{
        publish::Publisher,
        workload_api::{Endpoint, JwtKeys},
    },
};

fn publisher() -> (Publisher, watch::Receiver<Arc<Certs>>, Arc<AtomicU64>) {
    let endpoint = Endpoint::Unix("/nowhere".into());
    let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore };
    let (clock, hands) = clock();
    let (publisher, certs, _) = Publisher::new(&source, None, clock);
    (publisher, certs, hands)
}

/// Whichever source takes it away: what was opened in its name ends, so nobody is trusted in it.
#[test]
fn with_an_identity_that_is_withdrawn_goes_whom_it_trusted() {
    let (publisher, certs, _) = publisher();
    let ca = TestCa::new("demo.test");
    publisher.deliver(ca.leaf(ORDERS, |_| {}).delivered(), ca.bundles()).unwrap();
    publisher.withdraw_identity();
    let held = Arc::clone(&certs.borrow());
    assert!(held.identity.is_none() && held.bundles.is_empty());
    assert_eq!(publisher.state(), State::Withdrawn);
}

#[test]
fn a_certificate_for_tokens_that_ended_gives_way_to_the_identity() {
    let (publisher, certs, hands) = publisher();
    let ca = TestCa::new("demo.test");
    let identity = ca.leaf(ORDERS, |_| {});
    let signer = ca.leaf(ORDERS, |params| life(params, NOW - 60, NOW + 60));
    publisher.deliver_both(identity.delivered(), Some(signer.delivered()), ca.bundles()).unwrap();
    let signs = || {
        publisher.look_at_the_clock();
        let held = Arc::clone(&certs.borrow());
        held.token_signer().unwrap().chain_der.first().cloned()
    };
    assert_eq!(signs().as_ref(), Some(&signer.certificate));
    hands.store(NOW + 60, Ordering::Relaxed);
    assert_eq!(signs().as_ref(), Some(&signer.certificate));
    hands.store(NOW + 61, Ordering::Relaxed);
    assert_eq!(signs().as_ref(), Some(&identity.certificate));
}
