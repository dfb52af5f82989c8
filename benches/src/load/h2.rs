//! An HTTP/2 client connection through hyper, shared by as many slots as the shape has streams.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::slot::Answer;
use super::{HOST, LocalExecutor, PATH};

pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    uri: Uri,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = Builder::new(LocalExecutor).handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // A broken connection shows in every request still on it.
            let _ = driver.await;
        });
        Ok(Connection { sender, uri: format!("http://{HOST}{PATH}").parse()? })
    }

    pub(super) fn stream(&self) -> Stream {
        Stream { sender: self.sender.clone(), uri: self.uri.clone() }
    }
}

pub(super) struct Stream {
    sender: SendRequest<Empty<Bytes>>,
    uri: Uri,
}

impl Stream {
    pub(super) async fn exchange(&mut self, token: Option<&HeaderValue>) -> Result<Answer> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let (mut body_bytes, mut reason) = (0, String::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            body_bytes += data.len();
            if status != 200 {
                reason.push_str(&format!(": {}", String::from_utf8_lossy(&data)));
            }
        }
        Ok(Answer { status, body_bytes, reason })
    }
}
