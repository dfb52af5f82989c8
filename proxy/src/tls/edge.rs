//! The certificate of a public listener and the authorities of its clients, read again when their
//! files change.
//!
//! Invariant: files that cannot be used leave the last good ones in force, all of them.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_config::{ClientCertificates, ServerCertificate};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::clients::{AnyClient, ClientRoots};
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
    current: ArcSwap<Current>,
    seen: ArcSwap<Files>,
}

/// What is served with files of one moment.
#[derive(Clone)]
pub struct Current {
    /// The TLS side.
    pub server: Arc<rustls::ServerConfig>,
    /// Who vouches for clients.
    pub client_roots: Option<Arc<ClientRoots>>,
}

/// The content of all files: certificate, key, and each file of authorities.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    roots: Vec<Vec<u8>>,
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

    /// What the next connection is served with.
    pub fn current(&self) -> Arc<Current> {
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

fn read(files: &ServerCertificate) -> Result<Files, EdgeTlsError> {
    let read = |file: &PathBuf| {
        std::fs::read(file)
            .map_err(|error| EdgeTlsError::File { file: file.clone(), problem: error.to_string() })
    };
    let roots = files.client_roots.values().map(read).collect::<Result<_, _>>()?;
    Ok(Files { certificate: read(&files.certificate)?, key: read(&files.key)?, roots })
}

fn build(
    files: &ServerCertificate,
    contents: &Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Current, EdgeTlsError> {
    let pem = |file: &PathBuf, problem: String| EdgeTlsError::File { file: file.clone(), problem };
    let unusable = |source| EdgeTlsError::Unusable { file: files.certificate.clone(), source };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&contents.certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(&files.certificate, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| pem(&files.key, error.to_string()))?;
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, provider).map_err(unusable)?;
    let client_roots = client_roots(files, contents, provider)?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?;
    let builder = if files.asks_clients() {
        let by_roots = files.client_certificates == ClientCertificates::Roots;
        let asked = client_roots.as_deref().filter(|_| by_roots);
        let verifier = AnyClient::new(asked, Arc::clone(provider));
        builder.with_client_cert_verifier(Arc::new(verifier))
    } else {
        builder.with_no_client_auth()
    };
    let mut server = builder.with_cert_resolver(Arc::new(SingleCertificate(Arc::new(certified))));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    harden(&mut server);
    Ok(Current { server: Arc::new(server), client_roots })
}

fn client_roots(
    files: &ServerCertificate,
    contents: &Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<ClientRoots>>, EdgeTlsError> {
    if files.client_roots.is_empty() {
        return Ok(None);
    }
    ClientRoots::build(&files.client_roots, &contents.roots, provider)
        .map(|roots| Some(Arc::new(roots)))
        .map_err(|(file, problem)| EdgeTlsError::File { file, problem })
}
