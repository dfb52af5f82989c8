//! An agent of a SPIRE server: the Workload API on a socket.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Programs;
use crate::netns::user;
use crate::process::{self, Process};
use crate::{Leaf, wait};

/// How an agent differs from the usual one.
#[derive(Clone, Copy, Debug)]
pub struct AgentSpec {
    /// Type of the keys it makes for workloads.
    pub key_type: &'static str,
}

impl Default for AgentSpec {
    fn default() -> AgentSpec {
        AgentSpec { key_type: "ec-p256" }
    }
}

/// Whose agent it is.
pub(super) struct Attached<'a> {
    pub(super) domain: &'a str,
    pub(super) server: SocketAddr,
}

/// A SPIRE agent.
pub struct Agent {
    program: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Agent {
    /// Starts one; the token proves whose it is, once.
    pub(super) async fn start(
        programs: &Programs,
        parent: &Path,
        name: &str,
        attached: Attached<'_>,
        bundle: &Path,
        token: &str,
        spec: AgentSpec,
    ) -> Agent {
        let folder = parent.join(name);
        fs::create_dir(&folder).unwrap();
        user::open_to_all(&folder);
        let Attached { domain, server } = attached;
        let (shown, bundle, port) = (folder.display(), bundle.display(), server.port());
        let key_type = spec.key_type;
        let config = format!(
            "agent {{
  trust_domain = \"{domain}\"
  server_address = \"127.0.0.1\"
  server_port = \"{port}\"
  socket_path = \"{shown}/api.sock\"
  data_dir = \"{shown}\"
  trust_bundle_path = \"{bundle}\"
  workload_x509_svid_key_type = \"{key_type}\"
  experimental {{ sync_interval = \"1s\" }}
}}
plugins {{
  KeyManager \"disk\" {{ plugin_data {{ directory = \"{shown}\" }} }}
  NodeAttestor \"join_token\" {{ plugin_data {{}} }}
  WorkloadAttestor \"unix\" {{ plugin_data {{}} }}
}}
"
        );
        fs::write(folder.join("agent.conf"), config).unwrap();
        let mut agent = Agent { program: programs.agent.clone(), folder, process: None };
        agent.run(&["-joinToken", token]).await;
        agent
    }

    /// The socket of its Workload API.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// The identity source of a process that asks this agent.
    pub fn source(&self) -> serde_json::Value {
        serde_json::json!({"workloadApi": {"socket": self.socket()}})
    }

    /// Stops it.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
            process.ended().await;
        }
    }

    /// Starts it again as what it was.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        self.run(&[]).await;
    }

    /// A command that asks it as `uid`: `api`, then these words.
    pub fn ask(&self, uid: u32, words: &[&str]) -> Command {
        let program = user::runnable_by_all(&self.program);
        let mut command = user::command(&uid.to_string(), &[], program);
        command.arg("api").args(words).arg("-socketPath").arg(self.socket());
        command
    }

    /// Waits until the workloads of this user have an identity.
    ///
    /// # Panics
    /// When they never do.
    pub async fn until_known(&self, uid: u32) {
        wait::until(&format!("an identity of user {uid}"), async || {
            let mut command = self.ask(uid, &["fetch", "x509"]);
            let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await;
            done.unwrap().status.success().then_some(())
        })
        .await;
    }

    /// The identity of this user's workloads and its key, as files that the agent's own client
    /// wrote.
    ///
    /// # Panics
    /// When there is none.
    pub async fn fetch(&self, uid: u32) -> Leaf {
        self.until_known(uid).await;
        let folder = tempfile::tempdir().unwrap();
        user::open_to_all(folder.path());
        let shown = folder.path().display().to_string();
        self.tell(uid, &["fetch", "x509", "-write", &shown]).await;
        let file = |name: &str| folder.path().join(name);
        Leaf::read(&file("svid.0.pem"), &file("svid.0.key")).unwrap()
    }

    /// What it answers this user's `api` command.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn tell(&self, uid: u32, words: &[&str]) -> String {
        let mut command = self.ask(uid, words);
        let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(done.status.success(), "{words:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    }

    async fn run(&mut self, more: &[&str]) {
        let socket = self.socket();
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(&self.program);
        command.args(["run", "-config"]).arg(self.folder.join("agent.conf")).args(more);
        command.env("HOME", &self.folder);
        let process = Process::start("spire-agent", command, &self.folder);
        wait::until("the SPIRE agent", async || {
            if let Some(status) = process.exit_status() {
                panic!("the SPIRE agent ended with {status}\n{}", process.tail());
            }
            tokio::net::UnixStream::connect(&socket).await.ok().map(drop)
        })
        .await;
        self.process = Some(process);
    }
}
