//! The `files` source look by look: every layout that is in use, and every way to write it badly.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::{
    encoding::AsDer as _,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use tempfile::TempDir;

use super::authority::{Leaf, NOW, ORDERS, TestCa, clock, domain, life, pem};
use crate::{
    CertSource, Certs,
    source::{
        files::{Paths, Watch},
        publish::Publisher,
    },
};
use countersign_config::FilesKey;

/// A source whose looks the test makes itself, with an authority and its files.
struct Bench {
    folder: TempDir,
    ca: TestCa,
    publisher: Publisher,
    certs: tokio::sync::watch::Receiver<Arc<Certs>>,
    hands: Arc<AtomicU64>,
    paths: Paths,
    watch: Watch,
}

impl Bench {
    /// Files `id.pem` (with the key) or `id.pem` and `key.pem`, and `trust.pem`.
    fn new(key: Option<&str>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join("volume").join(name);
        fs::create_dir(folder.path().join("volume")).unwrap();
        let paths = Paths {
            certificate: path("id.pem"),
            key: key.map(path).map(FilesKey::File),
            bundle: path("trust.pem"),
        };
        let source = CertSource::Files {
            certificate: paths.certificate.clone(),
            key: None,
            bundle: paths.bundle.clone(),
        };
        let (clock, hands) = clock();
        let (publisher, certs, _) = Publisher::new(&source, None, clock);
        let ca = TestCa::new("demo.test");
        let bench = Bench { folder, ca, publisher, certs, hands, paths, watch: Watch::default() };
        bench.write("trust.pem", pem(&bench.ca.certificate));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("volume").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn leaf(&self) -> Leaf {
        self.ca.leaf(ORDERS, |_| {})
    }

    /// One look; what it refuses, in words.
    fn look(&mut self) -> Result<(), String> {
        self.watch.take(&self.publisher, &self.paths).map_err(|error| error.to_string())
    }

    /// As many looks as a change needs to be taken.
    fn settle(&mut self) -> Result<(), String> {
        self.look()?;
        self.look()
    }

    fn holds(&self, leaf: &Leaf) -> bool {
        let wanted = crate::bundle::sha256(&leaf.certificate);
        self.certs.borrow().identity.as_ref().is_some_and(|held| held.leaf_sha256 == wanted)
    }

    fn generation(&self) -> u64 {
        self.certs.borrow().generation
    }

    fn authorities(&self) -> usize {
        let certs = self.certs.borrow();
        certs.bundles.get(&self.ca.domain).map_or(0, |bundle| bundle.certificates().len())
    }
}

/// The key of a leaf as `BEGIN EC PRIVATE KEY`.
fn sec1(key: &KeyPair) -> String {
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der()).unwrap();
    let der = pair.private_key().as_der().unwrap();
    section("EC PRIVATE KEY", der.as_ref())
}

