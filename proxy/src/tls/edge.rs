//! The certificate of a public listener, read again when its files change.
//!
//! Invariant: files that cannot be used leave the last good certificate in force.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_config::ServerCertificate;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::{SingleCertificate, harden};

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EdgeTlsError {
    /// A file that cannot be read as PEM.
    #[error("{file}: {problem}")]
    File {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key that do not fit, or a key of an unsupported kind.
    #[error("{file}: the certificate and its key cannot be used: {source}")]
    Unusable {
        /// Path of the certificate.
        file: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// The TLS side of one public listener.
pub struct EdgeTls {
    files: ServerCertificate,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<rustls::ServerConfig>,
    seen: ArcSwap<(Vec<u8>, Vec<u8>)>,
}

impl EdgeTls {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`EdgeTlsError`] naming the file.
    pub fn load(
        files: ServerCertificate,
        provider: Arc<CryptoProvider>,
    ) -> Result<EdgeTls, EdgeTlsError> {
        let bytes = read(&files)?;
        let config = build(&files, &bytes, &provider)?;
        let current = ArcSwap::from_pointee(config);
        Ok(EdgeTls { files, provider, current, seen: ArcSwap::from_pointee(bytes) })
    }

    /// The configuration for the next connection.
    pub fn current(&self) -> Arc<rustls::ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again if they changed; `Ok(true)` if a new certificate is in force.
    ///
    /// # Errors
    /// [`EdgeTlsError`]; the last good certificate stays.
    pub fn refresh(&self) -> Result<bool, EdgeTlsError> {
        let bytes = read(&self.files)?;
        if bytes == **self.seen.load() {
            return Ok(false);
        }
        let config = build(&self.files, &bytes, &self.provider)?;
        self.seen.store(Arc::new(bytes));
        self.current.store(Arc::new(config));
        Ok(true)
    }
}

fn read(files: &ServerCertificate) -> Result<(Vec<u8>, Vec<u8>), EdgeTlsError> {
    let read = |file: &PathBuf| {
        std::fs::read(file)
            .map_err(|error| EdgeTlsError::File { file: file.clone(), problem: error.to_string() })
    };
    Ok((read(&files.certificate)?, read(&files.key)?))
}

fn build(
    files: &ServerCertificate,
    (certificate, key): &(Vec<u8>, Vec<u8>),
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ServerConfig, EdgeTlsError> {
    let pem = |file: &PathBuf, problem: String| EdgeTlsError::File { file: file.clone(), problem };
    let unusable = |source| EdgeTlsError::Unusable { file: files.certificate.clone(), source };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(&files.certificate, "it holds no certificate".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| pem(&files.key, error.to_string()))?;
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, provider).map_err(unusable)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertificate(Arc::new(certified))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    harden(&mut config);
    Ok(config)
}
