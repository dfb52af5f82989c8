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

use countersign_config::limits;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::Mutex;

use crate::http::body::ProxyBody;
use crate::tls::peer::MeshPeer;
use crate::tls::verify::ExpectedIds;
use crate::tls::{Alpn, MeshTls};
use crate::upstream::connect::{self, ConnectError, Sender};

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

/// All connections of one worker.
#[derive(Default)]
pub struct Pool {
    slots: RefCell<HashMap<Key, Rc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    h2: RefCell<Vec<Multiplexed>>,
    idle: RefCell<Vec<Idle>>,
    /// Waiters for the same key share one handshake.
    opening: Mutex<()>,
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
}

enum LeaseSender {
    H1(http1::SendRequest<ProxyBody>),
    H2(http2::SendRequest<ProxyBody>, StreamCount),
}

/// One open stream on a multiplexed connection.
struct StreamCount(Rc<Cell<u32>>);

impl StreamCount {
    fn open(streams: &Rc<Cell<u32>>) -> StreamCount {
        streams.set(streams.get() + 1);
        StreamCount(Rc::clone(streams))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What a response body holds until it ended: the connection to give back, or the stream count.
pub struct Checkout {
    h1: Option<(http1::SendRequest<ProxyBody>, Option<MeshPeer>, Rc<Slot>)>,
    _stream: Option<StreamCount>,
}

impl Checkout {
    /// The body ended whole: the connection may serve again.
    pub fn give_back(self) {
        let Some((sender, peer, slot)) = self.h1 else { return };
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
        let Lease { sender, peer, reused, slot } = self;
        match sender {
            LeaseSender::H1(mut sender) => {
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    Box::new(SendFailed { error: failed.into_error(), unsent, reused })
                })?;
                Ok((response, Checkout { h1: Some((sender, peer, slot)), _stream: None }))
            }
            LeaseSender::H2(mut sender, stream) => {
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|mut failed| {
                    let unsent = failed.take_message();
                    Box::new(SendFailed { error: failed.into_error(), unsent, reused })
                })?;
                Ok((response, Checkout { h1: None, _stream: Some(stream) }))
            }
        }
    }
}

impl Pool {
    /// A connection to `target`: an open one if there is one with room, else a new one.
    ///
    /// # Errors
    /// [`ConnectError`] when a new one was needed and could not be opened.
    pub async fn lease(&self, target: &Target) -> Result<Lease, ConnectError> {
        let slot = self.slot(target);
        if let Some(lease) = slot.take_open().await {
            return Ok(lease);
        }
        if !target_is_h2(target) {
            let (sender, peer) = open(target).await?;
            return Ok(slot.adopt(sender, peer));
        }
        let _guard = slot.opening.lock().await;
        if let Some(lease) = slot.take_open().await {
            return Ok(lease);
        }
        let (sender, peer) = open(target).await?;
        Ok(slot.adopt(sender, peer))
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

impl Slot {
    async fn take_open(self: &Rc<Slot>) -> Option<Lease> {
        if let Some(lease) = self.take_stream() {
            return Some(lease);
        }
        loop {
            let Idle { mut sender, peer, .. } = self.idle.borrow_mut().pop()?;
            // A connection given back a moment ago may need one turn to become ready.
            if !sender.is_closed() && sender.ready().await.is_ok() {
                let sender = LeaseSender::H1(sender);
                return Some(Lease { sender, peer, reused: true, slot: Rc::clone(self) });
            }
        }
    }

    /// The least loaded multiplexed connection, unless all are near the stream limit.
    fn take_stream(self: &Rc<Slot>) -> Option<Lease> {
        let mut open = self.h2.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed());
        let full = limits::H2_STREAMS_MAX * 4 / 5;
        let at_limit = open.len() >= limits::H2_CONNS_PER_KEY_MAX;
        let best = open.iter().min_by_key(|connection| connection.streams.get())?;
        if best.streams.get() >= full && !at_limit {
            return None;
        }
        Some(Lease {
            sender: LeaseSender::H2(best.sender.clone(), StreamCount::open(&best.streams)),
            peer: best.peer.clone(),
            reused: true,
            slot: Rc::clone(self),
        })
    }

    fn adopt(self: &Rc<Slot>, sender: Sender, peer: Option<MeshPeer>) -> Lease {
        let sender = match sender {
            Sender::H1(sender) => LeaseSender::H1(sender),
            Sender::H2(sender) => {
                let streams = Rc::new(Cell::new(0));
                let count = StreamCount::open(&streams);
                let open = Multiplexed { sender: sender.clone(), peer: peer.clone(), streams };
                self.h2.borrow_mut().push(open);
                LeaseSender::H2(sender, count)
            }
        };
        Lease { sender, peer, reused: false, slot: Rc::clone(self) }
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

fn target_is_h2(target: &Target) -> bool {
    match target {
        Target::App { h2, .. } => *h2,
        Target::Mesh { alpn, .. } => *alpn == Alpn::H2,
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
