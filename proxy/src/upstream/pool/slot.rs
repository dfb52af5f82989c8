//! The connections of one key, and the one being opened.
//!
//! Invariant: a request waits for a connection only when there is no stream for it; one more is
//! opened before streams run out, and what fails then fails nobody.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use countersign_config::limits;
use hyper::client::conn::{http1, http2};

use super::{Ends, Lease, LeaseSender};
use crate::http::body::ProxyBody;
use crate::upstream::connect::{ConnectError, Sender};
use crate::upstream::endpoints::Endpoint;
use crate::upstream::mesh::MeshEnds;
use crate::upstream::opening::{Count, LeaseError, Opening, open};
use crate::upstream::target::Target;

/// After a connection that was to relieve the others could not be opened, or did not stay, none is
/// tried for so long: the endpoint may take no more.
const RELIEF_PAUSE: Duration = Duration::from_secs(1);

/// What is open, and being opened, for one key.
pub(super) struct Slot {
    pub(super) h2: RefCell<Vec<Multiplexed>>,
    pub(super) idle: RefCell<Vec<Idle>>,
    /// Waiters for the same key share one handshake, and its failure.
    opening: RefCell<Option<Rc<Opening>>>,
    pub(super) endpoint: Rc<Endpoint>,
    /// The server could choose, and chose HTTP/1.1: requests need connections of their own.
    pub(super) one_for_one: Cell<bool>,
    /// How many connections there were when one was last opened to relieve them.
    relieved: Cell<usize>,
    /// Unless that helped, no other is opened before then.
    pub(super) not_before: Cell<Option<Instant>>,
    /// Idle connections of the whole pool.
    all_idle: Rc<Cell<u32>>,
}

pub(super) struct Multiplexed {
    sender: http2::SendRequest<ProxyBody>,
    ends: Ends,
    streams: Rc<Cell<u32>>,
    /// Taken since the last sweep, so not idle for long.
    used: Cell<bool>,
    idle_since: Cell<Option<Instant>>,
    /// It failed under a request: others must not be sent over it.
    pub(super) spoiled: Rc<Cell<bool>>,
}

pub(super) struct Idle {
    sender: http1::SendRequest<ProxyBody>,
    ends: Ends,
    pub(super) since: Instant,
    _counted: Count,
}

/// What the multiplexed connections of a slot have to offer.
pub(super) enum Room {
    /// `scarce`: soon there will be none left.
    Stream { sender: LeaseSender, ends: Ends, scarce: bool },
    /// No stream is left, and with `at_limit` there may be no further connection.
    Full { at_limit: bool },
    /// Nothing is open.
    None,
}

impl Slot {
    pub(super) fn new(endpoint: Rc<Endpoint>, all_idle: Rc<Cell<u32>>) -> Slot {
        Slot {
            h2: RefCell::default(),
            idle: RefCell::default(),
            opening: RefCell::default(),
            endpoint,
            one_for_one: Cell::new(false),
            relieved: Cell::new(0),
            not_before: Cell::new(None),
            all_idle,
        }
    }

    /// Keeps a connection for the next request, if there is room.
    pub(super) fn keep(&self, sender: http1::SendRequest<ProxyBody>, ends: Ends) {
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
    pub(super) async fn one_for_one(
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
    pub(super) async fn take_idle(&self) -> Option<(http1::SendRequest<ProxyBody>, Ends)> {
        let Idle { mut sender, ends, .. } = {
            let mut idle = self.idle.borrow_mut();
            // Closed ones further down are left to the sweep: a request looks at few.
            while idle.pop_if(|connection| connection.sender.is_closed()).is_some() {}
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

    /// A stream of the least loaded multiplexed connection.
    pub(super) fn take_stream(&self) -> Room {
        let mut open = self.h2.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed() && !connection.spoiled.get());
        let at_limit = open.len() >= limits::H2_CONNS_PER_KEY_MAX;
        let Some(best) = open.iter().min_by_key(|connection| connection.streams.get()) else {
            return Room::None;
        };
        if best.streams.get() >= limits::H2_STREAMS_MAX {
            return Room::Full { at_limit };
        }
        let scarce = !at_limit && best.streams.get() >= limits::H2_STREAMS_MAX * 4 / 5;
        best.used.set(true);
        let stream = Count::one(&best.streams);
        let sender = LeaseSender::H2(best.sender.clone(), stream, Rc::clone(&best.spoiled));
        Room::Stream { sender, ends: best.ends.clone(), scarce }
    }

    /// Opens one more connection before those there are run out of streams. Nobody waits for it,
    /// so no request fails with it.
    pub(super) fn relieve(self: &Rc<Self>, target: &Target) {
        if self.opening.borrow().is_some() {
            return;
        }
        let (now, connections) = (Instant::now(), self.h2.borrow().len());
        let helped = connections > self.relieved.get();
        if helped || self.not_before.get().is_none_or(|then| then <= now) {
            self.relieved.set(connections);
            self.not_before.set(Some(now + RELIEF_PAUSE));
            self.opening(target);
        }
    }

    /// The connection being opened. It is opened by a task of its own: a request that goes away
    /// must not take the others' connection with it.
    pub(super) fn opening(self: &Rc<Slot>, target: &Target) -> Rc<Opening> {
        if let Some(opening) = &*self.opening.borrow() {
            return Rc::clone(opening);
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
                Err(error) => finish.failed(target.addr(), error),
            }
            drop(finish);
        });
        opening
    }

    pub(super) fn adopt(&self, sender: Sender, ends: Option<&Rc<MeshEnds>>) -> LeaseSender {
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

    pub(super) fn sweep(&self, idle: Duration, now: Instant) {
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

    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.h2.borrow().is_empty()
    }
}

/// Tells everybody who waits how opening ended, however it ended.
struct Finish {
    slot: Rc<Slot>,
    opening: Rc<Opening>,
    error: Option<ConnectError>,
}

impl Finish {
    fn failed(&mut self, addr: SocketAddr, error: ConnectError) {
        self.slot.not_before.set(Some(Instant::now() + RELIEF_PAUSE));
        if !self.opening.is_answered_for() {
            tracing::info!(%addr, %error, "could not open one more connection");
        }
        self.error = Some(error);
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.slot.opening.borrow_mut().take();
        let outcome = self.error.take().map_or(Ok(()), |error| Err(Rc::new(error)));
        self.opening.finish(outcome);
    }
}
