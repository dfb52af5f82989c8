//! Connections of one worker, kept for use again.
//!
//! Invariant: a connection is found only under the full key it was opened for: address, expected
//! identities, protocol and certificate generation. Keys are compared whole, never by hash alone,
//! so two identities can never share a connection, and a new generation drains the old one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_config::{Limits, limits};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use crate::http::body::ProxyBody;
use crate::tls::peer::MeshPeer;
use crate::tls::verify::ExpectedIds;
use crate::tls::{Alpn, MeshTls};
use crate::upstream::connect::{self, ConnectError, Sender};
use crate::upstream::opening::{Count, LeaseError, Opening};
use crate::upstream::transport;
use crate::upstream::upload::Upload;

/// Where a request goes.
#[derive(Clone)]
pub enum Target {
    /// The app of this pod.
    App {
        /// Its address.
        addr: SocketAddr,
        /// Whether it is spoken to in HTTP/2.
        h2: bool,
    },
    /// Another sidecar.
    Mesh {
        /// Its address.
        addr: SocketAddr,
        /// Who may answer.
        expected: Arc<ExpectedIds>,
        /// Protocol inside TLS.
        alpn: Alpn,
        /// The TLS material of this generation.
        tls: Arc<MeshTls>,
        /// Certificate and trust generation.
        generation: u64,
    },
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    addr: SocketAddr,
    expected: Option<Arc<ExpectedIds>>,
    h2: bool,
    generation: u64,
}

impl Target {
    /// What is dialled.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Target::App { addr, .. } | Target::Mesh { addr, .. } => *addr,
        }
    }

    fn is_h2(&self) -> bool {
        match self {
            Target::App { h2, .. } => *h2,
            Target::Mesh { alpn, .. } => *alpn == Alpn::H2,
        }
    }

    fn key(&self) -> Key {
        match self {
            Target::App { addr, h2 } => Key { addr: *addr, expected: None, h2: *h2, generation: 0 },
            Target::Mesh { addr, expected, alpn, generation, .. } => Key {
                addr: *addr,
                expected: Some(Arc::clone(expected)),
                h2: *alpn == Alpn::H2,
                generation: *generation,
            },
        }
    }
}

/// A connection that closes before it could be used is replaced this often for one request.
const OPENINGS_MAX: usize = 3;

/// All connections of one worker.
pub struct Pool {
    slots: RefCell<HashMap<Key, Rc<Slot>>>,
    endpoint_inflight_max: usize,
}

#[derive(Default)]
struct Slot {
    h2: RefCell<Vec<Multiplexed>>,
    idle: RefCell<Vec<Idle>>,
    /// Waiters for the same key share one handshake, and its failure.
    opening: RefCell<Option<Rc<Opening>>>,
    in_flight: Rc<Cell<u32>>,
}

struct Multiplexed {
    sender: http2::SendRequest<ProxyBody>,
    peer: Option<MeshPeer>,
    streams: Rc<Cell<u32>>,
}

struct Idle {
    sender: http1::SendRequest<ProxyBody>,
    peer: Option<MeshPeer>,
    since: Instant,
}

/// A connection taken for one request.
pub struct Lease {
    sender: LeaseSender,
    peer: Option<MeshPeer>,
    reused: bool,
    slot: Rc<Slot>,
    place: Count,
}

enum LeaseSender {
    H1(http1::SendRequest<ProxyBody>),
    H2(http2::SendRequest<ProxyBody>, Count),
}

/// What a response body holds until it ended: the connection to give back, or the stream count.
pub struct Checkout {
    h1: Option<(http1::SendRequest<ProxyBody>, Option<MeshPeer>, Rc<Slot>)>,
    upload: Option<Rc<Upload>>,
    _stream: Option<Count>,
    _place: Count,
}

impl Checkout {
    /// The body ended whole: the connection may serve again, unless the request body is still on
    /// its way. Then it ends with that body.
    pub fn give_back(self) {
        let Some((sender, peer, slot)) = self.h1 else { return };
        if self.upload.is_some_and(|upload| !upload.is_sent()) {
            return;
        }
        let mut idle = slot.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < limits::POOL_IDLE_PER_KEY_MAX {
            idle.push(Idle { sender, peer, since: Instant::now() });
        }
    }
}

/// A request that got no response head.
pub struct SendFailed {
    /// What hyper said.
    pub error: hyper::Error,
    /// The request, if not a byte of it was sent: it may be tried again, whatever its method.
    pub unsent: Option<Request<ProxyBody>>,
    /// Whether the connection had served before.
    pub reused: bool,
}

