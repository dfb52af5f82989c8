//! HTTP clients: curl from outside, an app to its sidecar, a hostile peer with any certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::wait;

/// The body of requests and of apps' responses.
pub type Body = UnsyncBoxBody<Bytes, anyhow::Error>;

/// A body that is sent piece by piece through the channel.
pub fn stream() -> (mpsc::Sender<Result<Frame<Bytes>>>, Body) {
    let (sender, pieces) = mpsc::channel(1);
    (sender, StreamBody::new(ReceiverStream::new(pieces)).boxed_unsync())
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A request, whatever protocol it will travel in.
#[derive(Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// `Host` or `:authority`.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

impl Call {
    /// A GET.
    pub fn get(host: &str, target: &str) -> Call {
        Call {
            method: Method::GET,
            host: host.to_owned(),
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: full(""),
        }
    }

    /// A POST of some bytes.
    pub fn post(host: &str, target: &str, body: impl Into<Bytes>) -> Call {
        Call { method: Method::POST, body: full(body), ..Call::get(host, target) }
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Call {
        self.method = method;
        self
    }

    /// With one more header line.
    ///
    /// # Panics
    /// When name or value cannot stand in a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Call {
        let name: http::HeaderName = name.parse().unwrap();
        self.headers.append(name, value.parse().unwrap());
        self
    }

    /// With an end user's bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Call {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With a context token.
    #[must_use]
    pub fn context(self, token: &str) -> Call {
        self.header("txn-token", token)
    }

    /// Marked as gRPC.
    #[must_use]
    pub fn grpc(self) -> Call {
        self.method(Method::POST)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Call {
        self.body = body;
        self
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Trailers, empty if there were none.
    pub trailers: HeaderMap,
}

impl Reply {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("status {}: not JSON ({error}): {}", self.status, self.text())
        })
    }

    /// A header as the app behind the last proxy saw it, as a mirror app tells.
    pub fn seen(&self, name: &str) -> Option<String> {
        self.json()["headers"][name].as_str().map(str::to_owned)
    }

    /// The decision id.
    ///
    /// # Panics
    /// When there is none.
    pub fn decision(&self) -> String {
        self.header("countersign-decision")
            .unwrap_or_else(|| panic!("no decision id in {} {:?}", self.status, self.headers))
            .to_owned()
    }
}

/// An open connection.
pub enum Conn {
    /// HTTP/1.1.
    H1(http1::SendRequest<Body>),
    /// HTTP/2.
    H2(http2::SendRequest<Body>),
}

impl Conn {
    /// Plaintext HTTP/1.1.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn h1(address: SocketAddr) -> Result<Conn> {
        Conn::h1_over(TcpStream::connect(address).await?).await
    }

    /// Plaintext HTTP/2.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn h2(address: SocketAddr) -> Result<Conn> {
        Conn::h2_over(TcpStream::connect(address).await?).await
    }

    /// TLS, then the protocol that was agreed on.
    ///
    /// # Errors
    /// When the handshake fails; with TLS 1.3 a refused client certificate shows at the first
    /// request.
    pub async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Conn> {
        let stream = tls_stream(address, config).await?;
        let h2 = matches!(stream.get_ref().1.alpn_protocol(), Some(b"countersign/h2" | b"h2"));
        if h2 { Conn::h2_over(stream).await } else { Conn::h1_over(stream).await }
    }

    /// HTTP/1.1 over an open stream.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn h1_over<IO>(io: IO) -> Result<Conn>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Conn::H1(sender))
    }

    /// HTTP/2 over an open stream.
    ///
    /// # Errors
    /// When the stream is closed.
    pub async fn h2_over<IO>(io: IO) -> Result<Conn>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Conn::H2(sender))
    }

    /// Whether the other end has closed it.
    pub fn is_closed(&self) -> bool {
        match self {
            Conn::H1(sender) => sender.is_closed(),
            Conn::H2(sender) => sender.is_closed(),
        }
    }

    /// The same connection for another request at the same time: HTTP/2 only.
    pub fn share(&self) -> Option<Conn> {
        match self {
            Conn::H1(_) => None,
            Conn::H2(sender) => Some(Conn::H2(sender.clone())),
        }
    }

    /// Sends one request and waits for the response head.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn start(&mut self, call: Call) -> Result<Response<Incoming>> {
        let Call { method, host, target, headers, body } = call;
        match self {
            Conn::H1(sender) => {
                let mut request = Request::builder().method(method).uri(target).body(body)?;
                *request.headers_mut() = headers;
                request.headers_mut().entry("host").or_insert(host.parse()?);
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Conn::H2(sender) => {
                let uri = format!("http://{host}{target}");
                let mut request = Request::builder().method(method).uri(uri).body(body)?;
                *request.headers_mut() = headers;
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Sends one request and waits for the whole response.
    ///
    /// # Errors
    /// When the connection breaks or takes too long.
    pub async fn send(&mut self, call: Call) -> Result<Reply> {
        let exchange = async { collect(self.start(call).await?).await };
        tokio::time::timeout(wait::DEADLINE, exchange).await.context("no whole response")?
    }
}

/// Reads a response to its end.
///
/// # Errors
/// When it breaks off.
pub async fn collect(response: Response<Incoming>) -> Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the response body broke off")?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
        trailers,
    })
}

/// One request on a fresh plaintext HTTP/1.1 connection.
///
/// # Panics
/// When there is no response.
pub async fn call(address: SocketAddr, call: Call) -> Reply {
    let mut conn = Conn::h1(address).await.unwrap();
    conn.send(call).await.unwrap()
}

/// A TLS connection to an address.
///
/// # Errors
/// When TCP or TLS fails.
pub async fn tls_stream(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = TlsConnector::from(config).connect(name, tcp);
    Ok(tokio::time::timeout(wait::DEADLINE, handshake).await??)
}

/// Writes bytes and reads whatever comes until the other end closes. A reset counts as the end.
///
/// # Panics
/// When the other end neither answers nor closes.
pub async fn raw<IO>(mut io: IO, bytes: &[u8]) -> String
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let _ = io.write_all(bytes).await;
    let _ = io.flush().await;
    let mut answer = Vec::new();
    let _ = wait::ends("a raw exchange", io.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// [`raw`] on a fresh TCP connection.
///
/// # Panics
/// When nobody listens.
pub async fn raw_tcp(address: SocketAddr, bytes: &[u8]) -> String {
    raw(TcpStream::connect(address).await.unwrap(), bytes).await
}

/// The parts of a raw answer that [`Reply`] has.
///
/// # Panics
/// When the text is no HTTP/1 response.
pub fn parse_raw(answer: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    Reply {
        status: status.unwrap_or_else(|| panic!("no HTTP response: {answer:?}")),
        headers,
        body: Bytes::copy_from_slice(body.as_bytes()),
        trailers: HeaderMap::new(),
    }
}
