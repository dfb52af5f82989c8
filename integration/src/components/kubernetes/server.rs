//! The processes of a cluster: etcd and the API server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::process::Process;
use crate::{ports, programs};

/// Where the programs are.
pub(super) struct Programs {
    etcd: PathBuf,
    api: PathBuf,
}

impl Programs {
    /// Both, or `None` and a line that says what is missing.
    pub(super) fn find(test: &str) -> Option<Programs> {
        let etcd = programs::system(test, "etcd")?;
        Some(Programs { etcd, api: programs::go_tool(test, "kube", "kube-apiserver")? })
    }
}

/// etcd, which keeps everything, and the API server, which can be stopped and started.
pub(super) struct Server {
    /// Where the API server listens.
    pub(super) address: SocketAddr,
    programs: Programs,
    folder: PathBuf,
    store: SocketAddr,
    _etcd: Process,
    api: Mutex<Option<Process>>,
}

impl Server {
    /// Starts etcd; the API server waits for [`Server::run`].
    pub(super) fn new(programs: Programs, folder: &Path) -> Server {
        let (store, peers) = (ports::free(), ports::free());
        let mut etcd = Command::new(&programs.etcd);
        etcd.arg("--data-dir").arg(folder.join("etcd"));
        etcd.args(["--unsafe-no-fsync", "--log-level", "error", "--logger", "zap"]);
        for (flag, address) in [
            ("--listen-client-urls", store),
            ("--advertise-client-urls", store),
            ("--listen-peer-urls", peers),
        ] {
            etcd.arg(flag).arg(format!("http://{address}"));
        }
        let etcd = Process::start("etcd", etcd, folder);
        let (address, folder) = (ports::free(), folder.to_owned());
        Server { address, programs, folder, store, _etcd: etcd, api: Mutex::new(None) }
    }

    /// Starts the API server.
    pub(super) fn run(&self) {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let flags = [
            ("etcd-servers", format!("http://{}", self.store)),
            ("bind-address", self.address.ip().to_string()),
            ("secure-port", self.address.port().to_string()),
            // Need not exist, must not be loopback.
            ("advertise-address", "192.0.2.1".to_owned()),
            ("tls-cert-file", file("api.crt")),
            ("tls-private-key-file", file("api.key")),
            ("client-ca-file", file("ca.crt")),
            ("cert-dir", file("certificates")),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            ("service-account-issuer", self.issuer()),
            ("api-audiences", self.issuer()),
            ("service-account-jwks-uri", format!("{}/openid/v1/jwks", self.issuer())),
            (
                "runtime-config",
                "certificates.k8s.io/v1alpha1=true,certificates.k8s.io/v1beta1=true".to_owned(),
            ),
            (
                "feature-gates",
                "ClusterTrustBundle=true,ClusterTrustBundleProjection=true,\
                 PodCertificateRequest=true"
                    .to_owned(),
            ),
        ];
        let mut command = Command::new(&self.programs.api);
        command.args(flags.iter().map(|(name, value)| format!("--{name}={value}")));
        *self.api() = Some(Process::start("kube-apiserver", command, &self.folder));
    }

    /// Ends the API server at once.
    pub(super) fn stop(&self) {
        *self.api() = None;
    }

    /// The issuer of service account tokens.
    pub(super) fn issuer(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Fails the test when the API server ended by itself.
    pub(super) fn assert_running(&self) {
        let api = self.api();
        let Some(api) = api.as_ref() else { return };
        if let Some(status) = api.exit_status() {
            panic!("the API server ended with {status}\n{}", api.tail());
        }
    }

    /// What the API server logged.
    pub(super) fn log(&self) -> String {
        self.api().as_ref().map(Process::stderr).unwrap_or_default()
    }

    fn api(&self) -> MutexGuard<'_, Option<Process>> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A folder named after this process. The cluster that tests share is never dropped, so whoever
/// comes next removes the folders of processes that are gone.
pub(super) struct Folder(PathBuf);

const NAME: &str = "countersign-kubernetes-";

impl Folder {
    /// A fresh one.
    pub(super) fn new() -> Folder {
        let parent = std::env::temp_dir();
        remove_stale(&parent);
        let prefix = format!("{NAME}{}-", std::process::id());
        let fresh = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).unwrap();
        Folder(fresh.keep())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|text| text.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
