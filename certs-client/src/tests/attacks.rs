//! What an attacker with a certificate, or with an authority of another domain, tries.

use countersign_workload_id::IdPattern;

use super::authority::{NOW, ORDERS, TestCa, domain, uri};
use crate::{
    SvidError, TrustBundles, Usage,
    svid::{unix_time, validate},
};

/// The ID an attacker gets away with, or the reason it was refused.
fn presents(ca: &TestCa, names: &[&str], trust: &TrustBundles) -> Result<String, &'static str> {
    let leaf = ca.leaf(ORDERS, |params| {
        params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
    });
    validate(&[leaf.certificate], trust, Usage::TlsClient, unix_time(NOW))
        .map(|svid| svid.id.to_string())
        .map_err(|error| error.reason())
}

#[test]
fn attack_registers_prefix_sibling_identity() {
    let ca = TestCa::new("demo.test");
    let allowed = IdPattern::parse("spiffe://demo.test/service/pay").unwrap();
    let below = IdPattern::parse("spiffe://demo.test/service/pay/**").unwrap();
    let sibling = presents(&ca, &["spiffe://demo.test/service/payroll-attacker"], &ca.bundles());
    let sibling = super::authority::id(&sibling.unwrap());
    assert!(!allowed.matches(&sibling), "its certificate is good, its name is not ours");
    assert!(!below.matches(&sibling));
}

#[test]
fn attack_escapes_identity_path_with_dots() {
    let ca = TestCa::new("demo.test");
    for name in [
        "spiffe://demo.test/ns/attacker/../shop/sa/orders",
        "spiffe://demo.test/ns/shop/./sa/orders",
        "spiffe://demo.test/ns/shop/sa/..",
        "spiffe://demo.test//ns/shop/sa/orders",
        "spiffe://demo.test/ns/shop/sa/orders/",
    ] {
        assert_eq!(presents(&ca, &[name], &ca.bundles()), Err("bad_san"), "{name}");
    }
}

#[test]
fn attack_percent_encodes_identity() {
    let ca = TestCa::new("demo.test");
    for name in [
        "spiffe://demo.test/ns/shop/sa/%6frders",
        "spiffe://demo.test/ns/attacker/%2e%2e/shop/sa/orders",
        "spiffe://demo.test/ns%2Fshop%2Fsa%2Forders",
        "spiffe://demo%2etest/ns/shop/sa/orders",
    ] {
        assert_eq!(presents(&ca, &[name], &ca.bundles()), Err("bad_san"), "{name}");
    }
}

#[test]
fn attack_reuses_path_in_other_domain() {
    let (ours, theirs) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let both = TrustBundles::from_iter([
        (domain("demo.test"), ours.bundle()),
        (domain("other.test"), theirs.bundle()),
    ]);
    let same_path = presents(&theirs, &["spiffe://other.test/ns/shop/sa/orders"], &both).unwrap();
    let rule = IdPattern::parse("spiffe://demo.test/ns/shop/**").unwrap();
    assert_ne!(same_path, ORDERS);
    assert!(!rule.matches(&super::authority::id(&same_path)), "federated, and still not ours");
}

#[test]
fn attack_presents_two_uri_sans() {
    let ca = TestCa::new("demo.test");
    let attacker = "spiffe://demo.test/ns/attacker/sa/x";
    for names in [[ORDERS, attacker], [attacker, ORDERS]] {
        assert_eq!(presents(&ca, &names, &ca.bundles()), Err("bad_san"));
    }
}

#[test]
fn attack_foreign_ca_signs_our_identity() {
    let (ours, theirs) = (TestCa::new("demo.test"), TestCa::new("other.test"));
    let both = TrustBundles::from_iter([
        (domain("demo.test"), ours.bundle()),
        (domain("other.test"), theirs.bundle()),
    ]);
    assert_eq!(presents(&theirs, &[ORDERS], &both), Err("untrusted_chain"));

    // A foreign authority that even takes over the name of ours.
    let impostor = TestCa::new("demo.test");
    assert_eq!(presents(&impostor, &[ORDERS], &both), Err("untrusted_chain"));

    // Its root sent along as if it were an intermediate of ours.
    let leaf = theirs.leaf(ORDERS, |_| {}).certificate;
    let refused =
        validate(&[leaf, theirs.certificate.clone()], &both, Usage::TlsServer, unix_time(NOW));
    assert_eq!(refused.map_err(|error| error.reason()), Err("untrusted_chain"));
}

#[test]
fn attack_leaf_of_ours_signs_another_identity() {
    let ca = TestCa::new("demo.test");
    let own = ca.intermediate("a leaf that plays authority", |params| {
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    });
    let leaf = own.leaf(ORDERS, |_| {}).certificate;
    let refused =
        validate(&[leaf, own.certificate], &ca.bundles(), Usage::TlsClient, unix_time(NOW));
    assert!(matches!(refused, Err(SvidError::BadKeyUsage(_))));
}
