//! SPIRE: a server and its agents, of a test's own.
//!
//! Lives are short and agents look for news each second, so that a test sees rotations within half
//! a minute. Keys are on disk: both programs can be stopped and started again as what they were.
//! Agents attest by join token, workloads by the user that runs them (`unix:uid:…`), which takes
//! root, or a user namespace with a range of users.

mod agent;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::user;
use crate::process::{self, Process};
use crate::{ports, programs, wait};

pub use self::agent::{Agent, AgentSpec};

/// The two programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    server: PathBuf,
    agent: PathBuf,
}

impl Programs {
    fn find(test: &str) -> Option<Programs> {
        let server = programs::go_tool(test, "spire", "spire-server")?;
        let agent = programs::go_tool(test, "spire", "spire-agent")?;
        if !rustix::process::geteuid().is_root() {
            programs::missing(test, "root, to run workloads as users of their own,");
            return None;
        }
        Some(Programs { server, agent })
    }
}

/// Who may ask the bundle endpoint, and how it proves itself.
#[derive(Clone, Debug)]
pub enum Profile {
    /// With the server's own SPIFFE ID, `spiffe://<domain>/spire/server`.
    Spiffe,
    /// With a certificate of the web.
    Web {
        /// Chain, PEM.
        certificate: PathBuf,
        /// Private key, PEM.
        key: PathBuf,
    },
}

/// How a server differs from the usual one.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Its trust domain.
    pub domain: String,
    /// Life of its own authority, as `10m`.
    pub ca_life: String,
    /// Life of a certificate where its entry says nothing else.
    pub svid_life_s: u32,
    /// Life of an agent's own certificate, if not the same.
    pub agent_life_s: Option<u32>,
    /// A root that stands above it, certificate and key as PEM files: then a start makes another
    /// intermediate authority, and chains have two certificates.
    pub upstream: Option<(PathBuf, PathBuf)>,
    /// Whether there is a bundle endpoint.
    pub endpoint: Option<Profile>,
}

impl ServerSpec {
    /// The usual one: certificates live half a minute.
    pub fn new(domain: &str) -> ServerSpec {
        ServerSpec {
            domain: domain.to_owned(),
            ca_life: "1h".to_owned(),
            svid_life_s: 30,
            agent_life_s: None,
            upstream: None,
            endpoint: None,
        }
    }
}

/// Which workload gets which identity.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The identity's path: `/ns/shop/sa/orders`.
    pub path: &'a str,
    /// Who runs as this user is it.
    pub uid: u32,
    /// The agent that may give it out.
    pub agent: &'a str,
    /// What its operator says it is for; empty for nothing.
    pub hint: &'a str,
    /// Foreign trust domains whose bundles come along.
    pub federates_with: &'a [&'a str],
}

impl<'a> Entry<'a> {
    /// Of the agent `one`, without more.
    pub fn new(path: &'a str, uid: u32) -> Entry<'a> {
        Entry { path, uid, agent: "one", hint: "", federates_with: &[] }
    }
}

/// A SPIRE server.
pub struct Server {
    programs: Programs,
    spec: ServerSpec,
    folder: TempDir,
    address: SocketAddr,
    endpoint: SocketAddr,
    process: Option<Process>,
}

impl Server {
    /// Starts one and waits until it answers; `None`, and a line that says so, where SPIRE is
    /// missing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(test: &str, spec: ServerSpec) -> Option<Server> {
        let programs = Programs::find(test)?;
        let folder = tempfile::tempdir().unwrap();
        user::open_to_all(folder.path());
        let mut server = Server {
            programs,
            spec,
            folder,
            address: ports::free(),
            endpoint: ports::free(),
            process: None,
        };
        fs::write(server.file("server.conf"), server.config()).unwrap();
        server.start_again().await;
        Some(server)
    }

    /// Its trust domain.
    pub fn domain(&self) -> &str {
        &self.spec.domain
    }

