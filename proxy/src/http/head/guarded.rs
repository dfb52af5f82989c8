//! The head check as an I/O wrapper: every byte hyper reads has passed [`HeadCheck`].
//!
//! Bytes are checked in the buffer they were read into, nothing is copied. The wrapper also owns
//! the head time-out, which starts with the first byte of a head and not before, so that idle
//! keep-alive connections are left to the idle timer.
//!
//! A refused **first** head is answered by the wrapper itself, because nothing else has been
//! written yet; hyper then gets an error. A refused **later** head must wait for the answers that
//! are still under way, so hyper is handed one byte that no grammar allows and answers 400 in
//! its turn. A refused chunk line fails the body that is being read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{HeadError, HeadLimits};

/// An accepted connection whose reads are checked before the parser sees them.
pub struct HeadGuarded<IO> {
    io: IO,
    prefix: Bytes,
    limits: HeadLimits,
}

/// The accept loop's view of a guarded connection: what was refused, and the way to stop the
/// check before an upgrade.
#[derive(Clone, Debug)]
pub struct HeadMonitor {
    shared: Arc<()>,
}

impl HeadMonitor {
    /// The refusal, once there was one. It has been answered already.
    pub fn violation(&self) -> Option<HeadError> {
        let _ = &self.shared;
        todo!()
    }

    /// Ends the check. Call it before the answer that switches protocols is returned to hyper.
    pub fn stop(&self) {
        todo!()
    }
}

/// Makes the answer to a refused first head.
pub type Answer = Box<dyn FnOnce(HeadError) -> Vec<u8> + Send>;

impl<IO> HeadGuarded<IO> {
    /// Guards `io`. `prefix` holds bytes that were already read (protocol detection, the rest
    /// after a PROXY header); they are checked and served first.
    pub fn new(io: IO, prefix: Bytes, limits: HeadLimits) -> (Self, HeadMonitor) {
        (Self { io, prefix, limits }, HeadMonitor { shared: Arc::new(()) })
    }

    /// Uses `answer` for a refused first head, so that it can carry a decision id.
    /// Without it the answer is [`super::refusal_bytes`] without one.
    pub fn answering(self, _answer: Answer) -> Self {
        self
    }

    /// Takes the connection apart after an upgrade: the socket and prefix bytes nobody read.
    pub fn into_parts(self) -> (IO, Bytes) {
        let _ = self.limits;
        (self.io, self.prefix)
    }

    /// The wrapped connection.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeadGuarded<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for HeadGuarded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
