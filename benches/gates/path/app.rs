//! The app behind B: answers every request with the same kibibyte, HTTP/1.1 and HTTP/2 with prior
//! knowledge told apart by the first bytes.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::client::{LocalExecutor, runtime};

const BODY: [u8; 1024] = [b'.'; 1024];

/// The running app, on a thread of its own until it is dropped.
pub(super) struct App {
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl App {
    pub(super) fn start() -> Result<App> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, mut stopped) = oneshot::channel::<()>();
        let runtime = runtime()?;
        std::thread::Builder::new().name("gates-app".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        _ = &mut stopped => return,
                    };
                    if let Ok((stream, _)) = accepted {
                        tokio::task::spawn_local(serve(stream));
                    }
                }
            });
        })?;
        Ok(App { address, _stop: stop })
    }
}

async fn serve(stream: TcpStream) {
    let mut first = [0; 3];
    let read = stream.peek(&mut first).await.unwrap_or_default();
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    // A broken connection shows in every request still on it.
    if first.get(..read) == Some(b"PRI") {
        let _ = http2::Builder::new(LocalExecutor).serve_connection(io, service_fn(answer)).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service_fn(answer)).await;
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(&BODY)));
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}
