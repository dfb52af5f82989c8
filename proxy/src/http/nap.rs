//! An HTTP/1.1 connection that holds no buffers while nothing happens on it.
//!
//! hyper keeps 16 KiB of buffers for as long as a connection lasts, and reads into them as soon as it
//! waits. Once a connection has waited a while for its next head, hyper is taken off it; what is left
//! is the socket with its head check, and the first byte puts a new hyper on. Busy connections pay
//! for one look at a clock in each wait.
//!
//! Invariant: it falls asleep only between two requests, with everything written and flushed, so
//! there is nothing that hyper knew and the next one would have to know.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::http::body::ProxyBody;
use crate::http::head::{HeadGuarded, HeadMonitor};

/// How long a connection may wait for its next request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until it falls asleep: at least this, less than twice as much.
    pub(crate) awake: Duration,
    /// Until it is closed.
    pub(crate) idle: Duration,
}

/// The connection as a future, ready when it has ended or has been switched to another protocol.
pub(crate) struct Napping<IO, S>
where
    S: Service<Request<Incoming>, Response = Response<ProxyBody>, Error = Infallible>,
{
    state: State<IO, S>,
    monitor: HeadMonitor,
    builder: Builder,
    patience: Patience,
    /// Looked at while the connection waits for a head; whatever happens does not set it again.
    clock: Pin<Box<Sleep>>,
    /// When it will have been idle for too long.
    idle_until: Instant,
}

enum State<IO, S>
where
    S: Service<Request<Incoming>, Response = Response<ProxyBody>, Error = Infallible>,
{
    // Boxed: it is what a sleeping connection must not keep room for.
    Awake(Box<UpgradeableConnection<TokioIo<HeadGuarded<IO>>, S>>),
    Asleep(HeadGuarded<IO>, S),
    /// Told to end while asleep.
    Leaving(HeadGuarded<IO>),
    Ended,
}

impl<IO, S> Napping<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ProxyBody>, Error = Infallible>,
{
    /// Serves `io` with what `builder` makes; `monitor` belongs to `io`.
    pub(crate) fn new(
        (io, monitor): (HeadGuarded<IO>, HeadMonitor),
        mut builder: Builder,
        service: S,
        patience: Patience,
    ) -> Self {
        // The clock here does what hyper's would; one for each request costs more.
        builder.header_read_timeout(None);
        let connection = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        let now = Instant::now();
        Self {
            state: State::Awake(Box::new(connection)),
            monitor,
            builder,
            patience,
            clock: Box::pin(tokio::time::sleep_until(now + patience.awake)),
            idle_until: now + patience.idle,
        }
    }

    /// It ends after the request under way, at once where there is none.
    pub(crate) fn leave(&mut self) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Awake(mut connection) => {
                Pin::new(&mut *connection).graceful_shutdown();
                self.state = State::Awake(connection);
            }
            State::Asleep(io, _) | State::Leaving(io) => self.state = State::Leaving(io),
            State::Ended => {}
        }
    }

    /// Pending while the connection waits for its next head and may do so; ready with whether it
    /// has done so for long enough to sleep, or too long.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<Waited> {
        loop {
            ready!(self.clock.as_mut().poll(cx));
            let now = Instant::now();
            if self.monitor.has_read() {
                self.idle_until = now + self.patience.idle;
            } else if now >= self.idle_until {
                return Poll::Ready(Waited::TooLong);
            } else if self.monitor.is_flushed() {
                return Poll::Ready(Waited::Enough);
            }
            self.clock.as_mut().reset(now + self.patience.awake);
        }
    }

    fn fall_asleep(&mut self) {
        let State::Awake(connection) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        if let Some(parts) = connection.into_parts() {
            let mut io = parts.io.into_inner();
            io.give_back(&parts.read_buf);
            self.state = State::Asleep(io, parts.service);
            self.clock.as_mut().reset(self.idle_until);
        }
    }

    fn wake(&mut self) {
        let State::Asleep(io, service) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let connection = self.builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        self.state = State::Awake(Box::new(connection));
        self.clock.as_mut().reset(Instant::now() + self.patience.awake);
    }

    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        matches!(self.state, State::Asleep(..))
    }
}

enum Waited {
    Enough,
    TooLong,
}

impl<IO, S> Future for Napping<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ProxyBody>, Error = Infallible> + Unpin,
{
    type Output = Result<(), hyper::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Awake(connection) => {
                    if let Poll::Ready(ended) = Pin::new(&mut **connection).poll(cx) {
                        return Poll::Ready(ended);
                    }
                    if !this.monitor.waits() {
                        return Poll::Pending;
                    }
                    match ready!(this.poll_waited(cx)) {
                        Waited::Enough => this.fall_asleep(),
                        Waited::TooLong => return Poll::Ready(Ok(())),
                    }
                }
                State::Asleep(io, _) => {
                    if io.poll_stirred(cx).is_pending() {
                        ready!(this.clock.as_mut().poll(cx));
                        return Poll::Ready(Ok(()));
                    }
                    this.wake();
                }
                State::Leaving(io) => {
                    // Whether the other end hears of it is all the same.
                    let _ = ready!(Pin::new(io).poll_shutdown(cx));
                    this.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/nap.rs"]
mod tests;
