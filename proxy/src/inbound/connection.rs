//! A connection as its requests see it: who opened it, for which port, to which app.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use countersign_config::{AppPort, AppService};
use countersign_workload_id::WorkloadId;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::audit::DecisionId;
use crate::clock::Now;
use crate::http::body::ProxyBody;
use crate::http::head::{HeadError, HeadLimits};
use crate::http::hygiene;
use crate::http::serve::{Ending, Exchange};
use crate::http::token_parts::TAKES_PARTS;
use crate::http::upgrade::Allowed;
use crate::inbound::accept::{Entry, connection_age};
use crate::intercept::Captured;
use crate::journal::Journal;
use crate::judged;
use crate::live::Snapshot;
use crate::registry::Registered;
use crate::telemetry::{Direction, OpenConnection, PeerSeries, RemovedFrom};
use crate::tls::Alpn;
use crate::tls::peer::Peer;
use crate::worker::Worker;

/// One connection and everything its requests share.
pub struct Connection {
    worker: Rc<Worker>,
    captured: Captured,
    port: u16,
    app: SocketAddr,
    peer: Peer,
    /// The same, as the app is told.
    caller: Option<HeaderValue>,
    series: PeerSeries,
    alpn: Option<Alpn>,
    /// The identity this end proved on this connection: whom tokens must have been handed to.
    pub(super) own_id: Option<WorkloadId>,
    /// Generation of the snapshot by which the other end was believed.
    pub(super) believed_at: u64,
    registered: Rc<Registered>,
    /// Whether the other end is to be told that it may send tokens in two fields.
    tells_parts: Cell<bool>,
    _open: OpenConnection,
}

impl Connection {
    /// `snap` was taken before the other end proved anything, so that what changes meanwhile is
    /// held against it.
    pub(super) fn new(entry: Entry, peer: Peer, alpn: Option<Alpn>, snap: &Snapshot) -> Connection {
        let Entry { worker, captured, port, app, .. } = entry;
        let registered = Rc::new(judged::connection(&worker, &peer, snap));
        let own_id = snap.identity().map(|me| me.id.clone());
        let series = match &peer {
            Peer::Mesh(peer) => {
                let id = peer.id();
                if id.trust_domain() == snap.trust_domain() {
                    let namespace = id.namespace().unwrap_or("other");
                    worker.metrics.peer(namespace, id.service_account().unwrap_or("other"))
                } else {
                    // Namespaces of others are not ours, whatever they are called.
                    worker.metrics.peer(id.trust_domain().as_str(), "foreign")
                }
            }
            Peer::None(_) => worker.metrics.no_peer(),
        };
        let open = worker.metrics.connection(Direction::Inbound);
        Connection {
            worker,
            captured,
            port,
            app,
            caller: peer.mesh().map(|peer| hygiene::encode_value(peer.id().as_str())),
            peer,
            series,
            alpn,
            own_id,
            believed_at: snap.generation,
            registered,
            tells_parts: Cell::default(),
            _open: open,
        }
    }

    /// When it ends although nobody closed it.
    pub(super) fn ending(&self) -> Ending {
        Ending {
            drain: self.worker.shared.drain.clone(),
            registered: Some(Rc::clone(&self.registered)),
            age: connection_age(&self.worker),
        }
    }

    /// Its place in the registry.
    pub fn registered(&self) -> Rc<Registered> {
        Rc::clone(&self.registered)
    }

    /// The worker that serves this connection.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Who is on the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Their identity as the app is told of it.
    pub fn caller(&self) -> Option<&HeaderValue> {
        self.caller.as_ref()
    }

    /// What is known of the connection's addresses.
    pub fn captured(&self) -> &Captured {
        &self.captured
    }

    /// The port policy sees.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the app listens.
    pub fn app(&self) -> SocketAddr {
        self.app
    }

    /// What is written about the app's port.
    pub fn app_port(&self) -> Option<&AppPort> {
        self.worker.shared.config.app_port(self.port)
    }

    /// What of this process answers here, instead of an app.
    pub fn service(&self) -> Option<AppService> {
        self.app_port().and_then(|app| app.service)
    }

    /// What may pass beside requests and answers. Between proxies a switch travels on HTTP/1.1.
    pub fn switches(&self, version: http::Version) -> Allowed<'_> {
        match self.app_port() {
            Some(app) => {
                let connect = app.connect && version < http::Version::HTTP_2;
                Allowed { upgrades: &app.upgrades, connect }
            }
            None => Allowed::default(),
        }
    }

    /// What is carried inside TLS of ours; `None` for everything else.
    pub fn alpn(&self) -> Option<Alpn> {
        self.alpn
    }

    /// Notes in how many fields a token came that verified. Only over HTTP/2 two are better.
    pub(super) fn met_token(&self, in_parts: bool) {
        self.tells_parts.set(!in_parts && self.alpn == Some(Alpn::H2));
    }

    /// Counts reserved names removed from trailers.
    pub fn count_trailers(&self) -> impl Fn(usize) + 'static {
        let metrics = Rc::clone(&self.worker.metrics);
        move |count| {
            metrics.reserved_removed(Direction::Inbound, RemovedFrom::Trailer, count as u64);
        }
    }
}

impl Exchange for Connection {
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep the request twice")]
    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ProxyBody>> {
        async move {
            let snap = self.worker.snapshot();
            let mut journal = Journal::start(&self.worker, &snap, Direction::Inbound, &request);
            journal.at_port(self.port).peer(&self.peer);
            let outcome = super::serve(&self, request, &snap, &mut journal).await;
            let mut response = journal.finish(&self.series, outcome);
            if self.tells_parts.get() {
                let takes = HeaderValue::from_static(TAKES_PARTS);
                response.headers_mut().insert(hygiene::TOKEN_HEADER, takes);
            }
            response
        }
    }

    fn next_id(&self) -> DecisionId {
        self.worker.decision_id(Now::read())
    }

    fn head_refused(&self, error: HeadError, id: DecisionId) {
        let mut journal = Journal::without_request(&self.worker, id, Direction::Inbound);
        journal.at_port(self.port).peer(&self.peer);
        journal.refuse_head(error);
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.worker.shared.config.limits)
    }

    fn keeps_header_case(&self) -> bool {
        // The other proxy keeps HTTP/1 only where it has a reason to.
        self.alpn() == Some(Alpn::Http1)
    }
}
