//! What is signed has the form every proxy demands, and nothing else is signed.

use std::sync::Arc;

use countersign_certs_client::location::Location;
use countersign_certs_client::svid::{self, Usage};
use countersign_certs_client::{Bundle, TrustBundles, csr};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::authority::{Authority, AuthorityError};
use super::super::csr::parse;
use super::super::decide::Grant;
use super::{domain, key, orders};

/// Inside the life that rcgen gives by default.
const NOW: u64 = 1_795_000_000;

pub(super) fn params(name: &str, usages: Vec<KeyUsagePurpose>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages;
    params.not_after = rcgen::date_time_ymd(2026, 12, 31);
    params
}

fn grant(life_s: u64) -> Grant {
    let csr = parse(csr::request(&key(), Some(&orders())).unwrap().pem.as_bytes()).unwrap();
    let location = Location { region: Some("eu".to_owned()), ..Location::default() };
    Grant { id: orders(), spki: csr.spki, life_s, location }
}

fn bundles(root: &CertificateDer<'static>) -> TrustBundles {
    let bundle = Bundle::from_certificates(vec![root.clone()]).unwrap();
    TrustBundles::from_iter([(domain(), bundle)])
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_leaf_has_the_form_that_is_demanded() {
    let ca = KeyPair::generate().unwrap();
    let root = params("root", vec![KeyUsagePurpose::KeyCertSign]).self_signed(&ca).unwrap();
    let root = root.der().clone();
    let authority = Authority::new(domain(), Arc::new(ca), vec![root.clone()], None).unwrap();
    let leaf = authority.sign(&grant(3600), NOW).unwrap();
    assert_eq!(leaf.not_after, NOW + 3600);
    let chain = chain(&leaf.pem);
    assert_eq!(chain.len(), 1, "the root does not travel");
    for usage in [Usage::TlsClient, Usage::TlsServer] {
        let svid = svid::validate(&chain, &bundles(&root), usage, svid::unix_time(NOW)).unwrap();
        assert_eq!(svid.id, orders());
    }
    let location = svid::location(&chain[0]).unwrap().unwrap();
    assert_eq!((location.region.as_deref(), location.pod_uid), (Some("eu"), None));
    let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0);
    assert!(parsed.subject_alternative_name().unwrap().unwrap().critical);
    assert_eq!(parsed.raw_serial().len(), 16);
    assert_eq!(parsed.validity().not_before.timestamp() as u64, NOW - 60);
    assert_eq!(leaf.serial.len(), 32);
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let ca = KeyPair::generate().unwrap();
    let root = params("root", vec![KeyUsagePurpose::KeyCertSign]).self_signed(&ca).unwrap();
    let root = root.der().clone();
    let authority = Authority::new(domain(), Arc::new(ca), vec![root], None).unwrap();
    let end = authority.not_after();
    assert_eq!(authority.sign(&grant(3600), end - 100).unwrap().not_after, end);
    assert!(matches!(authority.sign(&grant(3600), end + 1), Err(AuthorityError::Refused(_))));
}

#[test]
fn an_intermediate_travels_and_its_root_does_not() {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root_params = params("root", vec![KeyUsagePurpose::KeyCertSign]);
    let root = root_params.self_signed(&root_key).unwrap().der().clone();
    let issuer = Issuer::new(root_params, root_key);
    let middle = params("middle", vec![KeyUsagePurpose::KeyCertSign]);
    let middle = middle.signed_by(&key, &issuer).unwrap().der().clone();
    let authority = Authority::new(
        domain(),
        Arc::new(key),
        vec![middle.clone(), root.clone()],
        Some(vec![root.clone()]),
    )
    .unwrap();
    let chain = chain(&authority.sign(&grant(600), NOW).unwrap().pem);
    assert_eq!(chain[1..], [middle]);
    let now = svid::unix_time(NOW);
    assert!(svid::validate(&chain, &bundles(&root), Usage::TlsClient, now).is_ok());
    assert_eq!(authority.roots_pem().matches("BEGIN").count(), 1);
}

#[test]
fn an_authority_that_cannot_sign_is_said() {
    let (ca, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params("root", usages.clone()).self_signed(&ca).unwrap().der().clone();
    let text = |result: Result<Authority, AuthorityError>| match result {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    let misfit = Authority::new(domain(), Arc::new(other), vec![root.clone()], None);
    assert!(text(misfit).contains("the private key is not the one of the certificate"));
    assert!(text(Authority::new(domain(), Arc::new(ca), vec![], None)).contains("no certificate"));

    let key = KeyPair::generate().unwrap();
    let mut leaf = params("leaf", vec![KeyUsagePurpose::DigitalSignature]);
    leaf.is_ca = IsCa::ExplicitNoCa;
    let leaf = leaf.self_signed(&key).unwrap().der().clone();
    let none = Authority::new(domain(), Arc::new(key), vec![leaf], None);
    assert!(text(none).contains("not a certificate authority"));
}
