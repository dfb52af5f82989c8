//! A TPM 2.0 of swtpm's, its PKCS#11 module behind `p11-kit server`.
//!
//! Its socket serves one user at a time, as `/dev/tpm0` does: who prepares it must be done before
//! the server of the module is asked, and every sidecar here has a TPM of its own.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use rustls_pki_types::SubjectPublicKeyInfoDer;

use super::softhsm::{CLIENT_MODULE, P11Server, PIN, TOKEN};
use crate::process::{self, Process};
use crate::{programs, wait};

/// The module, which knows a TPM by `TPM2_PKCS11_TCTI` and its own notes by `TPM2_PKCS11_STORE`.
pub const MODULE: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so";

const SO_PIN: &str = "47474747";

/// A TPM with one token.
pub struct Tpm {
    process: Process,
    program: PathBuf,
    tool: PathBuf,
    folder: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
}

impl Tpm {
    /// A new TPM and a token in it, in a folder of its own; `None` where the programs are missing
    /// and not required.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn new(test: &str, folder: &Path) -> Option<Tpm> {
        let program = programs::system(test, "swtpm")?;
        let tool = programs::system(test, "pkcs11-tool")?;
        for name in ["state", "store"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let pin_file = folder.join("pin");
        fs::write(&pin_file, format!("{PIN}\n")).unwrap();
        let process = launch(&program, folder);
        let tpm = Tpm { process, program, tool, folder: folder.to_owned(), pin_file };
        tpm.listening().await;
        tpm.tool(&["--slot-index", "0", "--init-token", "--label", TOKEN, "--so-pin", SO_PIN]);
        let officer = ["--login", "--login-type", "so", "--so-pin", SO_PIN];
        let pin = ["--token-label", TOKEN, "--init-pin", "--new-pin", PIN];
        tpm.tool(&[&officer[..], &pin[..]].concat());
        Some(tpm)
    }

    /// Makes a P-256 key pair in the TPM and gives its public half.
    ///
    /// # Panics
    /// When it makes none.
    pub fn make(&self, label: &str, id: &str) -> SubjectPublicKeyInfoDer<'static> {
        self.user(&["--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", id]);
        let file = self.folder.join(format!("{id}.spki"));
        let out = file.to_string_lossy().into_owned();
        self.user(&["--read-object", "--type", "pubkey", "--id", id, "--output-file", &out]);
        SubjectPublicKeyInfoDer::from(fs::read(&file).unwrap())
    }

    /// What is in the token, as `pkcs11-tool` lists it.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn objects(&self) -> String {
        self.user(&["--list-objects"])
    }

    /// Serves the token to a sidecar.
    ///
    /// # Panics
    /// When the server does not come up.
    pub async fn serve(&self, test: &str) -> Option<P11Server> {
        let uri = format!("pkcs11:token={TOKEN}");
        P11Server::start(test, &self.folder, Path::new(MODULE), &uri, self.env()).await
    }

    /// `files.key` of a key with this label, used through the server.
    pub fn uri(&self, label: &str) -> String {
        let pin = self.pin_file.display();
        format!(
            "pkcs11:token={TOKEN};object={label}?module-path={CLIENT_MODULE}&pin-source=file:{pin}"
        )
    }

    /// Ends it as a loss of power does.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    /// It answers nothing from now on.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It answers again.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Comes up again after [`Tpm::kill`], with what it keeps.
    ///
    /// # Panics
    /// When it does not.
    pub async fn restart(&mut self) {
        self.process.ended().await;
        for name in [SOCKET, CONTROL] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        self.process = launch(&self.program, &self.folder);
        self.listening().await;
    }

    async fn listening(&self) {
        wait::until_true("swtpm", || {
            if let Some(status) = self.process.exit_status() {
                panic!("swtpm ended with {status}\n{}", self.process.tail());
            }
            [SOCKET, CONTROL].iter().all(|name| {
                fs::metadata(self.folder.join(name)).is_ok_and(|file| file.file_type().is_socket())
            })
        })
        .await;
    }

    fn env(&self) -> Vec<(String, PathBuf)> {
        let tcti = format!("swtpm:path={}", self.folder.join(SOCKET).display());
        vec![
            ("TPM2_PKCS11_STORE".to_owned(), self.folder.join("store")),
            ("TPM2_PKCS11_TCTI".to_owned(), tcti.into()),
        ]
    }

    fn user(&self, arguments: &[&str]) -> String {
        let login = ["--token-label", TOKEN, "--login", "--pin", PIN];
        self.tool(&[&login[..], arguments].concat())
    }

    fn tool(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.tool);
        command.args(["--module", MODULE]).args(arguments).envs(self.env());
        let done = process::run(&mut command);
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command:?}: {out}{err}");
        out
    }
}

const SOCKET: &str = "tpm";
/// Where the TCTI looks for the control channel of [`SOCKET`].
const CONTROL: &str = "tpm.ctrl";

fn launch(program: &Path, folder: &Path) -> Process {
    let at = |name: &str| format!("type=unixio,path={}", folder.join(name).display());
    let mut command = Command::new(program);
    command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    command.arg("--tpmstate").arg(format!("dir={}", folder.join("state").display()));
    command.arg("--server").arg(at(SOCKET)).arg("--ctrl").arg(at(CONTROL));
    Process::start("swtpm", command, folder)
}
