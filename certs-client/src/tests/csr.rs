//! Requests for certificates: what they say, and that the key of the request has signed them.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use super::authority::{ORDERS, id};
use crate::{KeyMaker, csr};

#[test]
fn a_request_names_the_key_and_the_expected_identity_and_nothing_else() {
    let key = KeyMaker::Software.make().unwrap();
    let made = csr::request(&key, Some(&id(ORDERS))).unwrap();
    assert!(made.pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{}", made.pem);
    let (rest, parsed) = X509CertificationRequest::from_der(&made.der).unwrap();
    assert!(rest.is_empty());
    let info = &parsed.certification_request_info;
    assert_eq!(info.subject.iter().count(), 0, "the subject is empty");
    assert_eq!(info.subject_pki.subject_public_key.data.as_ref(), key.public_key());
    let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
    let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else {
        panic!("{extensions:?}");
    };
    assert!(matches!(names.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == ORDERS));
}

#[test]
fn without_an_expected_identity_the_authority_decides_alone() {
    let key = KeyMaker::Software.make().unwrap();
    let made = csr::request(&key, None).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&made.der).unwrap();
    assert!(parsed.requested_extensions().is_none());
}

#[test]
fn the_key_of_the_request_has_signed_it() {
    // rcgen reads a request only if its signature is good.
    let key = KeyMaker::Software.make().unwrap();
    let made = csr::request(&key, Some(&id(ORDERS))).unwrap();
    assert!(rcgen::CertificateSigningRequestParams::from_der(&made.der.clone().into()).is_ok());
    let mut forged = made.der;
    *forged.last_mut().unwrap() ^= 1;
    assert!(rcgen::CertificateSigningRequestParams::from_der(&forged.into()).is_err());
}

#[test]
fn every_attempt_has_a_key_of_its_own() {
    let keys: Vec<_> = (0..8).map(|_| KeyMaker::Software.make().unwrap()).collect();
    let mut publics: Vec<&[u8]> = keys.iter().map(|key| key.public_key()).collect();
    publics.sort_unstable();
    publics.dedup();
    assert_eq!(publics.len(), 8);
}
