//! An HTTP/2 client connection through hyper, shared by as many slots as the shape has streams.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::slot::Answer;
use super::{HOST, LocalExecutor, PATH};
use crate::backend::MESSAGE;

pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    uri: Uri,
    grpc: bool,
}

impl Connection {
    /// `grpc`: every request is a unary call.
    pub(super) async fn over(stream: TcpStream, grpc: bool) -> Result<Connection> {
        stream.set_nodelay(true)?;
        let (sender, driver) = Builder::new(LocalExecutor).handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // A broken connection shows in every request still on it.
            let _ = driver.await;
        });
        Ok(Connection { sender, uri: format!("http://{HOST}{PATH}").parse()?, grpc })
    }

    pub(super) fn stream(&self) -> Stream {
        Stream { sender: self.sender.clone(), uri: self.uri.clone(), grpc: self.grpc }
    }
}

pub(super) struct Stream {
    sender: SendRequest<Full<Bytes>>,
    uri: Uri,
    pub(super) grpc: bool,
}

impl Stream {
    pub(super) async fn exchange(&mut self, token: Option<&HeaderValue>) -> Result<Answer> {
        let request = self.request(token);
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let (mut body_bytes, mut reason, mut trailers) = (0, String::new(), HeaderMap::new());
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    body_bytes += data.len();
                    if status != 200 {
                        reason.push_str(&format!(": {}", String::from_utf8_lossy(&data)));
                    }
                }
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        let told = trailers.get("grpc-status");
        ensure!(!self.grpc || status != 200 || told.is_some_and(|it| it == "0"), "{trailers:?}");
        Ok(Answer { status, body_bytes, reason })
    }

    fn request(&self, token: Option<&HeaderValue>) -> Request<Full<Bytes>> {
        let body = if self.grpc { Bytes::from_static(&MESSAGE) } else { Bytes::new() };
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = self.uri.clone();
        if self.grpc {
            *request.method_mut() = Method::POST;
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        request
    }
}
