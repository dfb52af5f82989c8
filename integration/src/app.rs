//! Apps for the proxies to stand in front of: each a server on a thread of its own that remembers
//! every request head it saw. With TLS it plays another sidecar, honest or not.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::client::{Body, Call, Conn, full};

/// One request head as the app saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: Method,
    /// Target as written: path and query, or absolute.
    pub target: String,
    /// Protocol version.
    pub version: Version,
    /// All headers.
    pub headers: HeaderMap,
}

impl Seen {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What an app does with a request.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send>>;
type Serve = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// A running app; dropping it stops it.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _stop: oneshot::Sender<()>,
}

impl App {
    /// Answers with what it saw, as JSON; on paths that end in `/echo` with the body and trailers.
    pub fn mirror() -> App {
        App::serving(|request| Box::pin(mirror(request)))
    }

    /// Calls on to `host` by way of its sidecar's outbound listener, in the protocol it was called
    /// in, and hands back the answer. Of the headers it forwards what `x-forward` says: `handle`,
    /// `traceparent`, `both`, `token` or `nothing`; and whatever is named `x-*`.
    pub fn relay(outbound: SocketAddr, host: &str) -> App {
        let host = host.to_owned();
        App::serving(move |request| Box::pin(relay(request, outbound, host.clone())))
    }

    /// Speaks gRPC as far as the wire goes: sends every message back, then `grpc-status: 0` in
    /// the trailers, with the verified user beside it. Methods named `Fail` answer NOT_FOUND at once.
    pub fn grpc() -> App {
        App::serving(|request| Box::pin(grpc(request)))
    }

    /// Does what `serve` says.
    pub fn serving(serve: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static) -> App {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        App::start(address, None, Arc::new(serve))
    }

    /// A mirror at a given address.
    pub fn mirror_at(address: SocketAddr) -> App {
        App::start(address, None, Arc::new(|request| Box::pin(mirror(request))))
    }

    /// A mirror on a listener of somebody's, such as a pod's.
    pub fn mirror_on(listener: std::net::TcpListener) -> App {
        App::serving_on(listener, |request| Box::pin(mirror(request)))
    }

    /// [`App::grpc`] on a listener of somebody's.
    pub fn grpc_on(listener: std::net::TcpListener) -> App {
        App::serving_on(listener, |request| Box::pin(grpc(request)))
    }

    /// Does what `serve` says, on a listener of somebody's.
    pub fn serving_on(
        listener: std::net::TcpListener,
        serve: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> App {
        App::on(listener, None, Arc::new(serve))
    }

    /// A server behind TLS on a listener of somebody's.
    pub fn tls_on(
        listener: std::net::TcpListener,
        config: Arc<ServerConfig>,
        serve: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> App {
        App::on(listener, Some(config), Arc::new(serve))
    }

    /// A server behind TLS.
    pub fn tls(
        config: Arc<ServerConfig>,
        serve: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> App {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        App::start(address, Some(config), Arc::new(serve))
    }

    /// A mirror behind TLS on a listener of somebody's.
    pub fn tls_mirror_on(listener: std::net::TcpListener, config: Arc<ServerConfig>) -> App {
        App::tls_on(listener, config, |request| Box::pin(mirror(request)))
    }

    /// A mirror behind TLS.
    pub fn tls_mirror(config: Arc<ServerConfig>) -> App {
        App::tls(config, |request| Box::pin(mirror(request)))
    }

    fn start(address: SocketAddr, tls: Option<Arc<ServerConfig>>, serve: Serve) -> App {
        App::on(std::net::TcpListener::bind(address).unwrap(), tls, serve)
    }

    fn on(socket: std::net::TcpListener, tls: Option<Arc<ServerConfig>>, serve: Serve) -> App {
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server { seen: Arc::clone(&seen), serve, tls: tls.map(TlsAcceptor::from) };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(socket).unwrap();
                tokio::select! {
                    () = server.run(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        App { address, seen, _stop: stop }
    }

    /// Every head seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what it saw, for tests of very many requests.
    pub fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The head seen last.
    ///
    /// # Panics
    /// When there was none.
    pub fn last(&self) -> Seen {
        self.seen().pop().unwrap_or_else(|| panic!("the app saw no request"))
    }
}

#[derive(Clone)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    serve: Serve,
    tls: Option<TlsAcceptor>,
}

impl Server {
    async fn run(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let server = self.clone();
            tokio::spawn(async move {
                let _ = server.connection(stream).await;
            });
        }
    }

    async fn connection(self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let Some(tls) = self.tls.clone() else {
            let mut first = [0; 3];
            let h2 = loop {
                match stream.peek(&mut first).await? {
                    3 => break first == *b"PRI",
                    0 => return Ok(()),
                    _ => tokio::task::yield_now().await,
                }
            };
            return self.http(stream, h2).await;
        };
        let stream = tls.accept(stream).await?;
        let h2 = matches!(stream.get_ref().1.alpn_protocol(), Some(b"countersign/h2" | b"h2"));
        self.http(stream, h2).await
    }

    async fn http<IO>(self, io: IO, h2: bool) -> Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = Seen {
                method: request.method().clone(),
                target: request.uri().to_string(),
                version: request.version(),
                headers: request.headers().clone(),
            };
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
            (self.serve)(request)
        });
        let io = TokioIo::new(io);
        if h2 {
            http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await?;
        } else {
            http1::Builder::new().serve_connection(io, service).await?;
        }
        Ok(())
    }
}

