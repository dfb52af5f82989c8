//! SoftHSM2, a PKCS#11 token in files, behind `p11-kit server`: the process that uses its keys is
//! another one than the process that has them.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use serde_json::{Value, json};

use crate::process::{self, Process};
use crate::{programs, wait};

/// Passes calls on to whoever listens at `P11_KIT_SERVER_ADDRESS`.
pub const CLIENT_MODULE: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
/// The token itself, in the memory of whoever loads it.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Writes down every call and passes it on to the module named in `PKCS11SPY`.
pub const SPY_MODULE: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so";
/// The user PIN of every token here.
pub const PIN: &str = "4747";
/// The label of every token here.
pub const TOKEN: &str = "mesh";

/// A token.
pub struct SoftHsm {
    folder: PathBuf,
    util: PathBuf,
    tool: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
}

/// `p11-kit server` in front of one module.
pub struct P11Server {
    process: Process,
    program: PathBuf,
    module: PathBuf,
    uri: String,
    env: Vec<(String, PathBuf)>,
    folder: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
}

impl SoftHsm {
    /// A new token in `folder`; `None` where the programs are missing and not required.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(test: &str, folder: &Path) -> Option<SoftHsm> {
        let util = programs::system(test, "softhsm2-util")?;
        let tool = programs::system(test, "pkcs11-tool")?;
        fs::create_dir_all(folder.join("tokens")).unwrap();
        let tokens = folder.join("tokens");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        fs::write(folder.join("softhsm2.conf"), config).unwrap();
        let pin_file = folder.join("pin");
        fs::write(&pin_file, format!("{PIN}\n")).unwrap();
        let token = SoftHsm { folder: folder.to_owned(), util, tool, pin_file };
        token.init();
        Some(token)
    }

    /// Puts an empty token where there is none.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn init(&self) {
        let pins = ["--pin", PIN, "--so-pin", "47474747"];
        let init = ["--init-token", "--free", "--label", TOKEN];
        self.run(Command::new(&self.util).args(init).args(pins));
    }

    /// Where the token keeps its objects.
    pub fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// The variable that leads the module to the token.
    pub fn env(&self) -> (String, PathBuf) {
        ("SOFTHSM2_CONF".to_owned(), self.folder.join("softhsm2.conf"))
    }

    /// Makes a P-256 key pair in the token and gives its public half.
    ///
    /// # Panics
    /// When the token makes none.
    pub fn make(&self, label: &str, id: &str) -> SubjectPublicKeyInfoDer<'static> {
        self.keygen(label, id, "EC:prime256v1");
        let file = self.folder.join(format!("{id}.spki"));
        let out = file.to_string_lossy().into_owned();
        self.tool(&["--read-object", "--type", "pubkey", "--id", id, "--output-file", &out]);
        SubjectPublicKeyInfoDer::from(fs::read(&file).unwrap())
    }

    /// Makes a key pair of any type in the token.
    ///
    /// # Panics
    /// When the token makes none.
    pub fn keygen(&self, label: &str, id: &str, kind: &str) {
        self.tool(&["--keypairgen", "--key-type", kind, "--label", label, "--id", id]);
    }

    /// Puts a key into the token that was made outside, PKCS#8 PEM.
    ///
    /// # Panics
    /// When the token does not take it.
    pub fn import(&self, label: &str, id: &str, key_pem: &str) {
        let file = self.folder.join("import.pem");
        fs::write(&file, key_pem).unwrap();
        let named = ["--label", label, "--id", id, "--pin", PIN, "--token", TOKEN];
        self.run(Command::new(&self.util).arg("--import").arg(&file).args(named));
        fs::remove_file(&file).unwrap();
    }

    /// Takes a private key and its public half out of the token.
    ///
    /// # Panics
    /// When it is not there.
    pub fn delete(&self, id: &str) {
        for kind in ["privkey", "pubkey"] {
            self.tool(&["--delete-object", "--type", kind, "--id", id]);
        }
    }

    /// What is in the token, as `pkcs11-tool` lists it.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn objects(&self) -> String {
        self.tool(&["--list-objects"])
    }

    fn tool(&self, arguments: &[&str]) -> String {
        let login = ["--module", MODULE, "--token-label", TOKEN, "--login", "--pin", PIN];
        self.run(Command::new(&self.tool).args(login).args(arguments))
    }

    fn run(&self, command: &mut Command) -> String {
        command.envs([self.env()]);
        let done = process::run(command);
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command:?}: {out}{err}");
        out
    }

    /// Serves the token to other processes.
    ///
    /// # Panics
    /// When the server does not come up.
    pub async fn serve(&self, test: &str) -> Option<P11Server> {
        let uri = format!("pkcs11:token={TOKEN}");
        P11Server::start(test, &self.folder, Path::new(MODULE), &uri, vec![self.env()]).await
    }
}

impl P11Server {
    /// Serves the tokens of `module` that `uri` names; `None` where p11-kit is missing and not
    /// required.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(
        test: &str,
        folder: &Path,
        module: &Path,
        uri: &str,
        env: Vec<(String, PathBuf)>,
    ) -> Option<P11Server> {
        let program = programs::system(test, "p11-kit")?;
        let socket = folder.join("p11.socket");
        let process = launch(&program, module, uri, &env, folder, &socket);
        let server = P11Server {
            process,
            program,
            module: module.to_owned(),
            uri: uri.to_owned(),
            env,
            folder: folder.to_owned(),
            socket,
        };
        server.listening().await;
        Some(server)
    }

    /// The variable that leads `p11-kit-client.so` here.
    pub fn env(&self) -> (&'static str, PathBuf) {
        ("P11_KIT_SERVER_ADDRESS", format!("unix:path={}", self.socket.display()).into())
    }

    /// `identity.key`: keys are made in this token.
    pub fn keys(&self, pin_file: &Path) -> Value {
        json!({"pkcs11": {
            "module": CLIENT_MODULE, "token": TOKEN, "pinFile": pin_file, "signTimeout": "1s",
        }})
    }

    /// Ends the server and everybody it serves.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Stops the server and its connections where they are.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Comes up again after [`P11Server::kill`].
    ///
    /// # Panics
    /// When it does not.
    pub async fn restart(&mut self) {
        self.process.ended().await;
        let _ = fs::remove_file(&self.socket);
        self.process =
            launch(&self.program, &self.module, &self.uri, &self.env, &self.folder, &self.socket);
        self.listening().await;
    }

    async fn listening(&self) {
        wait::until_true("p11-kit server", || {
            if let Some(status) = self.process.exit_status() {
                panic!("p11-kit server ended with {status}\n{}", self.process.tail());
            }
            fs::metadata(&self.socket).is_ok_and(|file| file.file_type().is_socket())
        })
        .await;
    }

    /// Each connection has a process of its own, a child of the one that listens.
    fn signal(&self, signal: Signal) {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let all = children.split_whitespace().filter_map(|child| child.parse().ok());
        self.process.signal(signal);
        for child in all.filter_map(Pid::from_raw) {
            // One that ended meanwhile needs no signal.
            let _ = kill_process(child, signal);
        }
    }
}

fn launch(
    program: &Path,
    module: &Path,
    uri: &str,
    env: &[(String, PathBuf)],
    folder: &Path,
    socket: &Path,
) -> Process {
    let mut command = Command::new(program);
    command.arg("server").arg("-f").arg("-n").arg(socket).arg("--provider").arg(module).arg(uri);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    Process::start("p11-kit", command, folder)
}
