//! The standard SPIFFE Workload API on one Unix socket: whoever may open the socket is the
//! workload.
//!
//! The streams push at every rotation, JWT-SVIDs are made and checked on demand; every other call
//! answers `Unimplemented`, and a call without the security header `InvalidArgument`.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use countersign_certs_client::source::workload_api::wire::{
    FETCH_JWT_BUNDLES, FETCH_JWT_SVID, FETCH_X509_BUNDLES, FETCH_X509_SVID, JwtBundlesRequest,
    JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse, SECURITY_HEADER,
    VALIDATE_JWT_SVID, ValidateJwtSvidRequest, X509BundlesRequest, X509BundlesResponse, X509Svid,
    X509SvidRequest, X509SvidResponse,
};
use countersign_workload_id::WorkloadId;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{
    ca::Issued,
    lenient::Lenient,
    tokens::{Tokens, ValidateJwtSvidResponse},
    unix_now,
};

/// What a socket serves right now; `None` means the workload is not entitled to an identity.
pub(super) type Current = Option<Arc<Offer>>;

/// One identity and the bundle to check others with.
pub(super) struct Offer {
    pub(super) issued: Issued,
    pub(super) bundle: Arc<[u8]>,
    pub(super) tokens: Arc<Tokens>,
}

/// A bound socket; the file is removed when this is dropped.
pub(super) struct Socket {
    listener: UnixListener,
    path: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Binds `path` for the owner only, replacing the leftover of an authority that is gone.
    pub(super) async fn bind(path: &Path) -> anyhow::Result<Socket> {
        let shown = path.display();
        if UnixStream::connect(path).await.is_ok() {
            bail!("{shown} is served by another authority; stop it, or choose another --dir");
        }
        if path.exists() && !is_socket(path) {
            bail!("{shown} exists and is not a socket; choose another --dir");
        }
        let folder = path.parent().with_context(|| format!("{shown} has no folder"))?;
        // Made where only we can look, narrowed, then moved: it is never open to others.
        let private = tempfile::Builder::new().prefix(".s").tempdir_in(folder)?;
        let fresh = private.path().join("s");
        let listener = UnixListener::bind(&fresh).with_context(|| {
            format!("cannot bind {} (a socket path has at most 107 bytes)", fresh.display())
        })?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)
            .with_context(|| format!("cannot move the socket to {shown}"))?;
        Ok(Socket { listener, path: SocketFile(path.to_owned()) })
    }

    /// Answers calls until told to stop.
    pub(super) async fn serve(self, current: watch::Receiver<Current>, stop: CancellationToken) {
        let Socket { listener, path } = self;
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => spawn_connection(stream, current.clone(), stop.clone()),
                    Err(error) => pause_after(&error).await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept => {}
        }
        drop(path);
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

async fn pause_after(error: &io::Error) {
    eprintln!("dev authority: cannot accept a connection: {error}");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

fn spawn_connection(
    stream: UnixStream,
    current: watch::Receiver<Current>,
    stop: CancellationToken,
) {
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(request, current.clone()));
        let connection = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(Lenient::new(stream)), service);
        tokio::select! {
            () = stop.cancelled() => {}
            _ = connection => {} // how a client ends its connection is its own affair
        }
    });
}

