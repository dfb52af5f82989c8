//! A Workload API that says what it is told, faults included: what no real agent can be made to
//! say. Everything else is as the standard asks: calls without the metadata are refused, a message
//! is complete and comes at once, calls that are not offered are `Unimplemented`.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use countersign_certs_client::source::workload_api::wire::{
    FETCH_X509_SVID, SECURITY_HEADER, X509Svid, X509SvidRequest, X509SvidResponse,
};
use futures_util::Stream;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::pki::{Authority, Leaf};

/// What is answered until something else is to be.
type Said = Result<X509SvidResponse, Code>;

/// A running one; it ends with the runtime of its test.
pub struct WorkloadApi {
    socket: PathBuf,
    said: watch::Sender<Said>,
    asked: Asked,
}

/// The path of every call that came, taken or not.
type Asked = Arc<Mutex<BTreeSet<String>>>;

impl WorkloadApi {
    /// Serves `NAME.sock` in `folder`, for every user.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn start(folder: &Path, name: &str, first: Said) -> WorkloadApi {
        let socket = folder.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let (said, heard) = watch::channel(first);
        let asked = Asked::default();
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, noted) = (heard.clone(), Arc::clone(&noted));
                let service = service_fn(move |request| {
                    note(&request, &noted);
                    answer(request, heard.clone())
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        WorkloadApi { socket, said, asked }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The paths of all calls so far, whoever made them, also of those that were refused.
    ///
    /// # Panics
    /// When the server panicked.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Says this from now on, on open streams too.
    pub fn say(&self, next: Said) {
        drop(self.said.send_replace(next));
    }
}

/// A sound message: this identity and the bundle of its authority.
pub fn message(id: &str, leaf: &Leaf, authority: &Authority) -> X509SvidResponse {
    let svid = X509Svid {
        spiffe_id: id.to_owned(),
        x509_svid: leaf.chain.iter().flat_map(|certificate| certificate.to_vec()).collect(),
        x509_svid_key: leaf.key.clone(),
        bundle: authority.der().to_vec(),
        hint: String::new(),
    };
    X509SvidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: HashMap::new() }
}

fn note(request: &http::Request<Incoming>, asked: &Asked) {
    asked.lock().unwrap().insert(request.uri().path().to_owned());
}

async fn answer(
    request: http::Request<Incoming>,
    heard: watch::Receiver<Said>,
) -> Result<http::Response<Body>, Infallible> {
    let header = request.headers().get(SECURITY_HEADER).map(http::HeaderValue::as_bytes);
    if header != Some(b"true") {
        return Ok(Status::invalid_argument("the security header is missing").into_http());
    }
    if request.uri().path() != FETCH_X509_SVID {
        return Ok(Status::unimplemented("not offered").into_http());
    }
    let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
    Ok(Grpc::new(codec).server_streaming(Say(heard), request).await)
}

struct Say(watch::Receiver<Said>);

impl ServerStreamingService<X509SvidRequest> for Say {
    type Response = X509SvidResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<X509SvidResponse, Status>> + Send>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<X509SvidRequest>) -> Self::Future {
        let mut heard = self.0.clone();
        heard.mark_changed();
        let messages = futures_util::stream::unfold(Some(heard), |heard| async move {
            let mut heard = heard?;
            heard.changed().await.ok()?;
            let next = heard.borrow_and_update().clone();
            Some(match next {
                Ok(message) => (Ok(message), Some(heard)),
                Err(code) => (Err(Status::new(code, "as told")), None),
            })
        });
        std::future::ready(Ok(tonic::Response::new(Box::pin(messages))))
    }
}
