//! By what a server is recognised. A file is read again for every call, so that a rotated
//! authority needs no restart.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use countersign_config::limits::CONTROL_ANSWER_BYTES_MAX;
use rustls::{ClientConfig, RootCertStore, client::danger::ServerCertVerifier, version};

use super::error::Problem;
use crate::pem;

/// By what a server is recognised.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By a verifier of the caller.
    Custom(Arc<dyn ServerCertVerifier>),
    /// By the authorities in a PEM file, for the host name.
    PemFile(PathBuf),
    /// By the authorities of the operating system, for the host name.
    System,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Custom(_) => f.write_str("the configured trust"),
            Trust::PemFile(path) => write!(f, "{}", path.display()),
            Trust::System => f.write_str("the operating system"),
        }
    }
}

/// A [`Trust`] as rustls takes it.
#[derive(Clone)]
pub(super) struct Roots {
    trust: Trust,
    tls13_only: bool,
    /// What does not change while the process lives.
    fixed: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trust.fmt(f)
    }
}

impl Roots {
    pub(super) fn new(trust: Trust) -> Roots {
        Roots { trust, tls13_only: false, fixed: Arc::default() }
    }

    pub(super) fn tls13_only(self) -> Roots {
        Roots { tls13_only: true, fixed: Arc::default(), ..self }
    }

    /// The client side of a handshake.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, Problem> {
        if let Trust::PemFile(path) = &self.trust {
            let store = from_file(path)
                .map_err(|problem| Problem::Roots { path: path.display().to_string(), problem })?;
            return self.with_roots(store);
        }
        if let Some(known) = self.fixed.get() {
            return Ok(Arc::clone(known));
        }
        let config = match &self.trust {
            Trust::Custom(verifier) => Arc::new(finish(
                self.builder()?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::clone(verifier))
                    .with_no_client_auth(),
            )),
            Trust::System | Trust::PemFile(_) => self.with_roots(of_the_system().await)?,
        };
        Ok(Arc::clone(self.fixed.get_or_init(|| config)))
    }

    fn with_roots(&self, store: RootCertStore) -> Result<Arc<ClientConfig>, Problem> {
        let builder = self.builder()?.with_root_certificates(store);
        Ok(Arc::new(finish(builder.with_no_client_auth())))
    }

    fn builder(
        &self,
    ) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Problem> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if self.tls13_only { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| Problem::Tls(error.to_string()))
    }
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Reading a few hundred files takes a while, so not on the thread that runs everything else.
async fn of_the_system() -> RootCertStore {
    let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut store = RootCertStore::empty();
    if let Ok(native) = read {
        for error in &native.errors {
            tracing::warn!(%error, "some root certificates of the system were not read");
        }
        store.add_parsable_certificates(native.certs);
    }
    store
}

fn from_file(path: &Path) -> Result<RootCertStore, String> {
    let bytes_max = CONTROL_ANSWER_BYTES_MAX;
    let mut text = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() > bytes_max {
        return Err(format!("larger than {bytes_max} bytes"));
    }
    let certificates = pem::certificates(&text)?;
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates.into_iter().enumerate() {
        store
            .add(certificate)
            .map_err(|error| format!("certificate {}: {error}", index.saturating_add(1)))?;
    }
    Ok(store)
}
