//! F-4, `https_spiffe`: a bundle endpoint is authenticated by its SPIFFE ID.
//!
//! Invariant: the chain is validated with the latest bundle of its own trust domain and no other
//! root, and the ID is the configured one; names in the URL are not looked at.

use std::sync::Arc;

use countersign_workload_id::WorkloadId;
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    bundle::{Bundle, TrustBundles},
    svid::{self, SvidError, Usage},
};

/// Accepts one identity, vouched for by one bundle.
#[derive(Debug)]
pub struct EndpointVerifier {
    expected: WorkloadId,
    bundles: TrustBundles,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why an endpoint was refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("expected {expected}, the server is {presented}")]
    Unexpected { expected: WorkloadId, presented: WorkloadId },
}

impl EndpointVerifier {
    /// For the endpoint `expected`, with the bundle of its trust domain.
    pub fn new(expected: WorkloadId, bundle: Bundle) -> EndpointVerifier {
        let bundles = TrustBundles::from_iter([(expected.trust_domain().clone(), bundle)]);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        EndpointVerifier { expected, bundles, algorithms }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refused> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let svid = svid::validate(&chain, &self.bundles, Usage::TlsServer, now)?;
        if svid.id != self.expected {
            let expected = self.expected.clone();
            return Err(Refused::Unexpected { expected, presented: svid.id });
        }
        Ok(())
    }
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now).map_err(|refused| {
            let other = OtherError(Arc::new(refused));
            rustls::Error::InvalidCertificate(CertificateError::Other(other))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
