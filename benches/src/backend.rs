//! The server behind both pairs: answers every request with the same kibibyte, HTTP/1.1 by hand
//! and HTTP/2 with prior knowledge through hyper, told apart by the first bytes. It counts what
//! it served per protocol, so that a run can show that a proxy kept the protocol it was given.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::load::{LocalExecutor, runtime};
use crate::machine;

/// Size of every response body.
pub(crate) const BODY_BYTES: usize = 1024;
/// A request head beyond this ends the connection.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY: [u8; BODY_BYTES] = [b'.'; BODY_BYTES];

/// The running server.
pub(crate) struct Backend {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    served: Arc<Served>,
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
        thread::Builder::new()
            .name("bench-server".into())
            .spawn(move || {
                if let Err(error) =
                    machine::pin_thread(cpu).and_then(|()| serve(listener, &counters))
                {
                    eprintln!("countersign-bench: the server ended: {error:#}");
                }
            })
            .context("could not start the server thread")?;
        Ok(Backend { address, served })
    }

    /// Requests served so far over HTTP/1.1 and HTTP/2.
    pub(crate) fn served(&self) -> (u64, u64) {
        (self.served.h1.load(Ordering::Relaxed), self.served.h2.load(Ordering::Relaxed))
    }
}

fn serve(listener: std::net::TcpListener, served: &Arc<Served>) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let served = Arc::clone(served);
            tokio::task::spawn_local(async move {
                // A client that goes away ends its connection; there is nothing to report.
                let _ = connection(stream, &served).await;
            });
        }
    })
}

async fn connection(stream: TcpStream, served: &Served) -> Result<()> {
    let mut first = [0; 4];
    if stream.peek(&mut first).await? == first.len() && &first == b"PRI " {
        return h2_connection(stream, served).await;
    }
    h1_connection(stream, served).await
}

async fn h2_connection(stream: TcpStream, served: &Served) -> Result<()> {
    let body = Bytes::from_static(&BODY);
    let answer = service_fn(|_: Request<Incoming>| {
        served.h2.fetch_add(1, Ordering::Relaxed);
        let response = Response::new(Full::new(body.clone()));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.max_concurrent_streams(1000);
    builder.serve_connection(TokioIo::new(stream), answer).await?;
    Ok(())
}

async fn h1_connection(mut stream: TcpStream, served: &Served) -> Result<()> {
    let response = h1_response();
    let mut head = Vec::with_capacity(8 * 1024);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(&mut head) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        // Clients here send bodiless requests, one at a time per connection.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            served.h1.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&response).await?;
        } else if head.len() > HEAD_BYTES_MAX {
            return Ok(());
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
    fn both_protocols_are_answered_and_counted() {
        let cores = machine::Cores::pick().unwrap();
        let server = Backend::start(cores.load).unwrap();
        for protocol in [Protocol::H1, Protocol::H2] {
            probe(&Target { address: server.address, protocol, tokens: None }).unwrap();
        }
        assert_eq!(server.served(), (1, 1));
    }
}
