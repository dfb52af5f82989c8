//! The server behind all pairs: answers every request with the same kibibyte, HTTP/1.1 by hand
//! and HTTP/2 with prior knowledge through hyper, told apart by the first bytes. It counts what
//! it served per protocol, so that a run can show that a proxy kept the protocol it was given.

mod onward;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

pub(crate) use onward::Onward;

use crate::load::{LocalExecutor, runtime};
use crate::machine;

/// Size of every response body.
pub(crate) const BODY_BYTES: usize = 1024;
/// A gRPC message of a kibibyte with its prefix: not compressed, and the length.
pub(crate) const MESSAGE_BYTES: usize = BODY_BYTES + 5;
pub(crate) const MESSAGE: [u8; MESSAGE_BYTES] = {
    let mut message = [b'.'; MESSAGE_BYTES];
    [message[0], message[1], message[2], message[3], message[4]] = [0, 0, 0, 4, 0];
    message
};
/// A request head beyond this ends the connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY: [u8; BODY_BYTES] = [b'.'; BODY_BYTES];

/// The running server.
pub(crate) struct Backend {
    /// Where it listens on loopback.
    pub(crate) address: SocketAddr,
    served: Arc<Served>,
    more: UnboundedSender<Place>,
}

/// One more place to serve at.
struct Place {
    listener: std::net::TcpListener,
    /// An app that calls on, instead of the server.
    onward: Option<Onward>,
}

/// Requests answered since the start.
#[derive(Default)]
struct Served {
    h1: AtomicU64,
    h2: AtomicU64,
}

impl Backend {
    /// Starts the server on its own thread, pinned to `cpu`, on a free loopback port.
    pub(crate) fn start(cpu: usize) -> Result<Backend> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let served = Arc::new(Served::default());
        let counters = Arc::clone(&served);
        let (more, places) = unbounded_channel();
        thread::Builder::new()
            .name("bench-server".into())
            .spawn(move || {
                if let Err(error) = machine::pin_thread(cpu).and_then(|()| serve(places, &counters))
                {
                    eprintln!("countersign-bench: the server ended: {error:#}");
                }
            })
            .context("could not start the server thread")?;
        let backend = Backend { address, served, more };
        backend.serve_at(listener, None)?;
        Ok(backend)
    }

    /// Serves at one more place, such as in a pod: itself, or an app that calls on.
    pub(crate) fn serve_at(
        &self,
        listener: std::net::TcpListener,
        onward: Option<Onward>,
    ) -> Result<()> {
        self.more.send(Place { listener, onward }).ok().context("the server is gone")
    }

    /// Requests served so far over HTTP/1.1 and HTTP/2.
    pub(crate) fn served(&self) -> (u64, u64) {
        (self.served.h1.load(Ordering::Relaxed), self.served.h2.load(Ordering::Relaxed))
    }
}

fn serve(mut places: UnboundedReceiver<Place>, served: &Arc<Served>) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        while let Some(place) = places.recv().await {
            let listener = TcpListener::from_std(place.listener)?;
            tokio::task::spawn_local(accept(listener, place.onward, Arc::clone(served)));
        }
        Ok(())
    })
}

async fn accept(listener: TcpListener, onward: Option<Onward>, served: Arc<Served>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (served, onward) = (Arc::clone(&served), onward.clone());
        tokio::task::spawn_local(async move {
            // A client that goes away ends its connection; there is nothing to report.
            let _ = match onward {
                Some(onward) => onward.connection(stream).await,
                None => connection(stream, &served).await,
            };
        });
    }
}

async fn connection(stream: TcpStream, served: &Served) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 4];
    if stream.peek(&mut first).await? == first.len() && &first == b"PRI " {
        return h2_connection(stream, served).await;
    }
    h1_connection(stream, served).await
}

async fn h2_connection(stream: TcpStream, served: &Served) -> Result<()> {
    let answer = service_fn(|request: Request<Incoming>| {
        served.h2.fetch_add(1, Ordering::Relaxed);
        answer(request)
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.max_concurrent_streams(1000);
    builder.serve_connection(TokioIo::new(stream), answer).await?;
    Ok(())
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    if request.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/grpc") {
        return Ok(Response::new(Full::new(Bytes::from_static(&BODY)).boxed()));
    }
    request.into_body().collect().await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Full::new(Bytes::from_static(&MESSAGE));
    let body = message.with_trailers(async move { Some(Ok(trailers)) }).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

async fn h1_connection(stream: TcpStream, served: &Served) -> Result<()> {
    let response = h1_response();
    let (mut stream, mut head) = (stream, Vec::with_capacity(8 * 1024));
    while read_head(&mut stream, &mut head).await? {
        served.h1.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&response).await?;
    }
    Ok(())
}

/// Reads the next head into `head`; false when the client has gone.
///
/// Clients here send bodiless requests, one at a time per connection.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> Result<bool> {
    head.clear();
    loop {
        stream.readable().await?;
        match stream.try_read_buf(head) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(false);
        }
    }
}

fn h1_response() -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    );
    let mut response = head.into_bytes();
    response.extend_from_slice(&BODY);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Protocol, Target, probe};

    #[test]
    fn all_protocols_are_answered_and_counted() {
        let cores = machine::Cores::pick().unwrap();
        let server = Backend::start(cores.load).unwrap();
        for protocol in [Protocol::H1, Protocol::H2, Protocol::Grpc] {
            probe(&Target { address: server.address, protocol, tokens: None, pod: None }).unwrap();
        }
        assert_eq!(server.served(), (1, 2));
    }
}