impl Lease {
    /// Whether the connection was opened for this request.
    pub fn is_new(&self) -> bool {
        !self.reused
    }

    /// The proven identity of the other end; `None` for the app.
    pub fn peer(&self) -> Option<&MeshPeer> {
        self.peer.as_ref()
    }

    /// Sends the request and waits for the response head.
    ///
    /// # Errors
    /// [`SendFailed`], with the request in it if it may be repeated.
    pub async fn send(
        self,
        request: Request<ProxyBody>,
    ) -> Result<(Response<Incoming>, Checkout), Box<SendFailed>> {
        let Lease { sender, peer, reused, slot, place } = self;
        let upload = request.body().upload();
        match sender {
            LeaseSender::H1(mut sender) => {
                let sent = sender.try_send_request(transport::frame(request)).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    Box::new(SendFailed { error: failed.into_error(), unsent, reused })
                })?;
                let h1 = Some((sender, peer, slot));
                Ok((response, Checkout { h1, upload, _stream: None, _place: place }))
            }
            LeaseSender::H2(mut sender, stream) => {
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    Box::new(SendFailed { error: failed.into_error(), unsent, reused })
                })?;
                let _stream = Some(stream);
                Ok((response, Checkout { h1: None, upload, _stream, _place: place }))
            }
        }
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: &Limits) -> Pool {
        Pool { slots: RefCell::default(), endpoint_inflight_max: limits.endpoint_inflight_max }
    }

    /// A connection to `target`: an open one if there is one with room, else a new one.
    ///
    /// # Errors
    /// [`LeaseError`] when a new one was needed and could not be opened, or too many want one.
    pub async fn lease(&self, target: &Target) -> Result<Lease, LeaseError> {
        let slot = self.slot(target);
        let crowded = |limit| LeaseError::Crowded { addr: target.addr(), limit };
        if slot.in_flight.get() as usize >= self.endpoint_inflight_max {
            return Err(crowded("ENDPOINT_INFLIGHT_MAX"));
        }
        let place = Count::one(&slot.in_flight);
        if !target.is_h2() {
            return slot.one_for_one(target, place).await;
        }
        let mut started = false;
        for _ in 0..OPENINGS_MAX {
            match slot.take_stream() {
                Room::Stream { sender, peer } => {
                    return Ok(Lease { sender, peer, reused: !started, slot, place });
                }
                Room::Full => return Err(crowded("H2_CONNS_PER_KEY_MAX")),
                Room::None => {}
            }
            let (opening, mine) = slot.opening(target);
            started = mine;
            if opening.waiting() >= limits::ENDPOINT_PENDING_MAX {
                return Err(crowded("ENDPOINT_PENDING_MAX"));
            }
            let outcome = opening.wait().await;
            outcome.map_err(|error| LeaseError::Connect { error, shared: !mine })?;
        }
        Err(ConnectError::Closed { addr: target.addr() }.into())
    }

    fn slot(&self, target: &Target) -> Rc<Slot> {
        let key = target.key();
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get(&key) {
            return Rc::clone(slot);
        }
        let slot = Rc::new(Slot::default());
        slots.insert(key, Rc::clone(&slot));
        slot
    }

    /// Forgets connections of other generations and those idle for too long. Streams in progress
    /// keep their connection alive until they end.
    pub fn sweep(&self, generation: u64, now: Instant) {
        self.slots.borrow_mut().retain(|key, slot| {
            let mesh = key.expected.is_some();
            if mesh && key.generation != generation {
                return false;
            }
            let idle_ms = if mesh { limits::POOL_IDLE_MESH_MS } else { limits::POOL_IDLE_APP_MS };
            slot.sweep(Duration::from_millis(idle_ms), now);
            !slot.is_empty() || Rc::strong_count(slot) > 1
        });
    }
}

/// What the multiplexed connections of a slot have to offer.
enum Room {
    Stream { sender: LeaseSender, peer: Option<MeshPeer> },
    None,
    Full,
}

impl Slot {
    /// HTTP/1.1: a connection that is not in use, or a new one.
    async fn one_for_one(
        self: Rc<Slot>,
        target: &Target,
        place: Count,
    ) -> Result<Lease, LeaseError> {
        if let Some((sender, peer)) = self.take_idle().await {
            let sender = LeaseSender::H1(sender);
            return Ok(Lease { sender, peer, reused: true, slot: self, place });
        }
        let (sender, peer) = open(target).await?;
        let sender = self.adopt(sender, peer.as_ref());
        Ok(Lease { sender, peer, reused: false, slot: self, place })
    }

