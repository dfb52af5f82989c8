//! From what is configured to the source that is asked for this process's identity.

use std::sync::Arc;

use countersign_certs_client::source::workload_api;
use countersign_certs_client::{CertSource, CertsHandle, source};
use countersign_config::{IdentitySource, ProxyConfig};

use crate::clock::Now;

/// Starts the configured source on the current runtime.
pub(crate) fn start(config: &ProxyConfig) -> CertsHandle {
    let clock = Arc::new(|| Now::read().millis());
    source::spawn(certs_source(&config.identity), config.expected_id.clone(), clock)
}

fn certs_source(configured: &IdentitySource) -> CertSource {
    match configured {
        IdentitySource::WorkloadApi { socket } => {
            CertSource::WorkloadApi { endpoint: workload_api::Endpoint::Unix(socket.clone()) }
        }
        IdentitySource::Files { certificate, key, bundle } => CertSource::Files {
            certificate: certificate.clone(),
            key: Some(key.clone()),
            bundle: bundle.clone(),
        },
    }
}
