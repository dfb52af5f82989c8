//! Files in, report out.

use std::path::Path;

use countersign_certs_client::source::workload_api::Endpoint;
use countersign_cli::dev::authority::{Ca, Issued};
use countersign_workload_id::{TrustDomain, WorkloadId};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use tempfile::TempDir;

use super::{
    advice,
    peer::PeerArgs,
    report::{Kind, Report},
    source::{self, Options, Place},
};

const NOW: u64 = 1_800_000_000;
const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

fn authority() -> Ca {
    Ca::new(TrustDomain::parse("demo.test").unwrap(), NOW).unwrap()
}

fn orders(ca: &Ca) -> Issued {
    let id = WorkloadId::new(ca.trust_domain(), "shop", "orders").unwrap();
    ca.issue(&id, 3600, NOW).unwrap()
}

/// A folder with files in it.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Files {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self
    }

    fn report(
        &self,
        name: &str,
        key: Option<&str>,
        trust: Option<&str>,
        expect: Option<&str>,
        now: u64,
    ) -> anyhow::Result<Report> {
        let path = |name: &str| self.0.path().join(name);
        let peer = PeerArgs::default();
        let options = Options::new(key.map(path), trust.map(path), expect, &peer)?;
        let place = Place::parse(path(name).to_str().unwrap())?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(source::look(&place, &options))?;
        Report::of(&found, &options, now)
    }
}

fn inspect(bytes: impl AsRef<[u8]>, trust: Option<&str>, now: u64) -> Report {
    let files = Files::new().with("file", bytes).with("trust", trust.unwrap_or_default());
    files.report("file", None, trust.map(|_| "trust"), None, now).unwrap()
}

fn reasons(report: &Report) -> Vec<&'static str> {
    report.problems.iter().map(|problem| problem.reason).collect()
}

fn parts(issued: &Issued) -> (String, String) {
    let mut key = issued.pem();
    let certificate = key.split_off(key.find("-----BEGIN CERT").unwrap());
    (key, certificate)
}