async fn answer(
    request: http::Request<Incoming>,
    current: watch::Receiver<Current>,
) -> Result<http::Response<Body>, Infallible> {
    let header = request.headers().get(SECURITY_HEADER).map(http::HeaderValue::as_bytes);
    if header != Some(b"true") {
        let text = format!("the metadata \"{SECURITY_HEADER}: true\" is missing");
        return Ok(Status::invalid_argument(text).into_http());
    }
    let response = match request.uri().path() {
        FETCH_X509_SVID => {
            let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
            Grpc::new(codec).server_streaming(Push { current, render: svid }, request).await
        }
        FETCH_X509_BUNDLES => {
            let codec = ProstCodec::<X509BundlesResponse, X509BundlesRequest>::default();
            Grpc::new(codec).server_streaming(Push { current, render: bundles }, request).await
        }
        FETCH_JWT_BUNDLES => {
            let codec = ProstCodec::<JwtBundlesResponse, JwtBundlesRequest>::default();
            let keys = |offer: &Offer| offer.tokens.bundles();
            Grpc::new(codec).server_streaming(Push { current, render: keys }, request).await
        }
        FETCH_JWT_SVID => {
            let codec = ProstCodec::<JwtSvidResponse, JwtSvidRequest>::default();
            Grpc::new(codec).unary(Answer { current, answer: token }, request).await
        }
        VALIDATE_JWT_SVID => {
            let codec = ProstCodec::<ValidateJwtSvidResponse, ValidateJwtSvidRequest>::default();
            Grpc::new(codec).unary(Answer { current, answer: check }, request).await
        }
        other => Status::unimplemented(format!(
            "{other}: this authority for development does not offer this call"
        ))
        .into_http(),
    };
    Ok(response)
}

/// A streaming answer: one message now and one at every rotation.
struct Push<M> {
    current: watch::Receiver<Current>,
    render: fn(&Offer) -> M,
}

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

impl<Q, M: Send + 'static> Service<tonic::Request<Q>> for Push<M> {
    type Response = tonic::Response<Messages<M>>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::Request<Q>) -> Self::Future {
        let mut current = self.current.clone();
        current.mark_changed();
        let render = self.render;
        let messages = futures_util::stream::unfold(Some(current), move |current| async move {
            let mut current = current?;
            current.changed().await.ok()?;
            let offer = current.borrow_and_update().clone();
            match offer {
                Some(offer) => Some((Ok(render(&offer)), Some(current))),
                None => Some((Err(Status::permission_denied("no identity issued")), None)),
            }
        });
        ready(Ok(tonic::Response::new(Box::pin(messages))))
    }
}

/// One answer to one question.
struct Answer<Q, A> {
    current: watch::Receiver<Current>,
    answer: fn(&Offer, Q) -> Result<A, Status>,
}

impl<Q: Send + 'static, A: Send + 'static> Service<tonic::Request<Q>> for Answer<Q, A> {
    type Response = tonic::Response<A>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let offer = self.current.borrow().clone();
        ready(match offer {
            Some(offer) => (self.answer)(&offer, request.into_inner()).map(tonic::Response::new),
            None => Err(Status::permission_denied("no identity issued")),
        })
    }
}

fn token(offer: &Offer, asked: JwtSvidRequest) -> Result<JwtSvidResponse, Status> {
    let id = &offer.issued.id;
    if !asked.spiffe_id.is_empty() && WorkloadId::parse(&asked.spiffe_id).ok().as_ref() != Some(id)
    {
        return Err(Status::permission_denied(format!("{} is not yours", asked.spiffe_id)));
    }
    let svid = offer.tokens.issue(id, &asked.audience, unix_now());
    let svid = svid.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let svid = JwtSvid { spiffe_id: id.to_string(), svid, hint: String::new() };
    Ok(JwtSvidResponse { svids: vec![svid] })
}

fn check(offer: &Offer, asked: ValidateJwtSvidRequest) -> Result<ValidateJwtSvidResponse, Status> {
    let checked = offer.tokens.check(&asked.svid, &asked.audience, unix_now());
    let (id, claims) = checked.map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
    Ok(ValidateJwtSvidResponse { spiffe_id: id.to_string(), claims: Some(claims.into()) })
}

fn svid(offer: &Offer) -> X509SvidResponse {
    let issued = &offer.issued;
    X509SvidResponse {
        svids: vec![X509Svid {
            spiffe_id: issued.id.to_string(),
            x509_svid: issued.certificate.clone(),
            x509_svid_key: issued.key.clone(),
            bundle: offer.bundle.to_vec(),
            hint: String::new(),
        }],
        crl: Vec::new(),
        federated_bundles: HashMap::new(),
    }
}

fn bundles(offer: &Offer) -> X509BundlesResponse {
    let domain = offer.issued.id.trust_domain().id();
    X509BundlesResponse {
        crl: Vec::new(),
        bundles: HashMap::from([(domain, offer.bundle.to_vec())]),
    }
}
