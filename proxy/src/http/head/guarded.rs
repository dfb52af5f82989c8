//! The head check as an I/O wrapper: every byte hyper reads has passed [`HeadCheck`].
//!
//! Bytes are checked in the buffer they were read into; only a line that has not ended is held back,
//! so that the parser never judges half a line before the check has judged the whole. The wrapper also owns
//! the head time-out, which starts with the first byte of a head and not before, so that idle
//! keep-alive connections are left to the idle timer.
//!
//! A refused **first** head is answered by the wrapper itself, because nothing else has been
//! written yet; hyper then gets an error. A refused **later** head must wait for the answers that
//! are still under way, so hyper is handed bytes that no grammar allows and answers 400 in its
//! turn. A refused chunk line fails the body that is being read.
//!
//! A connection that is closed before its client has sent all of a request says goodbye first and
//! then reads on for a bounded while ([`Linger`]): closed with bytes unread, the kernel would send a
//! reset, and the client might never see why it was refused.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{HeadCheck, HeadError, HeadLimits, Phase, Place, Violation, refusal_bytes};

/// An accepted connection whose reads are checked before the parser sees them.
///
/// hyper's `pipeline_flush` must stay off above it: hyper then holds finished answers back while a
/// part of the next head is buffered, and drops them when that head is refused.
pub struct HeadGuarded<IO> {
    io: IO,
    prefix: Bytes,
    /// The start of a line that has not ended.
    held: Vec<u8>,
    /// Checked bytes that did not fit.
    checked: Bytes,
    check: HeadCheck,
    state: State,
    head_time: Duration,
    /// When the head with this number must be complete.
    deadline: Option<(u64, Instant)>,
    /// Made when a head first arrives in pieces, then kept for the connection.
    sleep: Option<Pin<Box<Sleep>>>,
    answer: Option<Answer>,
    linger: Option<Box<Linger>>,
    shared: Arc<Shared>,
}

/// The rest of a request that nobody wants: read and dropped, up to a number of bytes and a time.
struct Linger {
    bytes_left: usize,
    until: Pin<Box<Sleep>>,
}

/// The accept loop's view of a guarded connection: what was refused, and the way to stop the
/// check before an upgrade.
#[derive(Clone, Debug)]
pub struct HeadMonitor {
    shared: Arc<Shared>,
}

/// Makes the answer to a refused first head.
pub type Answer = Box<dyn FnOnce(HeadError) -> Vec<u8> + Send>;

#[derive(Debug, Default)]
struct Shared {
    /// Discriminant of the [`HeadError`]; 0 is none.
    violation: AtomicU8,
    stopped: AtomicBool,
    /// The last read found nothing, between two requests.
    waits: AtomicBool,
    /// Something was read since somebody asked.
    has_read: AtomicBool,
    /// Something was written and not flushed.
    unflushed: AtomicBool,
}

enum State {
    Open,
    /// Our own answer is being written; then the reader fails.
    Answering(HeadError, Bytes),
    /// What is left of the bytes that hyper must refuse; then the reader fails.
    Poison(HeadError, Bytes),
    Failed(HeadError),
}

/// Bytes looked for by a connection that holds no buffer: most heads whole, and little of a stack.
const STIRRING_BYTES: usize = 1_024;

/// No grammar of HTTP/1 has a place for NUL, wherever in a head it stands. The empty line is
/// there because hyper looks at a partial head again only once it can be complete.
const POISON: Bytes = Bytes::from_static(b"\0\r\n\r\n");

impl HeadMonitor {
    /// The refusal, once there was one. It has been answered already.
    pub fn violation(&self) -> Option<HeadError> {
        HeadError::from_code(self.shared.violation.load(Ordering::Relaxed))
    }

    /// Ends the check. Call it before the answer that switches protocols is returned to hyper.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the parser looked for the next head and there was nothing of it.
    pub fn waits(&self) -> bool {
        self.shared.waits.load(Ordering::Relaxed)
    }