#[test]
fn a_good_identity_has_no_problems_as_pem_or_der() {
    let ca = authority();
    let issued = orders(&ca);
    let report = inspect(issued.pem(), Some(&ca.bundle_pem()), NOW);
    assert_eq!(report.spiffe_id.as_deref(), Some(ORDERS));
    assert_eq!((report.seconds_left, reasons(&report)), (Some(3600), vec![]));
    let text = report.to_text();
    for said in [
        "time left  60 min (1 % of its life is over)",
        "vouched for by",
        "key        ECDSA P-256, belongs to the certificate",
        "names    URI:spiffe://demo.test/ns/shop/sa/orders",
        "no problems",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    assert!(report.to_answer().starts_with(&format!("yes: {ORDERS}, vouched for by")));
    assert_eq!(reasons(&inspect(&issued.certificate, None, NOW)), [""; 0]);
    let late = inspect(issued.pem(), None, NOW + 3000);
    assert!(late.to_text().contains("should have been replaced by now"), "{}", late.to_text());
}

#[test]
fn every_problem_is_named() {
    let (ca, other) = (authority(), authority());
    let (issued, stranger) = (orders(&ca), orders(&ca));
    let late = inspect(issued.pem(), Some(&ca.bundle_pem()), NOW + 3601);
    assert_eq!(reasons(&late), ["expired"], "once, not once per check");
    assert!(late.to_text().contains("none, it ended 1 s ago"), "{}", late.to_text());
    assert!(late.to_text().contains("cmctl renew"), "{}", late.to_text());
    assert!(late.to_answer().starts_with("no: spiffe://demo.test"), "{}", late.to_answer());

    let untrusted = inspect(issued.pem(), Some(&other.bundle_pem()), NOW);
    assert_eq!(reasons(&untrusted), ["untrusted_chain"]);

    let ((key, _), (_, certificate)) = (parts(&stranger), parts(&issued));
    assert_eq!(reasons(&inspect(key + &certificate, None, NOW)), ["key_mismatch"]);
    let no_authority = inspect(issued.pem(), Some(&certificate), NOW);
    assert_eq!(reasons(&no_authority), ["bad_bundle"]);
}

#[test]
fn what_an_authority_got_wrong_comes_with_its_fix() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::DnsName("orders.shop".try_into().unwrap())];
    let certificate = params.self_signed(&key).unwrap().pem();
    let report = inspect(key.serialize_pem() + &certificate, None, NOW);
    assert_eq!(reasons(&report), ["bad_san", "bad_key_usage", "bad_key"]);
    let text = report.to_text();
    for said in [
        "no SPIFFE ID",
        "names    DNS:orders.shop",
        "Certificate: `uris: [",
        "`allowed_uri_sans`",
        "`keyUsage = critical,digitalSignature`",
        "workload_x509_svid_key_type",
        "`keyType: ECDSAP256`",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

/// Each reason a proxy can give has something to do about it.
#[test]
fn every_reason_has_a_fix() {
    use countersign_certs_client::SvidError;
    let unfixable = ["bad_certificate", "no_certificate"];
    for reason in SvidError::REASONS.into_iter().filter(|reason| !unfixable.contains(reason)) {
        assert!(!advice::fixes(reason).is_empty(), "{reason}");
    }
    for reason in ["bad_bundle", "bad_key", "key_mismatch", "san_not_critical"] {
        assert!(!advice::fixes(reason).is_empty(), "{reason}");
    }
    assert!(advice::fixes("no such reason").is_empty());
}

#[test]
fn an_identity_is_compared_with_the_one_expected() {
    let ca = authority();
    let files = Files::new().with("id", orders(&ca).pem()).with("trust", ca.bundle_pem());
    let expecting = |expect| files.report("id", None, Some("trust"), Some(expect), NOW);
    for good in [ORDERS, "spiffe://demo.test/ns/shop/**", "spiffe://demo.test/ns/*/sa/orders"] {
        assert_eq!(reasons(&expecting(good).unwrap()), [""; 0], "{good}");
    }
    for bad in ["spiffe://demo.test/ns/shop/sa/order", "spiffe://other.test/ns/shop/**"] {
        assert_eq!(reasons(&expecting(bad).unwrap()), ["unexpected_identity"], "{bad}");
    }
    assert!(expecting("orders").is_err(), "not a SPIFFE ID");
}

#[test]
fn a_folder_is_known_by_its_files() {
    let ca = authority();
    let issued = orders(&ca);
    let (key, certificate) = parts(&issued);
    let trust = ca.bundle_pem();
    let folders = [
        Files::new().with("tls.crt", &certificate).with("tls.key", &key).with("ca.crt", &trust),
        Files::new().with("identity.pem", issued.pem()).with("trust.pem", &trust),
        Files::new()
            .with("svid.pem", &certificate)
            .with("svid_key.pem", &key)
            .with("svid_bundle.pem", &trust),
        Files::new()
            .with("cert-chain.pem", certificate.clone() + &trust)
            .with("key.pem", &key)
            .with("root-cert.pem", &trust),
    ];
    for folder in folders {
        let report = folder.report(".", None, None, None, NOW).unwrap();
        assert_eq!(reasons(&report), [""; 0], "{}", report.to_text());
        let text = report.to_text();
        assert!(text.contains("identity: {source: {files: {certificate: "), "{text}");
        assert!(text.contains("vouched for by"), "{text}");
    }
    let two = Files::new().with("tls.crt", &certificate).with("tls.key", parts(&orders(&ca)).0);
    let report = two.with("ca.crt", &trust).report(".", None, None, None, NOW).unwrap();
    assert_eq!(reasons(&report), ["key_mismatch"]);
    let error = Files::new().with("x", "").report(".", None, None, None, NOW).unwrap_err();
    assert!(error.to_string().contains("none of tls.crt, cert-chain.pem"), "{error}");
}

#[test]
fn a_key_may_be_in_a_file_of_its_own() {
    let ca = authority();
    let (key, certificate) = parts(&orders(&ca));
    let files = Files::new().with("cert", certificate).with("key", key).with("none", "no key");
    let with_key = |key| files.report("cert", Some(key), None, None, NOW).unwrap();
    assert_eq!(reasons(&with_key("key")), [""; 0]);
    assert_eq!(reasons(&with_key("none")), ["bad_key"]);
}

#[test]
fn a_place_is_told_by_what_is_there() {
    let files = Files::new().with("a:1", "");
    let path = files.0.path().join("a:1");
    assert_eq!(Place::parse(path.to_str().unwrap()).unwrap(), Place::File(path));
    for (text, host) in [("10.0.0.7:15006", "10.0.0.7"), ("[::1]:15006", "::1"), ("db:15006", "db")]
    {
        assert_eq!(Place::parse(text).unwrap(), Place::Peer(host.to_owned(), 15006), "{text}");
    }
    for text in ["identity.pem", "no/such:80", ":80", "host:http"] {
        assert_eq!(Place::parse(text).unwrap(), Place::File(Path::new(text).to_owned()), "{text}");
    }
    let socket = Endpoint::Unix("/run/agent.sock".into());
    assert_eq!(Place::parse("unix:///run/agent.sock").unwrap(), Place::Socket(socket));
    assert!(Place::parse("https://example.com").is_err());
}

#[test]
fn a_file_of_authorities_is_a_trust_bundle() {
    let report = inspect(authority().bundle_pem(), None, NOW);
    assert_eq!((&report.kind, reasons(&report)), (&Kind::TrustBundle, vec![]));
}

#[test]
fn files_without_certificates_are_an_error() {
    let cut_off = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "hello", cut_off, empty] {
        let files = Files::new().with("file", text);
        assert!(files.report("file", None, None, None, NOW).is_err(), "{text:?}");
    }
    assert!(Files::new().report("nowhere", None, None, None, NOW).is_err());
}
