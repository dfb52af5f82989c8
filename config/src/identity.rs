//! Where a process gets its identity: one source, chosen in its `ProxyConfig`.

use std::path::PathBuf;

use crate::endpoint::WorkloadApiEndpoint;
use crate::env;
use crate::pkcs11::{Pkcs11Key, Pkcs11Token};

/// Where keys are made, for the sources whose key this process makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyPlace {
    /// In the memory of the process.
    #[default]
    Memory,
    /// In a PKCS#11 token, which they never leave.
    Pkcs11(Pkcs11Token),
}

/// Where the private key of watched certificate files is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesKey {
    /// In a PEM file.
    File(PathBuf),
    /// In a PKCS#11 token.
    Pkcs11(Box<Pkcs11Key>),
}

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
        /// Private key, PKCS#8 or SEC 1, or in a token; without it `certificate` holds it too.
        key: Option<FilesKey>,
        /// The trust anchors of the own trust domain.
        bundle: PathBuf,
    },
    /// A role of a `pki` engine of OpenBao or Vault.
    Vault(VaultSource),
    /// The certificate requests of the Kubernetes API (`certificates.k8s.io/v1`), approved and
    /// signed by `countersign signer`. This process makes the key.
    KubernetesCsr(KubernetesCsr),
}

/// A role of a `pki` engine of OpenBao or Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSource {
    /// `https://host[:port]`, without a `/` at the end.
    pub address: String,
    /// The authorities of the server's own certificate, PEM; those of the system without it.
    pub ca: Option<PathBuf>,
    /// Goes into `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// Where the engine is mounted.
    pub mount: String,
    /// The role that signs.
    pub role: String,
    /// Life to ask for, seconds.
    pub life_s: u64,
    /// The only authorities to trust, PEM; those of the mount without it.
    pub bundle: Option<PathBuf>,
    /// Seconds between two looks at authorities and revocation lists.
    pub trust_refresh_s: u64,
    /// How to get a token of the server.
    pub login: VaultLogin,
}

/// How a process proves itself to OpenBao or Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultLogin {
    /// A role id and a secret id.
    AppRole {
        /// Where the method is enabled, below `auth/`.
        mount: String,
        /// Which role.
        role_id: VaultRoleId,
        /// Read again at every login.
        secret_id_file: PathBuf,
    },
    /// A token that the server verifies by itself.
    Jwt(VaultTokenLogin),
    /// A service account token that the server has reviewed by the cluster.
    Kubernetes(VaultTokenLogin),
}

impl VaultLogin {
    /// Where the method is enabled, below `auth/`.
    pub fn mount(&self) -> &str {
        match self {
            VaultLogin::AppRole { mount, .. } => mount,
            VaultLogin::Jwt(login) | VaultLogin::Kubernetes(login) => &login.mount,
        }
    }
}

/// A login with a token from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultTokenLogin {
    /// Where the method is enabled, below `auth/`.
    pub mount: String,
    /// The role of the method.
    pub role: String,
    /// Read again at every login.
    pub token_file: PathBuf,
}

/// The role id of an `appRole` login, which is no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultRoleId {
    /// In a file, read again at every login.
    File(PathBuf),
    /// In the configuration.
    Written(String),
}

/// How a certificate is asked for in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesCsr {
    /// Where the API server is, and who this process is there.
    pub api: KubernetesApi,
    /// Who is to sign.
    pub signer_name: String,
    /// The life to ask for, in seconds.
    pub expiration_s: u64,
    /// Where the trust anchors of the own trust domain come from.
    pub trust: KubernetesTrust,
}

/// A Kubernetes API server, and how to prove to it who we are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KubernetesApi {
    /// `https://10.0.0.1:443`, without a slash at the end.
    pub server: String,
    /// PEM of the authorities that may vouch for the server.
    pub ca: PathBuf,
    /// A service account token for the API server, read again for each call.
    pub token_file: PathBuf,
}

impl KubernetesApi {
    /// Where Kubernetes puts `ca.crt` and `token` into every pod that asks for it.
    pub const POD_FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

    /// The API server as every pod is told it: `https://HOST:PORT`.
    pub fn server_of_this_pod() -> Option<String> {
        let host = env::KUBERNETES_SERVICE_HOST.get()?;
        let port = env::KUBERNETES_SERVICE_PORT.get().unwrap_or_else(|| "443".to_owned());
        // An IPv6 address stands in brackets before a port.
        let bare_v6 = host.contains(':') && !host.starts_with('[');
        let host = if bare_v6 { format!("[{host}]") } else { host };
        Some(format!("https://{host}:{port}"))
    }
}

/// Where trust anchors come from in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubernetesTrust {
    /// A `ClusterTrustBundle` of this name.
    ClusterTrustBundle(String),
    /// A PEM file, such as a projected volume, read again at each renewal.
    File(PathBuf),
}
