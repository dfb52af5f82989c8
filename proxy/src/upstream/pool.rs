//! Connections of one worker, kept for use again.
//!
//! Invariant: a connection is found only under the full key it was opened for: address, expected
//! identities, protocol and generation of certificates and trust. Keys are compared whole, never by
//! hash alone, so two identities can never share a connection, and a new generation drains the old
//! one.

mod shed;
mod slot;
mod sweep;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use countersign_config::{Limits, limits};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use self::slot::{Room, Slot};
use crate::http::body::ProxyBody;
use crate::tls::Alpn;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoints::Endpoints;
use crate::upstream::mesh::MeshEnds;
use crate::upstream::opening::{Count, LeaseError};
use crate::upstream::retry;
pub use crate::upstream::target::Target;
use crate::upstream::target::{Key, Offer};
use crate::upstream::transport;
use crate::upstream::upload::Upload;

/// A connection that closes before it could be used is replaced this often for one request.
const OPENINGS_MAX: usize = 3;

/// Both ends of a connection to another sidecar; `None` for any other connection.
type Ends = Option<Rc<MeshEnds>>;

/// All connections of one worker.
pub struct Pool {
    slots: RefCell<HashMap<Key, Rc<Slot>>>,
    looks: RefCell<sweep::Looks>,
    /// What is known of the endpoints the connections lead to.
    pub endpoints: Endpoints,
    /// Connections of all slots that wait for a request.
    idle: Rc<Cell<u32>>,
    endpoint_inflight_max: usize,
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
            looks: RefCell::default(),
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
        let (mut openings, mut rounds) = (0, 0);
        while openings < OPENINGS_MAX {
            if target.offer() == Offer::Http1 || slot.one_for_one.get() {
                return slot.one_for_one(target, place, started).await;
            }
            match slot.take_stream() {
                Room::Stream { sender, ends, scarce } => {
                    if scarce {
                        slot.relieve(target);
                    }
                    return Ok(Lease { sender, ends, reused: !started, slot, place });
                }
                Room::Full { at_limit: true } => return Err(crowded("H2_CONNS_PER_KEY_MAX")),
                // Others took the streams of what was opened meanwhile, or it is gone already
                // because the endpoint takes no more connections: neither is a failure.
                Room::Full { at_limit: false } if rounds == limits::H2_CONNS_PER_KEY_MAX => {
                    return Err(crowded("H2_STREAMS_MAX"));
                }
                Room::Full { at_limit: false } => rounds += 1,
                Room::None => openings += 1,
            }
            let opening = slot.opening(target);
            let mine = opening.answer_for();
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
        self.slot_of(target.key())
    }

    fn slot_of(&self, key: Key) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get(&key) {
            return Rc::clone(slot);
        }
        let endpoint = self.endpoints.of(&key.endpoint);
        let slot = Rc::new(Slot::new(endpoint, Rc::clone(&self.idle)));
        slots.insert(key.clone(), Rc::clone(&slot));
        self.looks.borrow_mut().enter((key, Rc::clone(&slot)), Instant::now());
        slot
    }
}

#[cfg(test)]
#[path = "../tests/pool.rs"]
mod tests;