    /// The connection given back last among those that are ready. One given back a moment ago may
    /// need a turn to become ready; one that does not within a few milliseconds is dropped.
    async fn take_idle(&self) -> Option<(http1::SendRequest<ProxyBody>, Option<MeshPeer>)> {
        let Idle { mut sender, peer, .. } = {
            let mut idle = self.idle.borrow_mut();
            idle.retain(|connection| !connection.sender.is_closed());
            match idle.iter().rposition(|connection| connection.sender.is_ready()) {
                Some(at) => idle.remove(at),
                None => idle.pop()?,
            }
        };
        if !sender.is_ready() {
            let limit = Duration::from_millis(limits::POOL_READY_MS_MAX);
            tokio::time::timeout(limit, sender.ready()).await.ok()?.ok()?;
        }
        Some((sender, peer))
    }

    /// The least loaded multiplexed connection, unless all are near the stream limit.
    fn take_stream(&self) -> Room {
        let mut open = self.h2.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed());
        let at_limit = open.len() >= limits::H2_CONNS_PER_KEY_MAX;
        let Some(best) = open.iter().min_by_key(|connection| connection.streams.get()) else {
            return Room::None;
        };
        match best.streams.get() {
            limits::H2_STREAMS_MAX.. if at_limit => Room::Full,
            streams if streams >= limits::H2_STREAMS_MAX * 4 / 5 && !at_limit => Room::None,
            _ => Room::Stream {
                sender: LeaseSender::H2(best.sender.clone(), Count::one(&best.streams)),
                peer: best.peer.clone(),
            },
        }
    }

    /// The connection being opened, and whether this call began it. It is opened by a task of its
    /// own: a request that goes away must not take the others' connection with it.
    fn opening(self: &Rc<Slot>, target: &Target) -> (Rc<Opening>, bool) {
        if let Some(opening) = &*self.opening.borrow() {
            return (Rc::clone(opening), false);
        }
        let opening = Rc::new(Opening::default());
        *self.opening.borrow_mut() = Some(Rc::clone(&opening));
        let finish = Finish { slot: Rc::clone(self), opening: Rc::clone(&opening), error: None };
        let target = target.clone();
        tokio::task::spawn_local(async move {
            let mut finish = finish;
            match open(&target).await {
                Ok((sender, peer)) => drop(finish.slot.adopt(sender, peer.as_ref())),
                Err(error) => finish.error = Some(error),
            }
            drop(finish);
        });
        (opening, true)
    }

    fn adopt(&self, sender: Sender, peer: Option<&MeshPeer>) -> LeaseSender {
        match sender {
            Sender::H1(sender) => LeaseSender::H1(sender),
            Sender::H2(sender) => {
                let streams = Rc::new(Cell::new(0));
                let count = Count::one(&streams);
                let open = Multiplexed { sender: sender.clone(), peer: peer.cloned(), streams };
                self.h2.borrow_mut().push(open);
                LeaseSender::H2(sender, count)
            }
        }
    }

    fn sweep(&self, idle: Duration, now: Instant) {
        self.idle.borrow_mut().retain(|connection| {
            !connection.sender.is_closed() && now.saturating_duration_since(connection.since) < idle
        });
        self.h2.borrow_mut().retain(|connection| !connection.sender.is_closed());
    }

    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.h2.borrow().is_empty()
    }
}

/// Tells everybody who waits how opening ended, however it ended.
struct Finish {
    slot: Rc<Slot>,
    opening: Rc<Opening>,
    error: Option<ConnectError>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.slot.opening.borrow_mut().take();
        let outcome = self.error.take().map_or(Ok(()), |error| Err(Rc::new(error)));
        self.opening.finish(outcome);
    }
}

async fn open(target: &Target) -> Result<(Sender, Option<MeshPeer>), ConnectError> {
    match target {
        Target::App { addr, h2 } => Ok((connect::to_app(*addr, *h2).await?, None)),
        Target::Mesh { addr, expected, alpn, tls, .. } => {
            let (sender, peer) = connect::to_mesh(*addr, expected, tls, *alpn).await?;
            Ok((sender, Some(peer)))
        }
    }
}

#[cfg(test)]
#[path = "../tests/pool.rs"]
mod tests;
