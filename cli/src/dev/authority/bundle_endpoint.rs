//! The bundle endpoint: the trust bundle for other trust domains, by `https_spiffe`.
//!
//! Anybody may ask; what is served is public. Invariant: TLS 1.3 only, and the certificate names
//! [`ID_PATH`] of the trust domain, signed by the root that signs now.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use countersign_certs_client::BundleDoc;
use countersign_workload_id::{TrustDomain, WorkloadId};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{roots::Roots, unix_now};

/// The path of the endpoint's own SPIFFE ID.
const ID_PATH: &str = "/countersign/authority";
/// Life of the endpoint's certificate: each connection gets one of its own.
const LEAF_S: u64 = 60;
/// Time for one connection, from its handshake to its answer.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// The SPIFFE ID that answers for a trust domain.
pub(super) fn id(trust_domain: &TrustDomain) -> anyhow::Result<WorkloadId> {
    WorkloadId::parse(&format!("{}{ID_PATH}", trust_domain.id())).context("the endpoint's ID")
}

/// A bound endpoint.
pub(super) struct BundleEndpoint {
    listener: TcpListener,
    id: WorkloadId,
    roots: Arc<Mutex<Roots>>,
}

impl BundleEndpoint {
    pub(super) async fn bind(
        address: SocketAddr,
        id: WorkloadId,
        roots: Arc<Mutex<Roots>>,
    ) -> anyhow::Result<BundleEndpoint> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--bundle-endpoint: cannot listen on {address}"))?;
        Ok(BundleEndpoint { listener, id, roots })
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let config = match self.tls() {
                Ok(config) => config,
                Err(error) => {
                    eprintln!("dev authority: bundle endpoint: {error:#}");
                    continue;
                }
            };
            let answer = one(stream, config, Arc::clone(&self.roots));
            tokio::spawn(async move {
                if tokio::time::timeout(CONNECTION_MAX, answer).await.is_err() {
                    eprintln!("dev authority: bundle endpoint: {from} was too slow");
                }
            });
        }
    }

    fn tls(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let ca = Arc::clone(lock(&self.roots).active());
        let issued = ca.issue(&self.id, LEAF_S, unix_now())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivatePkcs8KeyDer::from(issued.key);
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(issued.certificate)], key.into())?;
        Ok(Arc::new(config))
    }
}

pub(super) fn lock(roots: &Mutex<Roots>) -> std::sync::MutexGuard<'_, Roots> {
    roots.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn one(stream: TcpStream, config: Arc<rustls::ServerConfig>, roots: Arc<Mutex<Roots>>) {
    // Whoever does not finish the handshake or the request has nothing to be told.
    let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), &lock(&roots));
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(method: &Method, roots: &Roots) -> Response<Full<Bytes>> {
    let status = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if method != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    match BundleDoc::render(&roots.published(), roots.sequence(), roots.hint_s()) {
        Ok(document) => {
            let mut response = Response::new(Full::new(document.into()));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            eprintln!("dev authority: bundle endpoint: {error}");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
