//! Where private keys are: the memory of running proxies, searched for the scalars of their keys.

use countersign_integration::memory::{copies, scalar};
use countersign_integration::wait;

use super::{Vaulted, alice_reads_her_orders, leaf_of, pair};

/// A key in the token is in no byte of the proxies that signed with it; the same search finds the
/// key of a proxy that has it in a file, so it would have found the others.
#[tokio::test]
async fn attack_reads_the_key_from_the_memory_of_a_proxy() {
    let Some(on) = Vaulted::start("attack_reads_the_key_from_memory").await else { return };
    let (gateway, orders, _app) = pair(&on).await;
    for _ in 0..20 {
        alice_reads_her_orders(&on.lab, &gateway).await;
    }
    let control = on.lab.proxy("shop", "control").inbound(orders.inbound());
    let mesh = on.lab.folder().join("mesh.yaml");
    let control = control.documents(&[&mesh]).start().await;
    let control_key = leaf_of(on.lab.folder(), "shop.control.id");

    assert!(copies(&control.process, &scalar(&control_key)) > 0, "the search finds no key at all");
    for (proxy, leaf) in [
        (&gateway, on.lab.gateway.leaf().clone()),
        (&orders, leaf_of(on.lab.folder(), "shop.orders.id")),
    ] {
        assert_eq!(copies(&proxy.process, &scalar(&leaf)), 0, "a key left its token");
    }
    // The proxies still sign with these keys, or the search would prove nothing.
    alice_reads_her_orders(&on.lab, &gateway).await;
    wait::until_true("both lived through it", || {
        gateway.process.exit_status().is_none() && orders.process.exit_status().is_none()
    })
    .await;
}
