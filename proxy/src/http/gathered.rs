//! What an HTTP/2 connection writes in one turn of the loop, written together: one TLS record and
//! one system call for the frames of all streams. The HTTP/2 library flushes after each DATA frame
//! and knows nothing of the other streams that are about to write.
//!
//! The bytes are handed to a task of their own, which is woken behind everything that can run
//! already. Nothing waits for a clock or for further bytes. Invariant: at most
//! `GATHERED_BYTES_MAX` are held, and none while the connection is idle; what was taken is written
//! before the end of the stream is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose writes are gathered.
pub struct Gathered<IO: AsyncWrite + Unpin> {
    shared: Rc<RefCell<Shared<IO>>>,
}

struct Shared<IO> {
    /// Gone with the [`Gathered`] half.
    io: Option<IO>,
    /// Taken and not yet written: everything from `written` on.
    bytes: Vec<u8>,
    written: usize,
    /// The io may hold bytes back until it is flushed.
    unflushed: bool,
    failed: Option<io::ErrorKind>,
    /// The writing task, while it waits: for something to do, or for the io.
    resting: Option<Waker>,
    /// The connection, waiting for room or for everything to be written.
    waiting: Option<Waker>,
    /// The connection, waiting for bytes to read.
    reading: Option<Waker>,
}

impl<IO: AsyncWrite + Unpin + 'static> Gathered<IO> {
    /// Spawns the writing task, so it needs a runtime of local tasks.
    pub fn new(io: IO) -> Gathered<IO> {
        let shared = Rc::new(RefCell::new(Shared {
            io: Some(io),
            bytes: Vec::new(),
            written: 0,
            unflushed: false,
            failed: None,
            resting: None,
            waiting: None,
            reading: None,
        }));
        tokio::task::spawn_local(write(Rc::clone(&shared)));
        Gathered { shared }
    }
}

/// Writes whatever was gathered, until the connection is gone.
async fn write<IO: AsyncWrite + Unpin>(shared: Rc<RefCell<Shared<IO>>>) {
    let mut late = false;
    poll_fn(|cx| {
        let mut shared = shared.borrow_mut();
        if shared.io.is_none() {
            return Poll::Ready(());
        }
        if shared.is_clean() {
            shared.rest(cx);
            return Poll::Pending;
        }
        // Streams that are ready now wake their connection once more; this task runs behind it.
        late = !late;
        if late {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match shared.drain(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => shared.fail(error.kind()),
            // When it goes on it writes at once.
            Poll::Pending => late = true,
        }
        // Also while the io is waited for: once that is dropped, it wakes nobody.
        shared.rest(cx);
        Poll::Pending
    })
    .await;
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Remembers who to wake.
fn park(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

impl<IO> Shared<IO> {
    fn rest(&mut self, cx: &Context<'_>) {
        park(&mut self.resting, cx);
    }

    fn is_clean(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
        self.forget();
        self.unflushed = false;
        wake(&mut self.waiting);
        wake(&mut self.reading);
    }

    fn forget(&mut self) {
        self.bytes = Vec::new();
        self.written = 0;
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Takes as many bytes as there is room for.
    fn gather(&mut self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        let mut room = limits::GATHERED_BYTES_MAX.saturating_sub(self.bytes.len());
        if room == 0 {
            park(&mut self.waiting, cx);
            return Poll::Pending;
        }
        if self.bytes.is_empty() {
            self.bytes.reserve_exact(limits::GATHERED_BYTES_MIN);
        }
        let before = self.bytes.len();
        for slice in slices {
            let (taken, _) = slice.split_at(slice.len().min(room));
            self.bytes.extend_from_slice(taken);
            room -= taken.len();
        }
        wake(&mut self.resting);
        Poll::Ready(Ok(self.bytes.len() - before))
    }
}

impl<IO: AsyncWrite + Unpin> Shared<IO> {
    fn io(&mut self) -> io::Result<Pin<&mut IO>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Writes everything that was taken.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        while let Some(rest @ [_, ..]) = self.bytes.get(self.written..) {
            self.unflushed = true;
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.forget();
        wake(&mut self.waiting);
        ready!(self.io()?.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> Drop for Gathered<IO> {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        // What was taken counts as written for whoever wrote it; here it goes as far as it can.
        let _ = shared.drain(&mut Context::from_waker(Waker::noop()));
        shared.io = None;
        shared.forget();
        wake(&mut shared.resting);
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.shared.borrow_mut();
        let read = shared.io()?.poll_read(cx, buf);
        if read.is_pending() {
            // Not before: what the other end said before it went is still there to be read.
            shared.check()?;
            park(&mut shared.reading, cx);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The writing task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.borrow().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.borrow_mut();
        shared.check()?;
        if !shared.is_clean() {
            park(&mut shared.waiting, cx);
            return Poll::Pending;
        }
        shared.io()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "tests/gathered.rs"]
mod tests;
