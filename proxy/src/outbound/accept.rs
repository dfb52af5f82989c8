//! A connection of the app: plaintext HTTP/1.1 or HTTP/2 on a loopback listener.
//!
//! Invariant: nothing the app writes is trusted; its reserved headers are taken out before any
//! stage reads the request.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use countersign_config::limits;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadLimits};
use crate::http::serve::{self, Ending, Exchange};
use crate::inbound::accept::connection_age;
use crate::intercept::prefixed::{Prefixed, Version, read_version};
use crate::journal::Journal;
use crate::telemetry::{Direction, OpenConnection, PeerSeries};
use crate::worker::Worker;

/// An outbound listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The one destination it stands for, `namespace/name`; without one the request names it.
    pub bound_to: Option<String>,
}

/// One connection of the app.
pub struct Connection {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    series: PeerSeries,
    _open: OpenConnection,
}

/// Serves one accepted connection to its end.
pub async fn connection(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    mut stream: TcpStream,
    _from: SocketAddr,
) {
    let deadline = Duration::from_millis(limits::H1_HEAD_MS_MAX);
    let seen = tokio::time::timeout(deadline, read_version(&mut stream, Vec::new())).await;
    let Ok(Ok((version, seen))) = seen else { return };
    let ending = Ending {
        drain: worker.shared.drain_outbound.clone(),
        registered: None,
        age: connection_age(&worker),
    };
    let series = worker.metrics.no_peer();
    let open = worker.metrics.connection(Direction::Outbound);
    let conn = Rc::new(Connection { worker, listener, series, _open: open });
    match version {
        Version::Http2 => serve::http2(Prefixed::new(seen, stream), conn, &ending).await,
        Version::Http1 => serve::http1(stream, seen, conn, &ending).await,
    }
}

impl Connection {
    /// The worker that serves this connection.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The destination this listener is bound to.
    pub fn bound_to(&self) -> Option<&str> {
        self.listener.bound_to.as_deref()
    }
}

impl Exchange for Connection {
    async fn handle(self: Rc<Self>, request: Request<Incoming>) -> Response<ProxyBody> {
        let snap = self.worker.snapshot();
        let mut journal = Journal::start(&self.worker, &snap, Direction::Outbound, &request);
        let outcome = super::serve(&self, request, &snap, &mut journal).await;
        journal.finish(&self.series, outcome)
    }

    fn next_id(&self) -> DecisionId {
        self.worker.decision_id(Now::read())
    }

    fn head_refused(&self, error: HeadError, id: DecisionId) {
        let journal = Journal::without_request(&self.worker, id, Direction::Outbound);
        journal.refuse_head(error);
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.worker.shared.config.limits)
    }
}
