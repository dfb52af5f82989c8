//! A live peer: what it shows to whoever connects, and what it says to the certificate it is shown.
//!
//! Invariant: the peer proves that it holds the key of the certificate (signatures are checked),
//! but nothing here trusts it; nothing is sent but the handshake and the end of the connection.

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long connecting, the handshake and the end of the connection may take, each.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Bytes a peer may send before it closes.
const REST_BYTES_MAX: u64 = 64 * 1024;
/// What is offered: first what sidecars speak, then the Web.
const PROTOCOLS: [&str; 5] =
    ["countersign/h2", "countersign/http1.1", "countersign/tcp", "h2", "http/1.1"];

/// How a live peer is asked.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct PeerArgs {
    /// Live peers: the identity to present (file, folder or socket)
    #[arg(long, value_name = "SOURCE")]
    pub(super) present: Option<String>,
    /// Live peers: the private key of --present, if it is in a file of its own
    #[arg(long, value_name = "FILE", requires = "present")]
    pub(super) present_key: Option<PathBuf>,
    /// Live peers: the server name to send; sidecars want none
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Live peers: the protocols to offer; default: those of sidecars, then h2 and http/1.1
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    alpn: Vec<String>,
}

/// What a connection showed beside the chain.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PeerFacts {
    pub(super) tls: String,
    pub(super) cipher: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alpn: Option<String>,
    pub(super) client_certificate: ClientCertificate,
}

/// What became of the client's side of the proof.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientCertificate {
    /// The peer takes any client.
    NotAsked,
    /// Asked for; the peer went on.
    Accepted { presented: bool },
    /// Asked for; the peer ended the connection with this alert.
    Refused { presented: bool, alert: String },
}

/// A peer's chain and facts.
pub(super) struct Seen {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) facts: PeerFacts,
}

/// One connection.
pub(super) async fn ask(
    host: &str,
    port: u16,
    present: Option<Arc<CertifiedKey>>,
    args: &PeerArgs,
) -> anyhow::Result<Seen> {
    let offered: Vec<Vec<u8>> = match args.alpn.as_slice() {
        [] => PROTOCOLS.iter().map(|name| name.as_bytes().to_vec()).collect(),
        named => named.iter().map(|name| name.as_bytes().to_vec()).collect(),
    };
    match connect(host, port, present.clone(), args, offered).await {
        // A server that speaks something else still has a certificate to show.
        Err(error) if args.alpn.is_empty() && alert(&error) == Some(NO_PROTOCOL) => {
            connect(host, port, present, args, Vec::new()).await
        }
        seen => seen,
    }
}

const NO_PROTOCOL: AlertDescription = AlertDescription::NoApplicationProtocol;

async fn connect(
    host: &str,
    port: u16,
    present: Option<Arc<CertifiedKey>>,
    args: &PeerArgs,
    offered: Vec<Vec<u8>>,
) -> anyhow::Result<Seen> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let own = Arc::new(Presented { key: present, asked: AtomicBool::new(false) });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ShowsAnybody(provider)))
        .with_client_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = offered;
    config.enable_sni = args.server_name.is_some();
    let name = args.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).context("--server-name")?;
    let tcp = tokio::time::timeout(STEP_MAX, TcpStream::connect((host, port))).await;
    let tcp = tcp
        .with_context(|| format!("{host}:{port} does not answer"))?
        .with_context(|| format!("cannot connect to {host}:{port}"))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let tls = tokio::time::timeout(STEP_MAX, handshake).await;
    let mut tls = tls
        .with_context(|| format!("{host}:{port} does not finish a TLS handshake; is it TLS?"))?
        .with_context(|| format!("TLS handshake with {host}:{port}"))?;
    let refused = ending(&mut tls).await;
    let (_, session) = tls.get_ref();
    let Some(chain) = session.peer_certificates() else { bail!("{host}:{port} showed none") };
    let presented = own.key.is_some();
    let client_certificate = match (own.asked.load(Ordering::Relaxed), refused) {
        (_, Some(alert)) => ClientCertificate::Refused { presented, alert },
        (true, None) => ClientCertificate::Accepted { presented },
        (false, None) => ClientCertificate::NotAsked,
    };
    let text = |value: Option<&dyn Debug>| value.map(|value| format!("{value:?}"));
    let version = session.protocol_version();
    let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
    let group = session.negotiated_key_exchange_group().map(|group| group.name());
    let facts = PeerFacts {
        tls: text(version.as_ref().map(|v| v as &dyn Debug)).unwrap_or_default().replace('_', "."),
        cipher: text(suite.as_ref().map(|s| s as &dyn Debug)).unwrap_or_default(),
        group: text(group.as_ref().map(|g| g as &dyn Debug)),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        client_certificate,
    };
    Ok(Seen { chain: chain.iter().map(|one| one.clone().into_owned()).collect(), facts })
}

/// Says goodbye and reads to the end. In TLS 1.3 the peer judges our certificate after our own
/// handshake is over: its alert, or its goodbye, is the answer.
async fn ending(tls: &mut TlsStream<TcpStream>) -> Option<String> {
    let said = async {
        tls.shutdown().await?;
        let mut rest = Vec::new();
        tls.take(REST_BYTES_MAX).read_to_end(&mut rest).await
    };
    let Ok(Err(error)) = tokio::time::timeout(STEP_MAX, said).await else { return None };
    alert(&error.into()).map(|alert| format!("{alert:?}"))
}

/// The alert a peer ended a connection with.
fn alert(error: &anyhow::Error) -> Option<AlertDescription> {
    error.chain().find_map(|cause| {
        let io = cause.downcast_ref::<std::io::Error>()?;
        match io.get_ref()?.downcast_ref::<Error>()? {
            Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    })
}

/// The one certificate we have, whoever asks.
#[derive(Debug)]
struct Presented {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// Lets every chain through, to be shown; signatures must be right.
#[derive(Debug)]
struct ShowsAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for ShowsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
