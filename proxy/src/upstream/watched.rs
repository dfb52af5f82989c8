//! A connection that breaks when its other end no longer counts, whoever drives it: the HTTP/2
//! library runs a connection on a task of its own, which nobody else can end.
//!
//! Invariant: once the registration is cut, not a byte moves in either direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::registry::Registered;

/// A watched connection.
pub struct Watched<IO> {
    io: IO,
    registered: Option<Registered>,
}

impl<IO> Watched<IO> {
    /// Lasts as long as `registered` may; without it, as long as it likes.
    pub fn new(io: IO, registered: Option<Registered>) -> Watched<IO> {
        Watched { io, registered }
    }

    fn check(&self) -> io::Result<()> {
        let reason = self.registered.as_ref().and_then(Registered::reason);
        match reason.filter(|reason| !reason.has_grace()) {
            Some(_) => Err(cut()),
            None => Ok(()),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the other end no longer counts")
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending()
            && let Some(registered) = &self.registered
            && registered.poll_cut(cx).is_ready()
        {
            return Poll::Ready(Err(cut()));
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
