//! Connections of one worker, kept for use again.
//!
//! Invariant: a connection is found only under the full key it was opened for: address, expected
//! identities, protocol and certificate generation. Keys are compared whole, never by hash alone,
//! so two identities can never share a connection, and a new generation drains the old one.

mod shed;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use countersign_config::{Limits, limits};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use crate::http::body::ProxyBody;
use crate::tls::Alpn;
use crate::upstream::connect::{ConnectError, Sender};
use crate::upstream::endpoints::{Endpoint, Endpoints};
use crate::upstream::mesh::MeshEnds;
use crate::upstream::opening::{Count, LeaseError, Opening, open};
use crate::upstream::retry;
pub use crate::upstream::target::Target;
use crate::upstream::target::{Key, Offer, Who};
use crate::upstream::transport;
use crate::upstream::upload::Upload;

/// A connection that closes before it could be used is replaced this often for one request.
const OPENINGS_MAX: usize = 3;

/// Both ends of a connection to another sidecar; `None` for any other connection.
type Ends = Option<Rc<MeshEnds>>;

/// All connections of one worker.
pub struct Pool {
    slots: RefCell<HashMap<Key, Rc<Slot>>>,
    /// What is known of the endpoints the connections lead to.
    pub endpoints: Endpoints,
    /// Connections of all slots that wait for a request.
    idle: Rc<Cell<u32>>,
    endpoint_inflight_max: usize,
}

struct Slot {
    h2: RefCell<Vec<Multiplexed>>,
    idle: RefCell<Vec<Idle>>,
    /// Waiters for the same key share one handshake, and its failure.
    opening: RefCell<Option<Rc<Opening>>>,
    endpoint: Rc<Endpoint>,
    /// The server could choose, and chose HTTP/1.1: requests need connections of their own.
    one_for_one: Cell<bool>,
    /// Idle connections of the whole pool.
    all_idle: Rc<Cell<u32>>,
}

struct Multiplexed {
    sender: http2::SendRequest<ProxyBody>,
    ends: Ends,
    streams: Rc<Cell<u32>>,
    /// Taken since the last sweep, so not idle for long.
    used: Cell<bool>,
    idle_since: Cell<Option<Instant>>,
    /// It failed under a request: others must not be sent over it.
    spoiled: Rc<Cell<bool>>,
}

struct Idle {
    sender: http1::SendRequest<ProxyBody>,
    ends: Ends,
    since: Instant,
    _counted: Count,
}

/// A connection taken for one request.
pub struct Lease {
    sender: LeaseSender,
    ends: Ends,
    reused: bool,
    slot: Rc<Slot>,
    place: Count,
}

enum LeaseSender {
    H1(http1::SendRequest<ProxyBody>),
    H2(http2::SendRequest<ProxyBody>, Count, Rc<Cell<bool>>),
}

/// What a response body holds until it ended: the connection to give back, or the stream count.
pub struct Checkout {
    h1: Option<(http1::SendRequest<ProxyBody>, Ends, Rc<Slot>)>,
    upload: Option<Rc<Upload>>,
    _stream: Option<Count>,
    _place: Count,
}

impl Checkout {
    /// The body ended whole: the connection may serve again, unless the request body is still on
    /// its way. Then it ends with that body.
    pub fn give_back(self) {
        let Some((sender, ends, slot)) = self.h1 else { return };
        if self.upload.is_some_and(|upload| !upload.is_sent()) {
            return;
        }
        slot.keep(sender, ends);
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
    /// Whether requests share the connection.
    pub h2: bool,
}

impl Lease {
    /// Whether the connection was opened for this request.
    pub fn is_new(&self) -> bool {
        !self.reused
    }

    /// The protocol of the connection.
    pub fn alpn(&self) -> Alpn {
        match self.sender {
            LeaseSender::H1(_) => Alpn::Http1,
            LeaseSender::H2(..) => Alpn::H2,
        }
    }

    /// Both ends, as they were proven; `None` outside the mesh.
    pub fn ends(&self) -> Option<&Rc<MeshEnds>> {
        self.ends.as_ref()
    }

