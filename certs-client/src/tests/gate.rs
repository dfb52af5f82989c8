//! The gate: whole or not at all.

use countersign_ctxtoken::{ChainValidator as _, UnixTime};

use super::authority::{NOW, ORDERS, TestCa, extension, id, life, san_der};
use crate::{Delivered, SigningKey, gate};

fn reason(delivered: Delivered, ca: &TestCa, expected: Option<&str>) -> &'static str {
    let expected = expected.map(id);
    match gate::admit(delivered, &ca.bundles(), expected.as_ref(), NOW) {
        Ok(_) => "admitted",
        Err(error) => error.reason(),
    }
}

#[test]
fn what_peers_would_refuse_is_not_published() {
    let ca = TestCa::new("demo.test");
    assert_eq!(reason(ca.leaf(ORDERS, |_| {}).delivered(), &ca, Some(ORDERS)), "admitted");
    let ended = ca.leaf(ORDERS, |params| life(params, NOW - 10, NOW - 1));
    assert_eq!(reason(ended.delivered(), &ca, None), "expired");
    let stranger = TestCa::new("demo.test").leaf(ORDERS, |_| {});
    assert_eq!(reason(stranger.delivered(), &ca, None), "untrusted_chain");
}

#[test]
fn the_key_must_fit_and_the_identity_must_be_the_expected_one() {
    let ca = TestCa::new("demo.test");
    let (one, two) = (ca.leaf(ORDERS, |_| {}), ca.leaf(ORDERS, |_| {}));
    let mixed = Delivered {
        chain: vec![one.certificate],
        key: SigningKey::from_pkcs8(two.key.serialized_der()).unwrap(),
        crls: Vec::new(),
    };
    assert_eq!(reason(mixed, &ca, None), "key_mismatch");
    let other = Some("spiffe://demo.test/ns/shop/sa/payments");
    assert_eq!(reason(ca.leaf(ORDERS, |_| {}).delivered(), &ca, other), "unexpected_identity");
}

#[test]
fn x8_an_empty_subject_needs_a_critical_name() {
    let ca = TestCa::new("demo.test");
    let lax = ca.leaf(ORDERS, |params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(extension(
            &[2, 5, 29, 17],
            false,
            san_der(&[ORDERS.as_bytes()]),
        ));
    });
    assert_eq!(reason(lax.delivered(), &ca, None), "san_not_critical");
    let named = ca.leaf(ORDERS, |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "SPIRE");
    });
    assert_eq!(reason(named.delivered(), &ca, None), "admitted", "as SPIRE writes them");
}

#[test]
fn signers_of_tokens_are_validated_by_the_same_rules() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {});
    let chain = [leaf.certificate.to_vec()];
    let key = ca.bundles().validate(&chain, UnixTime(NOW)).unwrap();
    assert_eq!((key.id.as_str(), key.not_after), (ORDERS, UnixTime(NOW + 3600)));
    let error = TestCa::new("other.test").bundles().validate(&chain, UnixTime(NOW)).unwrap_err();
    assert_eq!(error, "trust domain demo.test is not trusted here");
}
