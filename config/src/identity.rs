//! Where a process gets its identity: one source, chosen in its `ProxyConfig`.

use std::path::PathBuf;

use crate::endpoint::WorkloadApiEndpoint;

/// Where the process gets its certificate, key and trust bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The SPIFFE Workload API.
    WorkloadApi {
        /// Where it listens.
        endpoint: WorkloadApiEndpoint,
    },
    /// Watched PEM files.
    Files {
        /// Leaf first, then intermediates.
        certificate: PathBuf,
        /// Private key, PKCS#8 or SEC 1; without it `certificate` holds it too.
        key: Option<PathBuf>,
        /// The trust anchors of the own trust domain.
        bundle: PathBuf,
    },
}
