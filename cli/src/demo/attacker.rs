//! What the demo itself plays: a compromised workload that leaks its tokens, and a thief.
//!
//! Both hold real identities from the authority. Neither checks whom it talks to: an attacker
//! would not, and nothing the demo shows may depend on the attacker's good manners.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use countersign_certs_client::source::workload_api::{Endpoint, JwtKeys};
use countersign_certs_client::{CertSource, CertsHandle, Identity, source};
use http::{Request, Response, Version};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::ask::{Answer, read};

const MESH_H2: &[u8] = b"countersign/h2";
const IDENTITY_MAX: Duration = Duration::from_secs(10);
const TOKEN_MAX: Duration = Duration::from_secs(5);

/// A workload of the demo process with a certificate of its own, which rotates like any other.
pub(super) struct Workload {
    certs: CertsHandle,
}

impl Workload {
    /// Fetches the identity from its socket.
    pub(super) async fn start(socket: &Path) -> anyhow::Result<Workload> {
        let endpoint = Endpoint::Unix(socket.to_path_buf());
        let certs = source::spawn(
            CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore },
            None,
            Arc::new(now_ms),
        );
        let mut updates = certs.certs();
        let first = updates.wait_for(|certs| certs.identity.is_some());
        let first = tokio::time::timeout(IDENTITY_MAX, first).await;
        first.with_context(|| format!("no identity from {}", socket.display()))??;
        Ok(Workload { certs })
    }

    fn identity(&self) -> anyhow::Result<Arc<Identity>> {
        self.certs.certs().borrow().identity.clone().context("the identity was withdrawn")
    }

    /// Sends a request to a sidecar over mutual TLS, with this workload's own certificate.
    pub(super) async fn call(
        &self,
        sidecar: SocketAddr,
        url: &str,
        stolen: Option<&Stolen>,
    ) -> anyhow::Result<Answer> {
        let config = client(&*self.identity()?)?;
        let stream = TcpStream::connect(sidecar).await?;
        let name = ServerName::IpAddress(sidecar.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::get(url).version(Version::HTTP_2);
        if let Some(Stolen { token, hops }) = stolen {
            request = request.header("txn-token", token);
            if let Some(hops) = hops {
                request = request.header("countersign-hops", hops);
            }
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let answer = read(response).await;
        driver.abort();
        answer
    }
}

/// What the compromised workload gives away of a request.
#[derive(Debug)]
pub(super) struct Stolen {
    /// The context token.
    pub(super) token: String,
    /// The records of how it got there.
    pub(super) hops: Option<String>,
}

/// The compromised workload: it serves its port and gives every token it is handed away.
pub(super) struct Leaky {
    tokens: mpsc::UnboundedReceiver<Stolen>,
    serving: JoinHandle<()>,
}

impl Leaky {
    /// Serves `address` as `workload`.
    pub(super) async fn start(workload: Workload, address: SocketAddr) -> anyhow::Result<Leaky> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("could not listen on {address}"))?;
        let (leak, tokens) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = workload.identity().and_then(|identity| server(&identity));
                let Ok(config) = config else { continue };
                tokio::spawn(connection(stream, Arc::new(config), leak.clone()));
            }
        });
        Ok(Leaky { tokens, serving })
    }

    /// The next token it was handed.
    pub(super) async fn leaked(&mut self) -> anyhow::Result<Stolen> {
        let token = tokio::time::timeout(TOKEN_MAX, self.tokens.recv()).await;
        token.context("no token reached demo/leaky")?.context("demo/leaky has stopped")
    }
}

impl Drop for Leaky {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn connection(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    leak: mpsc::UnboundedSender<Stolen>,
) {
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let respond = |request: Request<Incoming>| {
        let field = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let hops = field("countersign-hops");
        let _ = field("txn-token").map(|token| leak.send(Stolen { token, hops }));
        async { anyhow::Ok(Response::new(Full::<Bytes>::from("thank you\n"))) }
    };
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(respond))
        .await;
}

fn server(identity: &Identity) -> anyhow::Result<rustls::ServerConfig> {
    let certified = rustls::sign::SingleCertAndKey::from(identity.to_rustls());
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![MESH_H2.to_vec()];
    Ok(config)
}

fn client(identity: &Identity) -> anyhow::Result<rustls::ClientConfig> {
    let certified = rustls::sign::SingleCertAndKey::from(identity.to_rustls());
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_client_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![MESH_H2.to_vec()];
    config.enable_sni = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Accepts whoever answers.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
