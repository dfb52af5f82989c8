//! Bundles and bundle maps: read whole or refused whole.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::authority::{ORDERS, TestCa, domain, pem};
use crate::{Bundle, BundleError, bundle_map};

#[test]
fn concatenated_der_and_pem_give_the_same_bundle() {
    let (one, two) = (TestCa::new("demo.test"), TestCa::new("demo.test"));
    let der = [one.certificate.as_ref(), two.certificate.as_ref()].concat();
    let text = pem(&one.certificate) + "a line between\n" + &pem(&two.certificate);
    let bundle = Bundle::from_concatenated_der(&der).unwrap();
    assert_eq!(bundle.certificates().len(), 2);
    assert_eq!(Bundle::from_pem(text.as_bytes()).unwrap(), bundle);
}

#[test]
fn a_bundle_holds_authorities_and_nothing_else() {
    let ca = TestCa::new("demo.test");
    let leaf = ca.leaf(ORDERS, |_| {}).certificate;
    let mixed = Bundle::from_certificates(vec![ca.certificate.clone(), leaf]);
    assert_eq!(mixed, Err(BundleError::NotAnAuthority { position: 2 }));
    assert_eq!(Bundle::from_concatenated_der(&[]), Err(BundleError::Empty));
    assert_eq!(Bundle::from_pem(b"no section"), Err(BundleError::Empty));
    let mut cut = ca.certificate.to_vec();
    cut.pop();
    assert!(matches!(
        Bundle::from_concatenated_der(&cut),
        Err(BundleError::BadCertificate { position: 1, .. })
    ));
}

fn map(keys: &str) -> String {
    format!(r#"{{"trust_domains": {{"demo.test": {{"spiffe_sequence": 3, "keys": [{keys}]}}}}}}"#)
}

#[test]
fn a_bundle_map_is_read_by_its_rules() {
    let ca = TestCa::new("demo.test");
    let x5c = STANDARD.encode(&ca.certificate);
    let good = format!(r#"{{"use": "x509-svid", "kty": "EC", "x5c": ["{x5c}"], "x": "ignored"}}"#);
    let jwt = r#"{"use": "jwt-svid", "kty": "EC", "kid": "a"}"#;
    let unknown = r#"{"use": "tea", "kty": "EC"}, {"kty": "EC"}"#;
    let bundles = bundle_map::parse(map(&format!("{jwt}, {unknown}, {good}")).as_bytes()).unwrap();
    assert_eq!(bundles.get(&domain("demo.test")), Some(&ca.bundle()));

    for (bad, part) in [
        (map(""), "empty"),
        (map(jwt), "empty"),
        (map(r#"{"use": "x509-svid", "kty": "EC"}"#), "no x5c"),
        (map(&good.replace("\"EC\"", "\"EC\", \"kid\": \"1\"")), "kid"),
        (map(r#"{"use": "x509-svid", "kty": "EC", "x5c": ["%"]}"#), "base64"),
        (r#"{"trust_domains": {}}"#.to_owned(), "empty"),
        (
            format!(
                r#"{{"trust_domains": {{"a.test": {{"keys": [{good}]}}, "a.test": {{"keys": [{good}]}}}}}}"#
            ),
            "named twice",
        ),
        ("{".to_owned(), "EOF"),
    ] {
        let error = bundle_map::parse(bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

/// A partner whose keys are all gone is trusted no more; nothing else of the map suffers from it.
#[test]
fn b1_a_trust_domain_without_keys_in_a_map_is_one_of_which_nothing_is_valid() {
    let ca = TestCa::new("demo.test");
    let x5c = STANDARD.encode(&ca.certificate);
    let own = format!(r#"{{"keys": [{{"use": "x509-svid", "kty": "EC", "x5c": ["{x5c}"]}}]}}"#);
    let text =
        format!(r#"{{"trust_domains": {{"demo.test": {own}, "partner.test": {{"keys": []}}}}}}"#);
    let (demo, partner) = (domain("demo.test"), domain("partner.test"));
    let bundles = bundle_map::parse(text.as_bytes()).unwrap();
    assert_eq!((bundles.get(&demo), bundles.get(&partner)), (Some(&ca.bundle()), None));
    let of = |domain| crate::BundleDoc::of_file(text.as_bytes(), domain);
    assert_eq!(of(&partner).unwrap().authorities, None, "it replaces what was trusted before");
    assert_eq!(of(&demo).unwrap().authorities, Some(ca.bundle()));
    assert!(of(&domain("other.test")).is_err());
}