fn section(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn bundle_map(ca: &TestCa) -> String {
    let x5c = STANDARD.encode(&ca.certificate);
    format!(
        r#"{{"trust_domains": {{"{}": {{"spiffe_sequence": 1, "keys": [{{"use": "x509-svid", "kty": "EC", "x5c": ["{x5c}"]}}]}}}}}}"#,
        ca.domain
    )
}

#[test]
fn every_layout_in_use_is_read() {
    let bench = Bench::new(None);
    let intermediate = bench.ca.intermediate("intermediate", |_| {});
    let leaf = intermediate.leaf(ORDERS, |_| {});
    let (key, certificate) = (leaf.key.serialize_pem(), pem(&leaf.certificate));
    let (issuer, root) = (pem(&intermediate.certificate), pem(&bench.ca.certificate));
    let crlf = |text: &str| text.replace('\n', "\r\n");
    let one_file = [
        ("PodCertificate", format!("{key}{certificate}{issuer}")),
        ("key last", format!("{certificate}{issuer}{key}")),
        ("key between", format!("{certificate}{key}{issuer}")),
        ("the root too", format!("{key}{certificate}{issuer}{root}")),
        ("CRLF", crlf(&format!("{key}{certificate}{issuer}"))),
        ("byte order mark", format!("\u{feff}{key}{certificate}{issuer}")),
        ("comments", format!("Bag Attributes\n{key}\nsubject=\n{certificate}# issuer\n{issuer}")),
        ("SEC 1", format!("{}{certificate}{issuer}", sec1(&leaf.key))),
    ];
    for (name, text) in one_file {
        let mut fresh = Bench::new(None);
        fresh.write("trust.pem", &root);
        fresh.write("id.pem", text);
        assert_eq!(fresh.look(), Ok(()), "{name}");
        assert!(fresh.holds(&leaf), "{name}");
    }
    let two_files = [
        ("cert-manager, PKCS8", key.clone(), root.clone()),
        ("cert-manager, PKCS1", sec1(&leaf.key), root.clone()),
        ("openssl ecparam", section("EC PARAMETERS", &[5, 0]) + &sec1(&leaf.key), root.clone()),
        (
            "several roots",
            key.clone(),
            format!("{}{root}{root}", pem(&TestCa::new("b").certificate)),
        ),
        ("bundle map", key.clone(), bundle_map(&bench.ca)),
    ];
    for (name, key, trust) in two_files {
        let mut fresh = Bench::new(Some("tls.key"));
        fresh.write("trust.pem", trust);
        fresh.write("tls.key", key);
        fresh.write("id.pem", format!("{certificate}{issuer}"));
        assert_eq!(fresh.look(), Ok(()), "{name}");
        assert!(fresh.holds(&leaf), "{name}");
    }
}

#[test]
fn what_cannot_be_used_is_said_and_replaces_nothing() {
    let mut bench = Bench::new(None);
    let first = bench.leaf();
    bench.write("id.pem", first.pem());
    assert_eq!(bench.look(), Ok(()));
    let second = bench.leaf();
    let (key, certificate) = (second.key.serialize_pem(), pem(&second.certificate));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = bench.ca.leaf_for(p384, ORDERS, |_| {});
    let ended = bench.ca.leaf(ORDERS, |params| life(params, NOW - 100, NOW - 1));
    let stranger = TestCa::new("demo.test").leaf(ORDERS, |_| {});
    let other_key = first.key.serialize_pem();
    let authority_first = pem(&bench.ca.certificate) + &second.pem();
    for (text, answer) in [
        (String::new(), "the certificate file is empty"),
        ("not PEM at all".to_owned(), "the certificate file is empty"),
        (key.clone(), "the certificate file is empty"),
        (certificate.clone(), "the private key is empty"),
        (second.pem()[..second.pem().len() - 60].to_owned(), "the file is cut off"),
        (format!("{key} {certificate}"), "something before its `-----BEGIN`"),
        (other_key + &certificate, "does not belong to the certificate"),
        (section("RSA PRIVATE KEY", &[0x30, 0]) + &certificate, "openssl pkcs8 -topk8"),
        (section("ENCRYPTED PRIVATE KEY", &[0x30, 0]) + &certificate, "\"BEGIN ENCRYPTED PRIVATE"),
        (section("EC PRIVATE KEY", &[0x30, 0]) + &certificate, "not a valid PKCS#8 or SEC 1 key"),
        (p384.pem(), "ECDSA P-384; countersign needs ECDSA P-256"),
        (ended.pem(), "the certificate ended at"),
        (stranger.pem(), "no authority of its trust domain vouches"),
        (authority_first, "does not carry exactly one SPIFFE ID"),
    ] {
        bench.write("id.pem", &text);
        let refused = bench.settle().unwrap_err();
        assert!(refused.contains(answer), "{refused}\nfor {text}");
        assert!(bench.holds(&first) && bench.generation() == 1, "{answer}");
    }
    bench.write("id.pem", second.pem());
    assert_eq!(bench.settle(), Ok(()));
    assert!(bench.holds(&second));
}

#[test]
fn files_that_cannot_be_read_are_an_error_that_names_them() {
    let mut bench = Bench::new(None);
    assert!(bench.look().unwrap_err().contains("No such file"));
    fs::create_dir(bench.path("id.pem")).unwrap();
    assert!(bench.look().unwrap_err().contains("directory"));
    fs::remove_dir(bench.path("id.pem")).unwrap();
    let padding = "#\n".repeat(200 * 1024);
    bench.write("id.pem", bench.leaf().pem() + &padding);
    assert!(bench.look().unwrap_err().contains("larger than 262144 bytes"));
    assert_eq!(bench.generation(), 0);
}

#[test]
fn the_same_authorities_in_another_order_are_no_change() {
    let mut bench = Bench::new(None);
    let other = TestCa::new("demo.test");
    let (one, two) = (pem(&bench.ca.certificate), pem(&other.certificate));
    let leaf = bench.leaf();
    bench.write("id.pem", leaf.pem());
    bench.write("trust.pem", format!("{one}{two}"));
    assert_eq!(bench.look(), Ok(()));
    for text in
        [format!("{two}{one}"), format!("{one}{two}{one}"), format!("# kubelet\n{two}{one}")]
    {
        bench.write("trust.pem", text);
        assert_eq!(bench.settle(), Ok(()));
        assert_eq!((bench.generation(), bench.authorities()), (1, 2));
    }
    bench.write("trust.pem", &one);
    assert_eq!(bench.settle(), Ok(()));
    assert_eq!((bench.generation(), bench.authorities()), (2, 1));
}

#[test]
fn a_trust_file_that_is_being_written_over_costs_no_authority() {
    let mut bench = Bench::new(None);
    let other = TestCa::new("demo.test");
    let (one, two) = (pem(&bench.ca.certificate), pem(&other.certificate));
    let leaf = bench.leaf();
    bench.write("id.pem", leaf.pem());
    bench.write("trust.pem", format!("{one}{two}"));
    assert_eq!(bench.look(), Ok(()));

    bench.write("trust.pem", &one); // cut off between two sections: whole, as far as PEM goes
    assert_eq!(bench.look(), Ok(()));
    assert_eq!(bench.authorities(), 2, "seen once is not believed");
    bench.write("trust.pem", format!("{one}{two}"));
    assert_eq!(bench.settle(), Ok(()));
    assert_eq!((bench.authorities(), bench.generation()), (2, 1));
}

#[test]
fn an_authority_that_is_removed_too_early_is_not_removed() {
    let mut bench = Bench::new(None);
    let other = TestCa::new("demo.test");
    let leaf = bench.leaf();
    bench.write("id.pem", leaf.pem());
    assert_eq!(bench.look(), Ok(()));
    for trust in [pem(&other.certificate), String::new(), pem(&leaf.certificate)] {
        bench.write("trust.pem", trust);
        assert!(bench.settle().is_err());
        assert!(bench.holds(&leaf));
        assert!(bench.certs.borrow().bundles.get(&domain("demo.test")).is_some());
    }
    fs::remove_file(bench.path("trust.pem")).unwrap();
    assert!(bench.look().is_err());
    assert_eq!(bench.generation(), 1);
}

#[test]
fn a_folder_may_be_replaced_as_a_whole() {
    let mut bench = Bench::new(None);
    let (first, second) = (bench.leaf(), bench.leaf());
    bench.write("id.pem", first.pem());
    assert_eq!(bench.look(), Ok(()));
    let (volume, old) = (bench.folder.path().join("volume"), bench.folder.path().join("old"));
    fs::rename(&volume, &old).unwrap();
    assert!(bench.look().unwrap_err().contains("No such file"));
    assert!(bench.holds(&first));
    fs::create_dir(&volume).unwrap();
    bench.write("trust.pem", pem(&bench.ca.certificate));
    bench.write("id.pem", second.pem());
    assert_eq!(bench.settle(), Ok(()));
    assert!(bench.holds(&second));
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_taken_when_it_is() {
    let mut bench = Bench::new(None);
    let (first, second) =
        (bench.leaf(), bench.ca.leaf(ORDERS, |params| life(params, NOW + 10, NOW + 500)));
    bench.write("id.pem", first.pem());
    assert_eq!(bench.look(), Ok(()));
    bench.write("id.pem", second.pem());
    assert!(bench.settle().unwrap_err().contains("is a clock off?"));
    assert!(bench.holds(&first));
    bench.hands.store(NOW + 10, Ordering::Relaxed);
    assert_eq!(bench.look(), Ok(()), "the files are as they were");
    assert!(bench.holds(&second));
}
