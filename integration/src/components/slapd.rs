//! OpenLDAP's slapd with a small directory: plain, StartTLS and LDAPS on ports of this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::pki::{Authority, Request};
use crate::process::{self, Process};
use crate::{ports, programs, wait};

/// The password of `cn=countersign`, which may read.
const PASSWORD: &str = "may-read-groups";

/// A running directory.
pub struct Slapd {
    process: Process,
    folder: PathBuf,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Slapd {
    /// Starts it with these entries (LDIF below `dc=lab,dc=test`) and a certificate for `localhost`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(parent: &Path, ca: &Authority, entries: &str) -> Slapd {
        let folder = parent.join("slapd");
        fs::create_dir_all(folder.join("db")).unwrap();
        let (certificate, key) =
            ca.issue(Request::new(&[]).dns("localhost")).write(&folder, "server");
        let bundle = ca.write_bundle(&folder, "ca");
        fs::write(folder.join("password"), PASSWORD).unwrap();
        fs::write(folder.join("wrong"), "guessed").unwrap();
        let shown = |path: &Path| path.display().to_string();
        let conf = folder.join("slapd.conf");
        fs::write(
            &conf,
            format!(
                "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
                 include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\n\
                 moduleload back_mdb\npidfile {folder}/pid\n\
                 TLSCACertificateFile {ca}\nTLSCertificateFile {certificate}\n\
                 TLSCertificateKeyFile {key}\n\
                 database mdb\nsuffix \"dc=lab,dc=test\"\nrootdn \"cn=admin,dc=lab,dc=test\"\n\
                 directory {folder}/db\n\
                 access to attrs=userPassword by anonymous auth by * none\n\
                 access to * by dn.exact=\"cn=countersign,dc=lab,dc=test\" read by * none\n",
                folder = shown(&folder),
                ca = shown(&bundle),
                certificate = shown(&certificate),
                key = shown(&key),
            ),
        )
        .unwrap();
        let ldif = folder.join("entries.ldif");
        let base = format!(
            "dn: dc=lab,dc=test\nobjectClass: domain\ndc: lab\n\n\
             dn: cn=countersign,dc=lab,dc=test\nobjectClass: person\ncn: countersign\n\
             sn: countersign\nuserPassword: {PASSWORD}\n\n"
        );
        fs::write(&ldif, base + entries).unwrap();
        let mut load = Command::new("/usr/sbin/slapadd");
        process::run(load.arg("-f").arg(&conf).arg("-l").arg(&ldif));
        let (plain, tls) = (ports::free(), ports::free());
        let urls = format!("ldap://{plain}/ ldaps://{tls}/");
        let mut command = Command::new("/usr/sbin/slapd");
        command.args(["-d", "0", "-h", &urls, "-f"]).arg(&conf);
        let process = Process::start("slapd", command, &folder);
        let slapd = Slapd { process, folder, plain, tls };
        wait::until("slapd", || async {
            assert!(slapd.process.exit_status().is_none(), "{}", slapd.process.tail());
            tokio::net::TcpStream::connect(slapd.tls).await.ok().map(drop)
        })
        .await;
        slapd
    }

    /// Whether it is installed; without it a line says so, or the test fails where the test-bed is
    /// required.
    ///
    /// # Panics
    /// When the test-bed is required and it is missing.
    pub fn is_installed(test: &str) -> bool {
        let found = Path::new("/usr/sbin/slapd").exists();
        if !found {
            programs::missing(test, "slapd");
        }
        found
    }

    /// `ldap` of an `AttributeProvider` that looks up the groups of users here.
    pub fn ldap(&self, how: How, keep: &[&str]) -> Value {
        let mut ldap = json!({
            "roots": self.folder.join("ca.pem"),
            "bind": {"dn": "cn=countersign,dc=lab,dc=test", "passwordFile": self.folder.join("password")},
            "base": "ou=groups,dc=lab,dc=test",
            "filter": "(&(objectClass=groupOfNames)(member=uid={dn:user.id},ou=people,dc=lab,dc=test))",
            "attribute": "cn", "keep": keep, "timeout": "5s",
        });
        match how {
            How::Ldaps => ldap["url"] = json!(format!("ldaps://localhost:{}", self.tls.port())),
            How::StartTls => {
                ldap["url"] = json!(format!("ldap://localhost:{}", self.plain.port()));
                ldap["startTls"] = json!(true);
            }
            How::Plain => ldap["url"] = json!(format!("ldap://127.0.0.1:{}", self.plain.port())),
            How::WrongPassword => {
                ldap["url"] = json!(format!("ldaps://localhost:{}", self.tls.port()));
                ldap["bind"]["passwordFile"] = json!(self.folder.join("wrong"));
            }
            How::WrongName => {
                ldap["url"] = json!(format!("ldaps://127.0.0.1:{}", self.tls.port()));
            }
        }
        ldap
    }

    /// Ends it.
    pub async fn stop(&self) {
        self.process.terminate();
        self.process.ended().await;
    }
}

/// How it is asked.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// TLS from the first byte.
    Ldaps,
    /// TLS by StartTLS.
    StartTls,
    /// Without TLS, on this machine.
    Plain,
    /// With a password that is not ours.
    WrongPassword,
    /// By a name its certificate does not have.
    WrongName,
}
