//! Certificates made by the `openssl` program: a second implementation, with its own encodings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki::Leaf;
use crate::process;

/// An authority kept in files.
pub struct Openssl {
    program: PathBuf,
    folder: PathBuf,
}

/// What is to be issued.
#[derive(Clone, Copy, Debug)]
pub struct Issue<'a> {
    /// Of the files it is written to.
    pub name: &'a str,
    /// As `openssl req -subj` takes it; `/` is empty.
    pub subject: &'a str,
    /// Lines such as `subjectAltName=URI:…`.
    pub extensions: &'a [&'a str],
    /// To live; may be negative.
    pub days: i32,
    /// The name of another certificate made here; the authority without it.
    pub issuer: Option<&'a str>,
}

impl Openssl {
    /// A new authority for a trust domain, its certificate in `bundle.pem`.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn new(program: PathBuf, folder: &Path, domain: &str) -> Openssl {
        let own = Openssl { program, folder: folder.to_owned() };
        own.key("ca");
        let san = format!("subjectAltName=URI:spiffe://{domain}");
        own.run(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "ca.key",
            "-out",
            "bundle.pem",
            "-days",
            "2",
            "-subj",
            "/CN=openssl",
            "-addext",
            &san,
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        own
    }

    /// The authority that was made in a folder before.
    pub fn existing(program: PathBuf, folder: &Path) -> Openssl {
        Openssl { program, folder: folder.to_owned() }
    }

    /// A leaf with these extension lines, such as `subjectAltName=URI:…`. `days` may be negative.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn leaf(&self, name: &str, extensions: &[&str], days: i32) -> Leaf {
        self.issue(&Issue { name, subject: "/O=openssl", extensions, days, issuer: None })
    }

    /// Anything, also below another certificate that was made here.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn issue(&self, issue: &Issue<'_>) -> Leaf {
        let Issue { name, subject, extensions, days, issuer } = *issue;
        self.key(name);
        let (ca, ca_key) = match issuer {
            Some(issuer) => (format!("{issuer}.pem"), format!("{issuer}.key")),
            None => ("bundle.pem".to_owned(), "ca.key".to_owned()),
        };
        let file = |ending: &str| format!("{name}.{ending}");
        fs::write(self.folder.join(file("ext")), extensions.join("\n") + "\n").unwrap();
        self.run(&["req", "-new", "-key", &file("key"), "-out", &file("csr"), "-subj", subject]);
        self.run(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-out",
            &file("pem"),
            "-days",
            &days.to_string(),
            "-extfile",
            &file("ext"),
        ]);
        let read = |ending: &str| fs::read_to_string(self.folder.join(file(ending))).unwrap();
        let (chain_pem, key_pem) = (read("pem"), read("key"));
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
        Leaf {
            chain: vec![CertificateDer::from_pem_slice(chain_pem.as_bytes()).unwrap()],
            key: key.secret_der().to_vec(),
            chain_pem,
            key_pem,
            not_after: 0,
        }
    }

    /// The key of a leaf in the traditional form, `BEGIN EC PRIVATE KEY`, which cert-manager calls
    /// `PKCS1` and writes unless told otherwise.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn traditional(program: &Path, key_pem: &str) -> String {
        let mut command = Command::new(program);
        let done = process::run_with(command.args(["ec", "-in", "/dev/stdin"]), key_pem);
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(text.contains("BEGIN EC PRIVATE KEY"), "openssl ec: {text}");
        text
    }

    fn key(&self, name: &str) {
        let out = format!("{name}.key");
        self.run(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &out,
        ]);
    }

    fn run(&self, arguments: &[&str]) {
        let done =
            process::run(Command::new(&self.program).args(arguments).current_dir(&self.folder));
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {arguments:?}: {told}");
    }
}
