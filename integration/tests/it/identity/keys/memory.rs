//! Where private keys are: the memory of running proxies, searched for the scalars of their keys.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};

use countersign_integration::pki::Leaf;
use countersign_integration::{Proxy, wait};

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

    assert!(copies(&control, &scalar(&control_key)) > 0, "the search finds no key at all");
    for (proxy, leaf) in [
        (&gateway, on.lab.gateway.leaf().clone()),
        (&orders, leaf_of(on.lab.folder(), "shop.orders.id")),
    ] {
        assert_eq!(copies(proxy, &scalar(&leaf)), 0, "a key left its token");
    }
    // The proxies still sign with these keys, or the search would prove nothing.
    alice_reads_her_orders(&on.lab, &gateway).await;
    wait::until_true("both lived through it", || {
        gateway.process.exit_status().is_none() && orders.process.exit_status().is_none()
    })
    .await;
}

/// The private number of a P-256 key, from its PKCS#8 form.
fn scalar(leaf: &Leaf) -> [u8; 32] {
    // ECPrivateKey: version 1, then an OCTET STRING of 32 bytes.
    let head = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = leaf.key.windows(head.len()).position(|window| window == head).unwrap() + head.len();
    leaf.key[at..at + 32].try_into().unwrap()
}

/// How often a number is in the memory of a process, in either byte order: big numbers are kept
/// as machine words.
fn copies(proxy: &Proxy, number: &[u8; 32]) -> usize {
    let id = proxy.process.id();
    let mut reversed = *number;
    reversed.reverse();
    let mut memory = File::open(format!("/proc/{id}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    let mut found = 0;
    let mut searched = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        let special = fields.nth(3).is_some_and(|name| name.starts_with("[v"));
        if !rights.starts_with('r') || special {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) =
            (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        memory.seek(SeekFrom::Start(from)).unwrap();
        let mut bytes = Vec::new();
        // A mapping that shrank meanwhile gives what is left of it.
        let _ = (&mut memory).take(to - from).read_to_end(&mut bytes);
        searched += bytes.len();
        found += bytes
            .windows(32)
            .filter(|window| *window == number.as_slice() || *window == reversed.as_slice())
            .count();
    }
    assert!(searched > 1 << 20, "only {searched} bytes could be read");
    found
}
