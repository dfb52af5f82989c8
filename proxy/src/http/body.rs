//! The one body type of the data path. Bodies stream; nothing is collected.
//!
//! Invariant: trailers pass the same sanitiser as headers, and whatever must happen when a body
//! ends (return a pooled connection, start the grace of a context) happens by dropping its guards.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_config::limits;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::context_index::OpenContext;
use crate::http::hygiene;
use crate::upstream::pool::Checkout;
use crate::worker::InFlight;

/// A request or response body.
pub enum ProxyBody {
    /// No body at all.
    Empty,
    /// Bytes we made ourselves, such as a refusal.
    Full(Option<Bytes>),
    /// A body that streams through.
    Stream(Box<Streaming>),
}

/// A body on its way through, with what hangs on its end.
pub struct Streaming {
    inner: Incoming,
    removed: Option<Box<dyn Fn(usize)>>,
    guards: Guards,
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
}

impl ProxyBody {
    /// A body that streams through.
    pub fn stream(inner: Incoming) -> ProxyBody {
        ProxyBody::Stream(Box::new(Streaming { inner, removed: None, guards: Guards::default() }))
    }

    /// A body that streams through and releases `guards` at its end.
    pub fn guarded(inner: Incoming, guards: Guards) -> ProxyBody {
        ProxyBody::Stream(Box::new(Streaming { inner, removed: None, guards }))
    }

    /// Calls `count` with the number of reserved trailers removed, when there were any.
    #[must_use]
    pub fn counting(mut self, count: impl Fn(usize) + 'static) -> ProxyBody {
        if let ProxyBody::Stream(streaming) = &mut self {
            streaming.removed = Some(Box::new(count));
        }
        self
    }

    /// Bytes of our own.
    pub fn full(bytes: impl Into<Bytes>) -> ProxyBody {
        ProxyBody::Full(Some(bytes.into()))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            ProxyBody::Empty => Poll::Ready(None),
            ProxyBody::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ProxyBody::Stream(streaming) => streaming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ProxyBody::Empty => true,
            ProxyBody::Full(bytes) => bytes.is_none(),
            ProxyBody::Stream(streaming) => streaming.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ProxyBody::Empty | ProxyBody::Full(None) => SizeHint::with_exact(0),
            ProxyBody::Full(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            ProxyBody::Stream(streaming) => streaming.inner.size_hint(),
        }
    }
}

impl Streaming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = self.sanitise(frame);
                if self.inner.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.guards = Guards::default();
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn sanitise(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                let removed = clean(&mut trailers);
                if let (1.., Some(count)) = (removed, &self.removed) {
                    count(removed);
                }
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    fn complete(&mut self) {
        if let Some(checkout) = self.guards.checkout.take() {
            checkout.give_back();
        }
        self.guards = Guards::default();
    }
}

/// Oversized trailers are dropped whole: half of them would be a different message.
fn clean(trailers: &mut HeaderMap) -> usize {
    hygiene::clean_trailers(trailers, limits::TRAILER_BYTES_MAX).unwrap_or_else(|_| {
        let dropped = trailers.len();
        trailers.clear();
        dropped
    })
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // hyper does not poll a body whose `is_end_stream` is already true (no body at all): such
        // a body is complete, and its connection can be used again.
        if self.inner.is_end_stream() {
            self.complete();
        }
    }
}