    /// Whether anything was read since this was last asked.
    pub fn has_read(&self) -> bool {
        let has_read = self.shared.has_read.load(Ordering::Relaxed);
        self.shared.has_read.store(false, Ordering::Relaxed);
        has_read
    }

    /// Whether everything that was written has been flushed.
    pub fn is_flushed(&self) -> bool {
        !self.shared.unflushed.load(Ordering::Relaxed)
    }
}

impl<IO> HeadGuarded<IO> {
    /// Guards `io`. `prefix` holds bytes that were already read (protocol detection, the rest
    /// after a PROXY header); they are checked and served first.
    pub fn new(io: IO, prefix: Bytes, limits: HeadLimits) -> (Self, HeadMonitor) {
        let shared = Arc::new(Shared::default());
        let guarded = Self {
            io,
            prefix,
            held: Vec::new(),
            checked: Bytes::new(),
            check: HeadCheck::new(limits),
            state: State::Open,
            head_time: Duration::from_millis(limits.head_ms),
            deadline: None,
            sleep: None,
            answer: None,
            linger: None,
            shared: Arc::clone(&shared),
        };
        (guarded, HeadMonitor { shared })
    }

    /// Uses `answer` for a refused first head, so that it can carry a decision id.
    /// Without it the answer is [`refusal_bytes`] without one.
    pub fn answering(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self
    }

    /// Takes the connection apart after an upgrade: the socket and prefix bytes nobody read.
    pub fn into_parts(self) -> (IO, Bytes) {
        (self.io, self.prefix)
    }

    /// The wrapped connection.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Takes back bytes that were read from here and came to nothing, to be read again. Copied, so
    /// that the buffer they are in goes.
    pub fn give_back(&mut self, bytes: &[u8]) {
        self.checked = Bytes::copy_from_slice(bytes);
    }

    /// Starts or clears the time-out after bytes were accepted.
    fn note_progress(&mut self) {
        if self.check.phase() != Phase::Head {
            self.deadline = None;
        } else if self.deadline.is_none_or(|(head, _)| head != self.check.heads()) {
            self.deadline = Some((self.check.heads(), Instant::now() + self.head_time));
        }
    }

