//! The one body type of the data path. Bodies stream; nothing is collected.
//!
//! Invariant: trailers pass the same sanitiser as headers, and whatever must happen when a body
//! ends (return a pooled connection, start the grace of a context) happens by dropping its guards.

mod clock;
mod end;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use countersign_config::{Limits, limits};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use self::clock::Clock;

use crate::context_index::OpenContext;
use crate::http::hygiene;
use crate::http::lasting::Lasting;
use crate::http::upgrade::Tunnel;
use crate::upstream::pool::Checkout;
use crate::upstream::upload::{Fault, Upload};
use crate::worker::InFlight;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came over failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It broke a limit.
    #[error(transparent)]
    Cut(#[from] Fault),
    /// It had failed before; a truncated body never looks like a whole one.
    #[error("the body has already failed")]
    Broken,
}

/// A request or response body.
pub enum ProxyBody {
    /// No body at all.
    Empty,
    /// Bytes we made ourselves, such as a refusal.
    Full(Option<Bytes>),
    /// A body that streams through.
    Stream(Box<Streaming>),
    /// No body: after this head the connection carries something else.
    Tunnel(Box<Tunnel>),
}

/// A body on its way through, with what hangs on its end.
pub struct Streaming {
    inner: Incoming,
    removed: Option<Box<dyn Fn(usize)>>,
    bytes_max: Option<u64>,
    bytes: u64,
    clock: Clock,
    /// The exchange's request body: this one, or the one this body answers.
    upload: Option<Rc<Upload>>,
    is_upload: bool,
    /// A gRPC answer, which can say in trailers why it ends early.
    grpc: bool,
    state: State,
    guards: Guards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It failed.
    Broken,
    /// Its end was said by us.
    Ended,
}

/// What is released when a body ends. Order of the fields is order of release.
#[derive(Default)]
pub struct Guards {
    /// The connection the response came over; goes back to its pool after a complete body.
    pub checkout: Option<Checkout>,
    /// The context handed to the app with this request.
    pub context: Option<OpenContext>,
    /// The request's place under the in-flight cap.
    pub in_flight: Option<InFlight>,
    /// The exchange, which may have to end before its body does.
    pub lasting: Option<Lasting>,
}

impl ProxyBody {
    /// A body that streams through. One that has ended already is none.
    pub fn stream(inner: Incoming) -> ProxyBody {
        if inner.is_end_stream() {
            return ProxyBody::Empty;
        }
        ProxyBody::guarded(inner, Guards::default())
    }

    /// A body that streams through and releases `guards` at its end.
    pub fn guarded(inner: Incoming, guards: Guards) -> ProxyBody {
        ProxyBody::Stream(Box::new(Streaming {
            inner,
            removed: None,
            bytes_max: None,
            bytes: 0,
            clock: Clock::new(),
            upload: None,
            is_upload: false,
            grpc: false,
            state: State::Open,
            guards,
        }))
    }

