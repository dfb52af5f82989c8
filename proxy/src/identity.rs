//! From what is configured to the source that is asked for this process's identity.

use std::sync::Arc;

use countersign_certs_client::source::workload_api::JwtKeys;
use countersign_certs_client::{CertSource, CertsHandle, KeyMaker, source};
use countersign_config::{FilesKey, IdentitySource, KeyPlace, ProxyConfig};

use crate::clock::Now;

/// Starts the configured source on the current runtime.
pub(crate) fn start(config: &ProxyConfig) -> CertsHandle {
    let clock = Arc::new(|| Now::read().millis());
    let keys = match &config.key {
        KeyPlace::Memory => KeyMaker::Software,
        KeyPlace::Pkcs11(token) => KeyMaker::Pkcs11(token.clone()),
    };
    let source = certs_source(config);
    tracing::info!(%source, private_key = key_is(config), "identity source");
    source::spawn_with(source, keys, config.expected_id.clone(), clock)
}

/// Where the private key is made and kept: what an operator trusts beside this process.
fn key_is(config: &ProxyConfig) -> &'static str {
    match (&config.identity, &config.key) {
        (IdentitySource::Files { key: Some(FilesKey::Pkcs11(_)), .. }, _) => "in a token",
        (IdentitySource::Files { .. } | IdentitySource::WorkloadApi { .. }, _) => {
            "made elsewhere, and known to whoever delivers it"
        }
        (_, KeyPlace::Pkcs11(_)) => "made in a token, which it never leaves",
        (_, KeyPlace::Memory) => "made in this process, which it never leaves",
    }
}

fn certs_source(config: &ProxyConfig) -> CertSource {
    match &config.identity {
        IdentitySource::WorkloadApi { endpoint } => CertSource::WorkloadApi {
            endpoint: endpoint.clone(),
            // Only a gateway checks the JWT-SVIDs of callers.
            jwt_keys: match config.gateway.is_empty() {
                true => JwtKeys::Ignore,
                false => JwtKeys::Follow,
            },
        },
        IdentitySource::KubernetesCsr(csr) => CertSource::KubernetesCsr(csr.clone()),
        IdentitySource::Files { certificate, key, bundle } => CertSource::Files {
            certificate: certificate.clone(),
            key: key.clone(),
            bundle: bundle.clone(),
        },
        IdentitySource::Vault(role) => CertSource::Vault(role.clone()),
    }
}