    /// Pending until the head under way has taken too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, deadline)) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    fn refuse(&mut self, violation: Violation) {
        let error = violation.error;
        self.shared.violation.store(error as u8, Ordering::Relaxed);
        self.state = match violation.place {
            Place::Body => State::Failed(error),
            Place::LaterHead => State::Poison(error, POISON),
            Place::FirstHead => {
                let answer = self.answer.take();
                let bytes = answer.map_or_else(|| refusal_bytes(error, None), |make| make(error));
                State::Answering(error, bytes.into())
            }
        };
    }

    fn head_violation(&self, error: HeadError) -> Violation {
        let place = if self.check.messages() == 0 { Place::FirstHead } else { Place::LaterHead };
        Violation { error, complete: 0, place }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> HeadGuarded<IO> {
    /// Ready when there is something to read; what came is kept for whoever reads. An end or an
    /// error will be met by that read again.
    pub fn poll_stirred(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut first = [const { MaybeUninit::uninit() }; STIRRING_BYTES];
        let mut buf = ReadBuf::uninit(&mut first);
        if ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)).is_ok() {
            self.prefix = Bytes::copy_from_slice(buf.filled());
        }
        Poll::Ready(())
    }

    /// Reads more bytes and passes on what the check accepts. `Ready(false)`: look again.
    fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        if self.shared.stopped.load(Ordering::Relaxed) {
            self.check.stop();
            self.deadline = None;
            if !self.held.is_empty() {
                self.checked = std::mem::take(&mut self.held).into();
            }
        }
        if self.checked.has_remaining() {
            return Poll::Ready(Ok(false));
        }
        let before = buf.filled().len();
        if self.prefix.has_remaining() {
            serve(&mut self.prefix, buf);
        } else {
            match Pin::new(&mut self.io).poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    let violation = self.head_violation(HeadError::HeadTimeout);
                    self.refuse(violation);
                    return Poll::Ready(Ok(false));
                }
            }
        }
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(true)); // the end
        }
        match self.check.feed(fresh) {
            Ok(()) => {
                self.note_progress();
                Poll::Ready(Ok(self.hold_back(buf, before)))
            }
            Err(violation) => {
                let complete = violation.complete;
                buf.set_filled(before + complete);
                if complete > 0 && !self.held.is_empty() {
                    self.release(buf, before, 0);
                }
                self.refuse(violation);
                Poll::Ready(Ok(complete > 0))
            }
        }
    }

    /// Keeps the line that has not ended; `false` if nothing is left to pass on.
    fn hold_back(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let unfinished = self.check.unfinished();
        if unfinished > 0 || !self.held.is_empty() {
            self.release(buf, before, unfinished);
        }
        buf.filled().len() > before
    }

    /// Passes on what was held and what came, but for the last `unfinished` bytes.
    fn release(&mut self, buf: &mut ReadBuf<'_>, before: usize, unfinished: usize) {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        self.held = all.split_off(all.len().saturating_sub(unfinished));
        buf.set_filled(before);
        self.checked = all.into();
        serve(&mut self.checked, buf);
    }

    /// Reads what has passed the check.
    fn poll_passed(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.checked.has_remaining() {
                serve(&mut self.checked, buf);
                return Poll::Ready(Ok(()));
            }
            match &mut self.state {
                State::Open => {
                    if ready!(self.poll_checked(cx, buf))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Answering(error, _) => {
                    let error = *error;
                    // The client may be gone; the refusal counts all the same.
                    let _ = ready!(self.poll_answer(cx));
                    self.state = State::Failed(error);
                }
                State::Poison(_, bytes) if bytes.has_remaining() => {
                    serve(bytes, buf);
                    return Poll::Ready(Ok(()));
                }
                State::Poison(error, _) | State::Failed(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, *error)));
                }
            }
        }
    }

    /// Writes our own answer, says goodbye, and lets hyper fail.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Answering(_, bytes) = &mut self.state {
            while bytes.has_remaining() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                bytes.advance(written);
            }
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        }
        self.poll_goodbye(cx)
    }

    /// Closes our half and, where the client is still sending, waits for it a while.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if matches!(self.state, State::Open) && self.check.phase() != Phase::Body {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some(Box::new(Linger::new()));
        }
        let Some(linger) = &mut self.linger else { return Poll::Ready(Ok(())) };
        ready!(linger.poll(Pin::new(&mut self.io), cx));
        Poll::Ready(Ok(()))
    }
}

impl Linger {
    fn new() -> Linger {
        let time = Duration::from_millis(limits::REFUSED_BODY_DRAIN_MS_MAX);
        Linger {
            bytes_left: limits::REFUSED_BODY_DRAIN_BYTES_MAX,
            until: Box::pin(tokio::time::sleep(time)),
        }
    }

    fn poll(&mut self, mut io: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<()> {
        let mut dropped = [const { MaybeUninit::uninit() }; 2_048];
        while self.bytes_left > 0 {
            let mut buf = ReadBuf::uninit(&mut dropped);
            match io.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.bytes_left = self.bytes_left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.until.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeadGuarded<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = this.poll_passed(cx, buf);
        let waits = read.is_pending() && this.check.phase() == Phase::Idle;
        this.shared.waits.store(waits, Ordering::Relaxed);
        if read.is_ready() {
            this.shared.has_read.store(true, Ordering::Relaxed);
        }
        read
    }
}

/// Moves as many bytes as fit.
fn serve(from: &mut Bytes, to: &mut ReadBuf<'_>) {
    let here = from.split_to(from.len().min(to.remaining()));
    to.put_slice(&here);
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeadGuarded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.shared.unflushed.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_goodbye(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "../tests/head_guarded.rs"]
mod tests;
