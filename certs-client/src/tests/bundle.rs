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
        (map(""), "no x509-svid key"),
        (map(jwt), "no x509-svid key"),
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
