//! `SignerConfig`: what one signer of certificates for Kubernetes pods needs to know. Made only by
//! [`SignerConfig::load`] from what somebody wrote.

use std::path::PathBuf;

use countersign_workload_id::TrustDomain;

use crate::identity::KubernetesApi;

/// Everything a signer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerConfig {
    /// The file this came from.
    pub file: PathBuf,
    /// The domain of every identity it makes.
    pub trust_domain: TrustDomain,
    /// Where requests are.
    pub api: KubernetesApi,
    /// Which requests are its own.
    pub signer_name: String,
    /// PEM: the certificate that signs, then its issuers up to, but without, the root.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8.
    pub key: PathBuf,
    /// PEM of the roots to publish and to check against; without it, `certificate` is the root.
    pub roots: Option<PathBuf>,
    /// Shortest and longest life of a certificate, in seconds; what is asked for is moved between.
    pub life_s: (u64, u64),
    /// Certificates of one service account in a minute.
    pub per_minute: u64,
    /// The `ClusterTrustBundle` the roots are published as, if any.
    pub cluster_trust_bundle: Option<String>,
    /// Files and folders with `Revocation` documents and the `MeshConfig` they belong to.
    pub documents: Vec<PathBuf>,
}
