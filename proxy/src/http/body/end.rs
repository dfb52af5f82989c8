//! How a body ends: whole, cut short, or dropped by whoever reads it.
//!
//! Invariant: a response that ends before its end takes the request body along, so that nothing of
//! an exchange reaches the other side after the exchange is over.

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};

use super::{BodyError, Guards, State, Streaming};
use crate::http::lasting::Lasting;
use crate::upstream::upload::Fault;

impl Streaming {
    /// Why nothing more of it may be read, whatever has come.
    pub(super) fn stopped(&self) -> Option<Fault> {
        if self.is_upload {
            return self.upload.as_ref().and_then(|upload| upload.stopped());
        }
        self.guards.lasting.as_ref().and_then(Lasting::reason).map(Fault::Ended)
    }

    /// Why the request body was cut: what a response that breaks off after it really ended of.
    pub(super) fn echoed(&self) -> Option<Fault> {
        self.upload.as_ref().filter(|_| !self.is_upload).and_then(|upload| upload.fault())
    }

    /// Ends the body early: a gRPC stream says why, anything else breaks off.
    pub(super) fn cut(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(upload) = &self.upload {
            upload.failed(fault);
        }
        self.abandon();
        if self.grpc && !self.is_upload {
            self.state = State::Ended;
            return Poll::Ready(Some(Ok(Frame::trailers(grpc_end(fault)))));
        }
        Poll::Ready(Some(Err(fault.into())))
    }

    /// The exchange is over; says so where it lasted.
    fn close(&mut self) {
        if let Some(lasting) = self.guards.lasting.take() {
            let bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes());
            lasting.close(bytes_in, self.bytes);
        }
    }

    /// Ends the body without its end: nothing can be used again.
    pub(super) fn abandon(&mut self) {
        self.close();
        self.state = State::Broken;
        self.guards = Guards::default();
        self.forsake();
    }

    /// Nobody reads the rest: of the request body, or of the response, whose request body then has
    /// no purpose either.
    fn forsake(&self) {
        match &self.upload {
            Some(upload) if self.is_upload => upload.abandoned(),
            Some(upload) => upload.failed(Fault::Forsaken),
            None => {}
        }
    }

    pub(super) fn complete(&mut self) {
        self.close();
        self.state = State::Ended;
        if let (true, Some(upload)) = (self.is_upload, &self.upload) {
            upload.sent();
        }
        if let Some(checkout) = self.guards.checkout.take() {
            checkout.give_back();
        }
        self.guards = Guards::default();
    }
}

/// What a gRPC stream that is cut short says at its end.
fn grpc_end(fault: Fault) -> HeaderMap {
    if let Fault::Ended(reason) = fault {
        return Lasting::trailers(reason);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u16::from(fault.grpc_status()).into());
    if let Ok(message) = HeaderValue::try_from(fault.to_string()) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // hyper does not poll a body whose `is_end_stream` is already true (no body at all): such
        // a body is complete, and its connection can be used again.
        self.close();
        match self.state {
            State::Open if self.inner.is_end_stream() => self.complete(),
            State::Open | State::Broken => self.forsake(),
            State::Ended => {}
        }
    }
}
