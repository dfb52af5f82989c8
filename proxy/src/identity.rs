//! From what is configured to the source that is asked for this process's identity.

use std::sync::Arc;

use countersign_certs_client::source::workload_api::JwtKeys;
use countersign_certs_client::{CertSource, CertsHandle, KeyMaker, source};
use countersign_config::{IdentitySource, KeyPlace, ProxyConfig};

use crate::clock::Now;

/// Starts the configured source on the current runtime.
pub(crate) fn start(config: &ProxyConfig) -> CertsHandle {
    let clock = Arc::new(|| Now::read().millis());
    let keys = match &config.key {
        KeyPlace::Memory => KeyMaker::Software,
        KeyPlace::Pkcs11(token) => KeyMaker::Pkcs11(token.clone()),
    };
    source::spawn_with(certs_source(config), keys, config.expected_id.clone(), clock)
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
