//! Where identities come from. One source per process, chosen in its configuration; there is no
//! falling back from one to another while it runs.
//!
//! A source runs as one task on the runtime that called [`spawn`] (the control thread's). What it
//! delivers passes the gate and is published as a snapshot; what fails shows in the status.

pub mod files;
pub(crate) mod kubernetes;
pub(crate) mod publish;
pub mod renewing;
pub mod vault;
pub mod workload_api;

use std::{fmt, path::PathBuf, sync::Arc};

use countersign_config::{FilesKey, KubernetesCsr, identity::VaultSource};
use countersign_workload_id::WorkloadId;
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use crate::{identity::Certs, key::KeyMaker, status::Status};
use publish::Publisher;

/// The wall clock, in milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A source of identities.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertSource {
    /// PEM files that somebody else renews.
    Files {
        /// Chain, leaf first; it may hold the key too.
        certificate: PathBuf,
        /// The private key, if it is not in `certificate`.
        key: Option<FilesKey>,
        /// Authorities: PEM for our own trust domain, or a SPIFFE bundle map.
        bundle: PathBuf,
    },
    /// Certificate requests of the Kubernetes API, on keys made here.
    KubernetesCsr(KubernetesCsr),
    /// A role of a `pki` engine of OpenBao or Vault.
    Vault(VaultSource),
    /// The SPIFFE Workload API.
    WorkloadApi {
        /// Where it listens.
        endpoint: workload_api::Endpoint,
        /// Whether the keys of JWT-SVIDs are wanted.
        jwt_keys: workload_api::JwtKeys,
    },
}

impl CertSource {
    /// The name of its kind, as in a `ProxyConfig`.
    pub fn kind(&self) -> &'static str {
        match self {
            CertSource::Files { .. } => "files",
            CertSource::KubernetesCsr(_) => "kubernetesCsr",
            CertSource::Vault(_) => "vault",
            CertSource::WorkloadApi { .. } => "workloadApi",
        }
    }
}

impl fmt::Display for CertSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertSource::Files { certificate, .. } => write!(f, "files {}", certificate.display()),
            CertSource::KubernetesCsr(config) => {
                write!(f, "Kubernetes signer {} at {}", config.signer_name, config.api.server)
            }
            CertSource::Vault(role) => {
                write!(f, "Vault {} {}/roles/{}", role.address, role.mount, role.role)
            }
            CertSource::WorkloadApi { endpoint, .. } => write!(f, "Workload API {endpoint}"),
        }
    }
}

/// A running source. Dropping the last handle stops it.
#[derive(Clone, Debug)]
pub struct CertsHandle {
    certs: watch::Receiver<Arc<Certs>>,
    status: watch::Receiver<Arc<Status>>,
    _task: Arc<AbortOnDrop>,
}

impl CertsHandle {
    /// Snapshots of identity and bundles; the first one is empty.
    pub fn certs(&self) -> watch::Receiver<Arc<Certs>> {
        self.certs.clone()
    }

    /// How the source is doing.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a source on the current tokio runtime.
///
/// `expected_id`, if set, is the only identity that is accepted from it.
pub fn spawn(source: CertSource, expected_id: Option<WorkloadId>, clock: Clock) -> CertsHandle {
    spawn_with(source, KeyMaker::Software, expected_id, clock)
}

/// As [`spawn`]; `keys` makes the keys of the sources whose key this process makes.
pub fn spawn_with(
    source: CertSource,
    keys: KeyMaker,
    expected_id: Option<WorkloadId>,
    clock: Clock,
) -> CertsHandle {
    let (publisher, certs, status) = Publisher::new(&source, expected_id, clock);
    let task = Handle::current().spawn(async move {
        tokio::join!(publisher.watch_the_clock(), async {
            match source {
                CertSource::Files { certificate, key, bundle } => {
                    files::run(&publisher, &files::Paths { certificate, key, bundle }).await;
                }
                CertSource::KubernetesCsr(config) => {
                    kubernetes::run(&publisher, config, &keys).await;
                }
                CertSource::Vault(role) => {
                    vault::run(&publisher, &role, &keys).await;
                }
                CertSource::WorkloadApi { endpoint, jwt_keys } => {
                    workload_api::run(&publisher, &endpoint, jwt_keys).await;
                }
            }
        });
    });
    CertsHandle { certs, status, _task: Arc::new(AbortOnDrop(task.abort_handle())) }
}