async fn mirror(request: Request<Incoming>) -> Result<Response<Body>> {
    if request.uri().path().ends_with("/echo") {
        let mut response = Response::new(request.into_body().map_err(Into::into).boxed_unsync());
        response.headers_mut().insert("x-echo", "1".parse()?);
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        headers.insert(name.to_string(), json!(String::from_utf8_lossy(value.as_bytes())));
    }
    let told = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": Value::Object(headers),
        "body_bytes": body.len(),
    });
    // hyper's HTTP/2 server would send the body of a HEAD too.
    let told = if head.method == Method::HEAD { String::new() } else { told.to_string() };
    Ok(Response::builder().header("content-type", "application/json").body(full(told))?)
}

async fn grpc(request: Request<Incoming>) -> Result<Response<Body>> {
    let response = Response::builder().header("content-type", "application/grpc");
    if request.uri().path().ends_with("/Fail") {
        let response = response.header("grpc-status", "5").header("grpc-message", "no such order");
        return Ok(
            response.body(http_body_util::Empty::new().map_err(|no| match no {}).boxed_unsync())?
        );
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse()?);
    if let Some(user) = request.headers().get("countersign-user") {
        trailers.insert("x-user", user.clone());
    }
    let messages = request.into_body().map_err(anyhow::Error::from);
    let body = messages.with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(response.body(body.boxed_unsync())?)
}

async fn relay(
    request: Request<Incoming>,
    outbound: SocketAddr,
    host: String,
) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let forward = head.headers.get("x-forward").and_then(|value| value.to_str().ok());
    let names: &[&str] = match forward.unwrap_or("handle") {
        "handle" => &["countersign-context"],
        "traceparent" => &["traceparent"],
        "both" => &["countersign-context", "traceparent"],
        "token" => &["txn-token"],
        _ => &[],
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let wanted = names.contains(&name.as_str())
            || name.as_str().starts_with("x-")
            || ["content-type", "te"].contains(&name.as_str());
        if wanted && !name.as_str().starts_with("x-forwarded") {
            headers.append(name.clone(), value.clone());
        }
    }
    let body = body.map_err(Into::into).boxed_unsync();
    let call = Call { method: head.method, host, target, headers, body };
    onward(outbound, head.version, call).await
}

/// Makes the call over a connection of its own, in the protocol it came in; bodies stream.
pub(crate) async fn onward(
    outbound: SocketAddr,
    version: Version,
    call: Call,
) -> Result<Response<Body>> {
    let mut conn = match version {
        Version::HTTP_2 => Conn::h2(outbound).await?,
        _ => Conn::h1(outbound).await?,
    };
    let (mut head, body) = conn.start(call).await?.into_parts();
    for name in ["connection", "transfer-encoding"] {
        head.headers.remove(name);
    }
    // The connection must live as long as the body does.
    let body = body.map_err(move |error| {
        let _open = &conn;
        error.into()
    });
    Ok(Response::from_parts(head, body.boxed_unsync()))
}

/// A response with a status and nothing else.
///
/// # Errors
/// When the status is none.
pub fn status(code: u16) -> Result<Response<Body>> {
    Ok(Response::builder().status(code).body(full(Bytes::new()))?)
}