    /// Cuts the body after `bytes`.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.bytes_max = Some(bytes);
        }
        self
    }

    /// Takes the idle time and the age of streams from the configuration.
    #[must_use]
    pub fn within(mut self, limits: &Limits) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.clock.idle = Duration::from_millis(limits.body_idle_ms_max);
            let age = Some(limits.stream_age_s_max).filter(|age| *age > 0);
            streaming.clock.until = age.map(|age| Instant::now() + Duration::from_secs(age));
        }
        self
    }

    /// Ends the body at `end` at the latest.
    #[must_use]
    pub fn until(mut self, end: Option<Instant>) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.clock.until = streaming.clock.until.into_iter().chain(end).min();
        }
        self
    }

    /// Ends the body at the deadline its call brought along.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Instant>) -> ProxyBody {
        self.end_at(deadline);
        self
    }

    /// The same for a body that is part of a request already.
    pub fn end_at(&mut self, deadline: Option<Instant>) {
        if let ProxyBody::Stream(streaming) = self {
            streaming.clock.deadline = deadline;
        }
    }

    /// Whether this is a gRPC answer: cut short it ends with trailers that say why.
    #[must_use]
    pub fn grpc(mut self, grpc: bool) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.grpc = grpc;
        }
        self
    }

    /// Makes this the request body of an exchange and hands out its progress.
    pub fn begin_upload(&mut self) -> Rc<Upload> {
        let upload = Upload::begin();
        match self {
            ProxyBody::Stream(streaming) if !streaming.inner.is_end_stream() => {
                streaming.is_upload = true;
                streaming.upload = Some(Rc::clone(&upload));
            }
            ProxyBody::Stream(_) | ProxyBody::Empty | ProxyBody::Full(_) | ProxyBody::Tunnel(_) => {
                upload.sent();
            }
        }
        upload
    }

    /// Makes this the response body of an exchange: it is idle only while the request body is too.
    #[must_use]
    pub fn answering(mut self, upload: Rc<Upload>) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.upload = Some(upload);
        }
        self
    }

    /// The progress of this request body; `None` if there is nothing left to send.
    pub fn upload(&self) -> Option<Rc<Upload>> {
        match self {
            ProxyBody::Stream(streaming) if streaming.is_upload => streaming.upload.clone(),
            ProxyBody::Stream(_) | ProxyBody::Empty | ProxyBody::Full(_) | ProxyBody::Tunnel(_) => {
                None
            }
        }
    }

    /// Calls `count` with the number of reserved trailers removed, when there were any.
    #[must_use]
    pub fn counting(mut self, count: impl Fn(usize) + 'static) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.removed = Some(Box::new(count));
        }
        self
    }

    /// Ends with `lasting`, at the latest. A body that is here already needs no such thing.
    pub fn hold(&mut self, lasting: Lasting) {
        match self {
            ProxyBody::Stream(streaming) => {
                if let Some(upload) = &streaming.upload {
                    upload.ends_with(lasting.registered());
                }
                streaming.guards.lasting = Some(lasting);
            }
            ProxyBody::Tunnel(tunnel) => tunnel.hold(lasting),
            ProxyBody::Empty | ProxyBody::Full(_) => {}
        }
    }

    /// The exchange it ends with.
    pub fn lasting(&mut self) -> Option<&mut Lasting> {
        match self {
            ProxyBody::Stream(streaming) => streaming.guards.lasting.as_mut(),
            ProxyBody::Tunnel(tunnel) => tunnel.lasting(),
            ProxyBody::Empty | ProxyBody::Full(_) => None,
        }
    }

    /// Takes the tunnel out that is to follow this head, if there is one.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match std::mem::replace(self, ProxyBody::Empty) {
            ProxyBody::Tunnel(tunnel) => Some(*tunnel),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Leaves our own bytes out: the answer to a HEAD has none, and hyper's HTTP/2 server sends what
    /// it is given.
    pub fn omit(&mut self) {
        if let ProxyBody::Full(_) = self {
            *self = ProxyBody::Empty;
        }
    }

    /// Bytes of our own.
    pub fn full(bytes: impl Into<Bytes>) -> ProxyBody {
        ProxyBody::Full(Some(bytes.into()))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ProxyBody::Empty | ProxyBody::Tunnel(_) => Poll::Ready(None),
            ProxyBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ProxyBody::Stream(streaming) => streaming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ProxyBody::Empty | ProxyBody::Tunnel(_) => true,
            ProxyBody::Full(bytes) => bytes.is_none(),
            ProxyBody::Stream(streaming) => streaming.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ProxyBody::Empty | ProxyBody::Full(None) | ProxyBody::Tunnel(_) => {
                SizeHint::with_exact(0)
            }
            ProxyBody::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            ProxyBody::Stream(streaming) => streaming.inner.size_hint(),
        }
    }
}

impl Streaming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.state {
            State::Open => {}
            State::Broken => return Poll::Ready(Some(Err(BodyError::Broken))),
            State::Ended => return Poll::Ready(None),
        }
        if let Some(fault) = self.stopped() {
            return self.cut(fault);
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(None) => {
                self.complete();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(fault) = self.echoed() {
                    return self.cut(fault);
                }
                self.abandon();
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Pending => {
                if let Some(lasting) = &self.guards.lasting
                    && let Poll::Ready(reason) = lasting.poll_ended(cx)
                {
                    return self.cut(Fault::Ended(reason));
                }
                self.wait(cx);
                return match self.clock.late(cx, self.upload.as_deref()) {
                    Some(fault) => self.cut(fault),
                    None => Poll::Pending,
                };
            }
        };
        if let Some(fault) = self.account(&frame) {
            return self.cut(fault);
        }
        let frame = match self.sanitise(frame) {
            Ok(frame) => frame,
            Err(fault) => return self.cut(fault),
        };
        if self.inner.is_end_stream() {
            self.complete();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Counts a frame that arrived.
    fn account(&mut self, frame: &Frame<Bytes>) -> Option<Fault> {
        self.clock.waiting_since = None;
        if let (true, Some(upload)) = (self.is_upload, &self.upload) {
            upload.set_waiting(false);
        }
        if let Some(upload) = &self.upload {
            upload.moved();
        }
        let length = frame.data_ref().map_or(0, Bytes::len);
        if let (true, Some(upload)) = (self.is_upload, &self.upload) {
            upload.count(length);
        }
        self.bytes = self.bytes.saturating_add(length as u64);
        if let Some(max) = self.bytes_max.filter(|max| self.bytes > *max) {
            return Some(Fault::TooLarge(max));
        }
        self.clock.over()
    }

    fn is_end(&self) -> bool {
        match self.state {
            State::Open => self.inner.is_end_stream(),
            State::Broken => false,
            State::Ended => true,
        }
    }

    /// Nothing has come yet: tells who else should know.
    fn wait(&self, cx: &Context<'_>) {
        if let (true, Some(upload)) = (self.is_upload, &self.upload) {
            upload.set_waiting(true);
            upload.wake_when_cut(cx);
        }
    }

    fn sanitise(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Fault> {
        let mut trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(frame) => return Ok(frame),
        };
        if let Some(lasting) = &mut self.guards.lasting {
            let status = trailers.get("grpc-status").and_then(|text| text.to_str().ok());
            lasting.grpc_status = status.and_then(|text| text.parse().ok());
        }
        let max = limits::TRAILER_BYTES_MAX;
        let removed =
            hygiene::clean_trailers(&mut trailers, max).map_err(|_| Fault::Trailers(max))?;
        if let (1.., Some(count)) = (removed, &self.removed) {
            count(removed);
        }
        Ok(Frame::trailers(trailers))
    }
}
