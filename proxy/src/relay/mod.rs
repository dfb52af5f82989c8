//! Carries bytes between two connections, each direction on its own: an end in one direction is
//! passed on and leaves the other open.
//!
//! A direction borrows a buffer only while bytes are moving, so an idle relay holds none.
//! Invariant: an end is passed on only after an orderly end; a stream that breaks off never looks
//! complete to the other side.

pub mod buffers;
mod half;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_config::limits::{self, Limits};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::intercept::prefixed::Prefixed;
use crate::relay::buffers::Buffers;
use crate::relay::half::Half;
use crate::telemetry::{Direction, Flow, WorkerMetrics};

/// Bytes moved so far, readable while the relay runs. `a` and `b` are the arguments of [`run`].
#[derive(Debug, Default)]
pub struct Moved {
    to_a: Cell<u64>,
    to_b: Cell<u64>,
    metrics: Option<(Rc<WorkerMetrics>, Direction)>,
}

impl Moved {
    /// Bytes written to `a`.
    pub fn to_a(&self) -> u64 {
        self.to_a.get()
    }

    /// Bytes written to `b`.
    pub fn to_b(&self) -> u64 {
        self.to_b.get()
    }

    fn count(&self, to: Side, bytes: u64) {
        let (cell, flow) = match to {
            Side::A => (&self.to_a, Flow::Sent),
            Side::B => (&self.to_b, Flow::Received),
        };
        cell.set(cell.get() + bytes);
        if let Some((metrics, direction)) = &self.metrics {
            metrics.tcp_bytes(*direction, flow, bytes);
        }
    }
}

/// What one relay lives by.
#[derive(Clone, Debug)]
pub struct RelayLimits {
    /// Time without a byte in either direction.
    pub idle: Duration,
    /// The same once one direction has ended.
    pub half_closed: Duration,
    /// The worker's buffers.
    pub buffers: Rc<Buffers>,
    /// Counts what is moved.
    pub moved: Rc<Moved>,
}

impl RelayLimits {
    /// The limits in force, with counters of their own.
    pub fn new(buffers: &Rc<Buffers>, limits: &Limits) -> RelayLimits {
        RelayLimits {
            idle: Duration::from_millis(limits.tcp_idle_ms_max),
            half_closed: Duration::from_millis(limits::TCP_HALF_CLOSED_MS_MAX),
            buffers: Rc::clone(buffers),
            moved: Rc::default(),
        }
    }

    /// Counts in metrics too, `a` being whoever opened the connection.
    #[must_use]
    pub fn metered(mut self, metrics: &Rc<WorkerMetrics>, direction: Direction) -> RelayLimits {
        let metrics = Some((Rc::clone(metrics), direction));
        self.moved = Rc::new(Moved { metrics, ..Moved::default() });
        self
    }
}

/// One end of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first argument of [`run`].
    A,
    /// The second.
    B,
}

/// Why a relay ended.
#[derive(Debug)]
pub enum Why<R> {
    /// Both directions ended in order.
    Closed,
    /// One connection broke; the other must be reset, see [`reset`].
    Broken(Side, io::Error),
    /// Nothing moved for too long; the name of the limit.
    Idle(&'static str),
    /// `stop` was ready.
    Stopped(R),
}

/// How a relay ended.
#[derive(Debug)]
pub struct RelayEnd<R> {
    /// Why.
    pub why: Why<R>,
    /// Bytes written to `a`.
    pub to_a: u64,
    /// Bytes written to `b`.
    pub to_b: u64,
}

/// Relays until both directions ended, one connection broke, nothing moved for too long, or `stop`
/// is ready. Pass `&mut` connections to reset them afterwards.
pub async fn run<A, B, R>(
    mut a: A,
    mut b: B,
    limits: &RelayLimits,
    stop: impl Future<Output = R>,
) -> RelayEnd<R>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = &limits.moved;
    let mut to_b = Half::new();
    let mut to_a = Half::new();
    let mut stop = pin!(stop);
    let mut quiet = Quiet::new(limits);
    let why = poll_fn(|cx| {
        if let Poll::Ready(asked) = stop.as_mut().poll(cx) {
            return Poll::Ready(Why::Stopped(asked));
        }
        let forth = to_b.poll(cx, &mut a, &mut b, &limits.buffers, |bytes| {
            moved.count(Side::B, bytes);
        });
        let back = to_a.poll(cx, &mut b, &mut a, &limits.buffers, |bytes| {
            moved.count(Side::A, bytes);
        });
        match (forth, back) {
            (Poll::Ready(Err(broken)), _) => {
                return Poll::Ready(broken.by(Side::A, Side::B));
            }
            (_, Poll::Ready(Err(broken))) => {
                return Poll::Ready(broken.by(Side::B, Side::A));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Why::Closed),
            (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {
                quiet.half_closed();
            }
            (Poll::Pending, Poll::Pending) => {}
        }
        let last = to_a.last_progress().max(to_b.last_progress());
        quiet.poll(cx, last).map(Why::Idle)
    })
    .await;
    RelayEnd { why, to_a: moved.to_a(), to_b: moved.to_b() }
}

/// The idle timer: armed once and looked at again only when it rings.
struct Quiet {
    timer: Pin<Box<Sleep>>,
    allowed: Duration,
    half_closed: Duration,
    limit: &'static str,
}

impl Quiet {
    fn new(limits: &RelayLimits) -> Quiet {
        Quiet {
            timer: Box::pin(sleep(limits.idle)),
            allowed: limits.idle,
            half_closed: limits.half_closed,
            limit: "TCP_IDLE_MS_MAX",
        }
    }

    /// One direction has ended: the shorter limit counts from now on.
    fn half_closed(&mut self) {
        if self.limit == "TCP_IDLE_MS_MAX" {
            self.limit = "TCP_HALF_CLOSED_MS_MAX";
            self.allowed = self.half_closed.min(self.allowed);
            let due = Instant::now() + self.allowed;
            self.timer.as_mut().reset(due);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, last: Instant) -> Poll<&'static str> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = last + self.allowed;
            if due <= Instant::now() {
                return Poll::Ready(self.limit);
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// A connection with a TCP socket underneath.
pub trait OnTcp {
    /// The socket.
    fn tcp(&self) -> &TcpStream;
}

impl OnTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl<IO: OnTcp> OnTcp for Box<IO> {
    fn tcp(&self) -> &TcpStream {
        (**self).tcp()
    }
}

impl<IO: OnTcp> OnTcp for Prefixed<IO> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().tcp()
    }
}

impl<IO: OnTcp> OnTcp for tokio_rustls::server::TlsStream<IO> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }
}

impl<IO: OnTcp> OnTcp for tokio_rustls::client::TlsStream<IO> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }
}

/// A connection that is dropped after this ends with a reset, so that what it carried does not
/// look complete.
pub fn reset(stream: &impl OnTcp) {
    let _ = SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
}
