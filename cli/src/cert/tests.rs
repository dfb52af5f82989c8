//! Files in, report out.

use countersign_cli::dev::authority::{Ca, Issued};
use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{Kind, Report, inspect_file};

const NOW: u64 = 1_800_000_000;

fn authority() -> Ca {
    Ca::new(TrustDomain::parse("demo.test").unwrap(), NOW).unwrap()
}

fn orders(ca: &Ca) -> Issued {
    let id = WorkloadId::new(ca.trust_domain(), "shop", "orders").unwrap();
    ca.issue(&id, 3600, NOW).unwrap()
}

fn inspect(bytes: impl AsRef<[u8]>, bundle: Option<&str>, now: u64) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let (file, trust) = (folder.path().join("file"), folder.path().join("trust"));
    std::fs::write(&file, bytes).unwrap();
    let bundle = bundle.map(|text| {
        std::fs::write(&trust, text).unwrap();
        trust.as_path()
    });
    inspect_file(&file, bundle, now).unwrap()
}

fn reasons(report: &Report) -> Vec<&'static str> {
    report.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn a_good_identity_has_no_problems_as_pem_or_der() {
    let ca = authority();
    let issued = orders(&ca);
    let report = inspect(issued.pem(), Some(&ca.bundle_pem()), NOW);
    assert_eq!(report.spiffe_id.as_deref(), Some("spiffe://demo.test/ns/shop/sa/orders"));
    assert_eq!((report.seconds_left, reasons(&report)), (Some(3600), vec![]));
    assert!(report.trust.is_some());
    assert!(report.to_text().contains("time left  60 min"), "{}", report.to_text());
    assert_eq!(reasons(&inspect(&issued.certificate, None, NOW)), [""; 0]);
}

#[test]
fn every_problem_is_named() {
    let (ca, other) = (authority(), authority());
    let (issued, stranger) = (orders(&ca), orders(&ca));
    let late = inspect(issued.pem(), Some(&ca.bundle_pem()), NOW + 3601);
    assert_eq!(reasons(&late), ["expired"], "once, not once per check");
    assert!(late.to_text().contains("none, it ended 1 s ago"), "{}", late.to_text());

    let untrusted = inspect(issued.pem(), Some(&other.bundle_pem()), NOW);
    assert_eq!(reasons(&untrusted), ["untrusted_chain"]);

    let key = stranger.pem().split("-----BEGIN CERTIFICATE").next().unwrap().to_owned();
    let certificate = issued.pem().split_off(issued.pem().find("-----BEGIN CERT").unwrap());
    assert_eq!(reasons(&inspect(key + &certificate, None, NOW)), ["key_mismatch"]);
}

#[test]
fn a_file_of_authorities_is_a_trust_bundle() {
    let report = inspect(authority().bundle_pem(), None, NOW);
    assert_eq!((&report.kind, reasons(&report)), (&Kind::TrustBundle, vec![]));
}

#[test]
fn files_without_certificates_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let file = folder.path().join("file");
        std::fs::write(&file, text).unwrap();
        assert!(inspect_file(&file, None, NOW).is_err(), "{text:?}");
    }
}
