//! Serves the pages on the admin and metrics addresses, on the control thread.
//!
//! Connections are futures of the serving task, not tasks of their own, so stopping the task ends
//! them. LIMIT: `ADMIN_CONNS_MAX` connections over both addresses, `ADMIN_HEAD_MS_MAX` and
//! `ADMIN_HEAD_BYTES_MAX` for a head, one minute for a connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::pages::Pages;
use crate::clock::Now;

/// How long one connection may stay.
const CONNECTION_S_MAX: u64 = 60;

/// Which pages an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Admin,
    Metrics,
}

/// The server of both addresses. Clones share the connection limit.
#[derive(Clone, Debug)]
pub struct AdminServer {
    pages: Arc<Pages>,
    slots: Arc<Semaphore>,
}

impl AdminServer {
    /// A server of these pages.
    pub fn new(pages: Pages) -> AdminServer {
        let slots = Arc::new(Semaphore::new(limits::ADMIN_CONNS_MAX));
        AdminServer { pages: Arc::new(pages), slots }
    }

    /// Serves the admin pages until `stop`. Refuses to start on an address that is not loopback.
    pub async fn serve_admin(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            let why = format!("the admin address {address} is not a loopback address");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        self.serve(listener, Side::Admin, stop).await;
        Ok(())
    }

    /// Serves `/metrics`, `/ready` and `/live` until `stop`.
    pub async fn serve_metrics(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        self.serve(listener, Side::Metrics, stop).await;
    }

    async fn serve(self, listener: TcpListener, side: Side, stop: impl Future<Output = ()>) {
        let mut connections = FuturesUnordered::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                Some(()) = connections.next(), if !connections.is_empty() => {}
                accepted = self.accept(&listener) => {
                    if let Some((stream, slot)) = accepted {
                        let connection = self.connection(stream, side);
                        connections.push(async move {
                            connection.await;
                            drop(slot);
                        });
                    }
                }
            }
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let slot = self.slots.clone().acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, _)) => Some((stream, slot)),
            Err(error) => {
                tracing::debug!(%error, "accepting an admin connection failed");
                tokio::time::sleep(Duration::from_millis(limits::ACCEPT_BACKOFF_MS_MAX)).await;
                None
            }
        }
    }

    fn connection(&self, stream: TcpStream, side: Side) -> impl Future<Output = ()> + use<> {
        let pages = self.pages.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let now = Now::read();
            let answer = match side {
                Side::Admin => pages.admin(&request, now),
                Side::Metrics => pages.metrics(&request, now),
            };
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits::ADMIN_HEAD_MS_MAX))
            .max_buf_size(limits::ADMIN_HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        async move {
            let limit = Duration::from_secs(CONNECTION_S_MAX);
            if let Ok(Err(error)) = tokio::time::timeout(limit, connection).await {
                tracing::debug!(%error, "an admin connection ended early");
            }
        }
    }
}