    /// Sends the request and waits for the response head.
    ///
    /// # Errors
    /// [`SendFailed`], with the request in it if it may be repeated.
    pub async fn send(
        self,
        request: Request<ProxyBody>,
    ) -> Result<(Response<Incoming>, Checkout), Box<SendFailed>> {
        let Lease { sender, ends, reused, slot, place } = self;
        let upload = request.body().upload();
        match sender {
            LeaseSender::H1(mut sender) => {
                let sent = sender.try_send_request(transport::frame(request)).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    Box::new(SendFailed { error: failed.into_error(), unsent, reused, h2: false })
                })?;
                let h1 = Some((sender, ends, slot));
                Ok((response, Checkout { h1, upload, _stream: None, _place: place }))
            }
            LeaseSender::H2(mut sender, stream, spoiled) => {
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    let error = failed.into_error();
                    if unsent.is_some() || !retry::is_stream_only(&error) {
                        spoiled.set(true);
                    }
                    Box::new(SendFailed { error, unsent, reused, h2: true })
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
        Pool {
            slots: RefCell::default(),
            endpoints: Endpoints::default(),
            idle: Rc::default(),
            endpoint_inflight_max: limits.endpoint_inflight_max,
        }
    }

    /// A connection to `target`: an open one if there is one with room, else a new one.
    ///
    /// # Errors
    /// [`LeaseError`] when a new one was needed and could not be opened, or too many want one.
    pub async fn lease(&self, target: &Target) -> Result<Lease, LeaseError> {
        let slot = self.slot(target);
        let crowded = |limit| LeaseError::Crowded { addr: target.addr(), limit };
        if slot.endpoint.in_flight.get() as usize >= self.endpoint_inflight_max {
            return Err(crowded("ENDPOINT_INFLIGHT_MAX"));
        }
        let place = Count::one(&slot.endpoint.in_flight);
        let mut started = false;
        for _ in 0..OPENINGS_MAX {
            if target.offer() == Offer::Http1 || slot.one_for_one.get() {
                return slot.one_for_one(target, place, started).await;
            }
            match slot.take_stream() {
                Room::Stream { sender, ends } => {
                    return Ok(Lease { sender, ends, reused: !started, slot, place });
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
        let endpoint = self.endpoints.of(&key.endpoint);
        let slot = Rc::new(Slot::new(endpoint, Rc::clone(&self.idle)));
        slots.insert(key, Rc::clone(&slot));
        slot
    }

    /// Forgets connections of other generations and those idle for too long. Streams in progress
    /// keep their connection alive until they end.
    pub fn sweep(&self, generation: u64, now: Instant) {
        self.slots.borrow_mut().retain(|key, slot| {
            if key.is_of_another(generation) {
                return false;
            }
            let app = matches!(key.endpoint.who, Who::App(_));
            let idle_ms = if app { limits::POOL_IDLE_APP_MS } else { limits::POOL_IDLE_MESH_MS };
            slot.sweep(Duration::from_millis(idle_ms), now);
            !slot.is_empty() || Rc::strong_count(slot) > 1
        });
        self.endpoints.sweep();
    }
}

/// What the multiplexed connections of a slot have to offer.
enum Room {
    Stream { sender: LeaseSender, ends: Ends },
    None,
    Full,
}

impl Slot {
    fn new(endpoint: Rc<Endpoint>, all_idle: Rc<Cell<u32>>) -> Slot {
        Slot {
            h2: RefCell::default(),
            idle: RefCell::default(),
            opening: RefCell::default(),
            endpoint,
            one_for_one: Cell::new(false),
            all_idle,
        }
    }

    /// Keeps a connection for the next request, if there is room.
    fn keep(&self, sender: http1::SendRequest<ProxyBody>, ends: Ends) {
        let mut idle = self.idle.borrow_mut();
        let room = idle.len() < limits::POOL_IDLE_PER_KEY_MAX
            && (self.all_idle.get() as usize) < limits::POOL_IDLE_TOTAL_MAX;
        if room && !sender.is_closed() {
            let _counted = Count::one(&self.all_idle);
            idle.push(Idle { sender, ends, since: Instant::now(), _counted });
        }
    }

    /// HTTP/1.1: a connection that is not in use, or a new one. `opened` says that one was opened
    /// for this request a moment ago.
    async fn one_for_one(
        self: Rc<Slot>,
        target: &Target,
        place: Count,
        opened: bool,
    ) -> Result<Lease, LeaseError> {
        if let Some((sender, ends)) = self.take_idle().await {
            let sender = LeaseSender::H1(sender);
            return Ok(Lease { sender, ends, reused: !opened, slot: self, place });
        }
        let _opening = Count::one(&self.endpoint.opening);
        // Connections to the app beside us are there at once; their number is bounded already.
        let opening = self.endpoint.opening.get() as usize;
        if opening > limits::ENDPOINT_PENDING_MAX && !target.is_app() {
            return Err(LeaseError::Crowded { addr: target.addr(), limit: "ENDPOINT_PENDING_MAX" });
        }
        // Boxed: a request that finds a connection needs no room for opening one.
        let (sender, ends) = Box::pin(open(target)).await?;
        let sender = self.adopt(sender, ends.as_ref());
        Ok(Lease { sender, ends, reused: false, slot: self, place })
    }

    /// The connection given back last among those that are ready. One given back a moment ago may
    /// need a turn to become ready; one that does not within a few milliseconds is dropped.
    async fn take_idle(&self) -> Option<(http1::SendRequest<ProxyBody>, Ends)> {
        let Idle { mut sender, ends, .. } = {
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
        Some((sender, ends))
    }

    /// The least loaded multiplexed connection, unless all are near the stream limit.
    fn take_stream(&self) -> Room {
        let mut open = self.h2.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed() && !connection.spoiled.get());
        let at_limit = open.len() >= limits::H2_CONNS_PER_KEY_MAX;
        let Some(best) = open.iter().min_by_key(|connection| connection.streams.get()) else {
            return Room::None;
        };
        match best.streams.get() {
            limits::H2_STREAMS_MAX.. if at_limit => Room::Full,
            streams if streams >= limits::H2_STREAMS_MAX * 4 / 5 && !at_limit => Room::None,
            _ => {
                best.used.set(true);
                let stream = Count::one(&best.streams);
                let spoiled = Rc::clone(&best.spoiled);
                let sender = LeaseSender::H2(best.sender.clone(), stream, spoiled);
                Room::Stream { sender, ends: best.ends.clone() }
            }
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
                Ok((sender, ends)) => match finish.slot.adopt(sender, ends.as_ref()) {
                    LeaseSender::H1(sender) => finish.slot.keep(sender, ends),
                    LeaseSender::H2(..) => {}
                },
                Err(error) => finish.error = Some(error),
            }
            drop(finish);
        });
        (opening, true)
    }

    fn adopt(&self, sender: Sender, ends: Option<&Rc<MeshEnds>>) -> LeaseSender {
        match sender {
            Sender::H1(sender) => {
                self.one_for_one.set(true);
                LeaseSender::H1(sender)
            }
            Sender::H2(sender) => {
                self.one_for_one.set(false);
                let streams = Rc::new(Cell::new(0));
                let count = Count::one(&streams);
                let spoiled = Rc::new(Cell::new(false));
                self.h2.borrow_mut().push(Multiplexed {
                    sender: sender.clone(),
                    ends: ends.cloned(),
                    streams,
                    used: Cell::new(true),
                    idle_since: Cell::new(None),
                    spoiled: Rc::clone(&spoiled),
                });
                LeaseSender::H2(sender, count, spoiled)
            }
        }
    }

    fn sweep(&self, idle: Duration, now: Instant) {
        self.idle.borrow_mut().retain(|connection| {
            !connection.sender.is_closed() && now.saturating_duration_since(connection.since) < idle
        });
        self.h2.borrow_mut().retain(|connection| {
            let busy = connection.used.take() || connection.streams.get() > 0;
            let since = connection.idle_since.get().filter(|_| !busy).unwrap_or(now);
            connection.idle_since.set(Some(since));
            !connection.sender.is_closed() && now.saturating_duration_since(since) < idle
        });
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

#[cfg(test)]
#[path = "../tests/pool.rs"]
mod tests;