    /// The ID of a path in its trust domain.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.spec.domain)
    }

    /// The folder of everything that belongs to it; agents have theirs below.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its bundle endpoint is, if it has one.
    pub fn endpoint_url(&self) -> String {
        format!("https://{}", self.endpoint)
    }

    /// Starts it, again with what is on disk.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        let mut command = Command::new(&self.programs.server);
        command.args(["run", "-config"]).arg(self.file("server.conf"));
        command.env("HOME", self.folder());
        let process = Process::start("spire-server", command, self.folder());
        wait::until("the SPIRE server", async || {
            if let Some(status) = process.exit_status() {
                panic!("the SPIRE server ended with {status}\n{}", process.tail());
            }
            self.ask(&["healthcheck"]).await.ok().map(drop)
        })
        .await;
        self.process = Some(process);
    }

    /// Stops it; agents keep what they have.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
            process.ended().await;
        }
    }

    /// Starts an agent of this name, which may give out the entries that name it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn agent(&self, name: &str) -> Agent {
        self.agent_with(name, AgentSpec::default()).await
    }

    /// As [`Server::agent`], with one that differs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn agent_with(&self, name: &str, spec: AgentSpec) -> Agent {
        let bundle = self.file("root.pem");
        fs::write(&bundle, self.bundle("pem").await).unwrap();
        let id = self.id(&format!("/agent/{name}"));
        let told = self.run(&["token", "generate", "-spiffeID", &id, "-output", "json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        let token = told["value"].as_str().unwrap_or_else(|| panic!("no token in {told}"));
        let attached = agent::Attached { domain: &self.spec.domain, server: self.address };
        Agent::start(&self.programs, self.folder(), name, attached, &bundle, token, spec).await
    }

    /// Registers a workload and gives the id of its entry.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn entry(&self, entry: &Entry<'_>) -> String {
        let (parent, id) = (self.id(&format!("/agent/{}", entry.agent)), self.id(entry.path));
        let selector = format!("unix:uid:{}", entry.uid);
        let life = self.spec.svid_life_s.to_string();
        let mut arguments = vec![
            "entry",
            "create",
            "-output",
            "json",
            "-parentID",
            &parent,
            "-spiffeID",
            &id,
            "-selector",
            &selector,
            "-x509SVIDTTL",
            &life,
            "-hint",
            entry.hint,
        ];
        let foreign: Vec<String> =
            entry.federates_with.iter().map(|domain| format!("spiffe://{domain}")).collect();
        for domain in &foreign {
            arguments.extend(["-federatesWith", domain]);
        }
        let told: Value = serde_json::from_str(&self.run(&arguments).await).unwrap();
        let made = told["results"][0]["entry"]["id"].as_str();
        made.unwrap_or_else(|| panic!("no entry: {told}")).to_owned()
    }

    /// Takes an entry away.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn delete(&self, entry: &str) {
        self.run(&["entry", "delete", "-entryID", entry]).await;
    }

    /// Its trust bundle, in format `pem` or `spiffe`.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn bundle(&self, format: &str) -> String {
        self.run(&["bundle", "show", "-format", format]).await
    }

    /// Tells it the bundle of another trust domain, in format `spiffe`.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn set_bundle(&self, domain: &str, bundle: &str) {
        let file = self.file(&format!("{domain}.json"));
        fs::write(&file, bundle).unwrap();
        let (id, file) = (format!("spiffe://{domain}"), file.display().to_string());
        self.run(&["bundle", "set", "-format", "spiffe", "-id", &id, "-path", &file]).await;
    }

    /// Tells it where another server gives out its bundle by `https_spiffe`, and its first bundle.
    ///
    /// # Panics
    /// When a server refuses.
    pub async fn federate_with(&self, other: &Server) {
        let file = self.file(&format!("{}.json", other.domain()));
        fs::write(&file, other.bundle("spiffe").await).unwrap();
        let (url, id) = (other.endpoint_url(), other.id("/spire/server"));
        let file = file.display().to_string();
        self.run(&[
            "federation",
            "create",
            "-trustDomain",
            other.domain(),
            "-bundleEndpointURL",
            &url,
            "-bundleEndpointProfile",
            "https_spiffe",
            "-endpointSpiffeID",
            &id,
            "-trustDomainBundleFormat",
            "spiffe",
            "-trustDomainBundlePath",
            &file,
        ])
        .await;
    }

    /// Makes another authority of its own and gives its id; nothing is signed by it yet, and
    /// everybody who asks is told to trust it.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn prepare_authority(&self) -> String {
        let told = self.run(&["localauthority", "x509", "prepare", "-output", "json"]).await;
        authority_id(&told, "prepared_authority")
    }

    /// Signs with the prepared authority from now on and gives the old one's id. What that one
    /// signed stays until it is replaced in its turn.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn activate_authority(&self, prepared: &str) -> String {
        let ask = ["localauthority", "x509", "show", "-output", "json"];
        let old = authority_id(&self.run(&ask).await, "active");
        self.run(&["localauthority", "x509", "activate", "-authorityID", prepared]).await;
        old
    }

    /// Nobody trusts this authority any longer. Agents forget at once what it signed, so it must
    /// have been replaced before.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn revoke_authority(&self, old: &str) {
        for what in ["taint", "revoke"] {
            self.run(&["localauthority", "x509", what, "-authorityID", old]).await;
        }
    }

    /// Runs a command of `spire-server` against it and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run(&self, arguments: &[&str]) -> String {
        match self.ask(arguments).await {
            Ok(told) => told,
            Err(told) => panic!("spire-server {arguments:?}: {told}"),
        }
    }

    /// As [`Server::run`], for a command that may fail.
    async fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        // The socket's option stands behind the words that name the command.
        let words = arguments.iter().take_while(|word| !word.starts_with('-')).count();
        let mut command = Command::new(&self.programs.server);
        command.args(&arguments[..words]).arg("-socketPath").arg(self.file("server.sock"));
        command.args(&arguments[words..]).env("HOME", self.folder());
        let done = tokio::task::spawn_blocking(move || process::run(&mut command)).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match done.status.success() {
            true => Ok(text(&done.stdout)),
            false => Err(text(&done.stdout) + &text(&done.stderr)),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn config(&self) -> String {
        let ServerSpec { domain, ca_life, svid_life_s, agent_life_s, upstream, endpoint } =
            &self.spec;
        let agent_life_s = agent_life_s.unwrap_or(*svid_life_s);
        let (folder, port) = (self.folder().display(), self.address.port());
        let upstream = upstream.as_ref().map_or_else(String::new, |(certificate, key)| {
            let (certificate, key) = (certificate.display(), key.display());
            format!(
                "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{certificate}\"
                 key_file_path = \"{key}\" }} }}"
            )
        });
        // With a root above it, its own key may be forgotten: the next start makes another.
        let keys = match upstream.is_empty() {
            true => format!("\"disk\" {{ plugin_data {{ keys_path = \"{folder}/keys.json\" }} }}"),
            false => "\"memory\" { plugin_data {} }".to_owned(),
        };
        format!(
            "server {{
  trust_domain = \"{domain}\"
  bind_address = \"127.0.0.1\"
  bind_port = \"{port}\"
  socket_path = \"{folder}/server.sock\"
  data_dir = \"{folder}\"
  ca_ttl = \"{ca_life}\"
  default_x509_svid_ttl = \"{svid_life_s}s\"
  agent_ttl = \"{agent_life_s}s\"
  default_jwt_svid_ttl = \"5m\"
  experimental {{ cache_reload_interval = \"1s\" }}
  {}
}}
plugins {{
  DataStore \"sql\" {{ plugin_data {{
    database_type = \"sqlite3\"
    connection_string = \"{folder}/db.sqlite3\"
  }} }}
  KeyManager {keys}
  NodeAttestor \"join_token\" {{ plugin_data {{}} }}
  {upstream}
}}
",
            self.federation(endpoint.as_ref())
        )
    }

    fn federation(&self, endpoint: Option<&Profile>) -> String {
        let Some(profile) = endpoint else { return String::new() };
        let profile = match profile {
            Profile::Spiffe => "profile \"https_spiffe\" {}".to_owned(),
            Profile::Web { certificate, key } => format!(
                "profile \"https_web\" {{ serving_cert_file {{ cert_file_path = \"{}\"
                 key_file_path = \"{}\" file_sync_interval = \"1s\" }} }}",
                certificate.display(),
                key.display()
            ),
        };
        format!(
            "federation {{ bundle_endpoint {{
    address = \"127.0.0.1\"
    port = {}
    refresh_hint = \"30s\"
    {profile}
  }} }}",
            self.endpoint.port()
        )
    }
}

fn authority_id(told: &str, which: &str) -> String {
    let told: Value = serde_json::from_str(told).unwrap_or_else(|error| panic!("{error}: {told}"));
    let id = told[which]["authority_id"].as_str();
    id.unwrap_or_else(|| panic!("no {which} authority: {told}")).to_owned()
}
