//! Plain HTTP/1.1 requests of the demo, each on a connection of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Time for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer, complete.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its fields.
    pub(super) headers: HeaderMap,
    /// Its body.
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The decision id the answer names.
    pub(super) fn decision(&self) -> Option<String> {
        let id = self.headers.get("countersign-decision")?;
        id.to_str().ok().map(str::to_owned)
    }
}

/// Sends one POST of JSON and reads the answer.
pub(super) async fn post(
    address: SocketAddr,
    path: &str,
    fields: &[(&'static str, &str)],
    body: &Value,
) -> anyhow::Result<Answer> {
    let (mut head, ()) = Request::post(path).body(())?.into_parts();
    head.headers = headers(address, fields)?;
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    let request = Request::from_parts(head, Full::<Bytes>::from(body.to_string()));
    let answer = tokio::time::timeout(ANSWER_MAX, exchange(address, request)).await;
    answer
        .with_context(|| format!("no answer within {} s", ANSWER_MAX.as_secs()))
        .and_then(|answer| answer)
        .with_context(|| format!("POST http://{address}{path}"))
}

/// Sends one GET and reads the answer.
pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    fields: &[(&'static str, &str)],
) -> anyhow::Result<Answer> {
    let request = request(address, path, fields)?;
    let answer = tokio::time::timeout(ANSWER_MAX, exchange(address, request)).await;
    answer
        .with_context(|| format!("no answer within {} s", ANSWER_MAX.as_secs()))
        .and_then(|answer| answer)
        .with_context(|| format!("GET http://{address}{path}"))
}

async fn exchange<B>(address: SocketAddr, request: Request<B>) -> anyhow::Result<Answer>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        read(response).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends first when the peer closes; the answer may already be there.
        _ = &mut connection => answer.await,
    }
}

/// A GET with these fields; `host` among them replaces the address.
pub(super) fn request(
    address: SocketAddr,
    path: &str,
    fields: &[(&'static str, &str)],
) -> anyhow::Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(path).body(Empty::new())?;
    *request.headers_mut() = headers(address, fields)?;
    Ok(request)
}

fn headers(address: SocketAddr, fields: &[(&'static str, &str)]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::try_from(address.to_string())?);
    for (name, value) in fields {
        headers.insert(HeaderName::from_static(name), HeaderValue::try_from(*value)?);
    }
    Ok(headers)
}

/// Reads an answer to its end.
pub(super) async fn read(
    response: hyper::Response<hyper::body::Incoming>,
) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}
