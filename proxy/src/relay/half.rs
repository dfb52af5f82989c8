//! One direction of a relay.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::relay::buffers::{Buffers, Lent, Size};
use crate::relay::{Side, Why};

/// Which end of a direction broke.
pub(super) enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Broken {
    /// Names the side: a direction reads from `from` and writes to `to`.
    pub(super) fn by<R>(self, from: Side, to: Side) -> Why<R> {
        match self {
            Broken::Reading(error) => Why::Broken(from, error),
            Broken::Writing(error) => Why::Broken(to, error),
        }
    }
}

/// How far a direction has come.
enum State {
    Moving,
    /// The reader has ended; the end is being passed on.
    Ending,
    Ended,
}

/// One direction: reader to writer.
pub(super) struct Half {
    state: State,
    /// Present only while it holds bytes not yet written.
    lent: Option<(Lent, usize, usize)>,
    /// What the reader said behind those bytes: its end, or that it broke.
    said: Option<io::Result<()>>,
    size: Size,
    burst: u64,
    last: Instant,
    unflushed: bool,
}

impl Half {
    pub(super) fn new() -> Half {
        Half {
            state: State::Moving,
            lent: None,
            said: None,
            size: Size::Small,
            burst: 0,
            last: Instant::now(),
            unflushed: false,
        }
    }

    /// When a byte last moved.
    pub(super) fn last_progress(&self) -> Instant {
        self.last
    }

    /// Moves what can be moved; ready once the end has been passed on.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        buffers: &Rc<Buffers>,
        count: impl Fn(u64),
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Moving => {
                    ready!(self.poll_write(cx, writer, &count)).map_err(Broken::Writing)?;
                    if self.said.is_none() && self.poll_read(cx, reader, buffers).is_pending() {
                        self.poll_flush(cx, writer).map_err(Broken::Writing)?;
                        return Poll::Pending;
                    }
                    if self.lent.is_none()
                        && let Some(said) = self.said.take()
                    {
                        said.map_err(Broken::Reading)?;
                        self.state = State::Ending;
                    }
                }
                State::Ending => {
                    // Whoever has gone by now needs no end any more.
                    let _ = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what was read; the buffer goes back when it is empty.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        count: impl Fn(u64),
    ) -> Poll<io::Result<()>> {
        while let Some((lent, from, until)) = &mut self.lent {
            if from == until {
                self.lent = None;
                break;
            }
            let wrote = ready!(Pin::new(&mut *writer).poll_write(cx, lent.filled(*from..*until)))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *from += wrote;
            count(wrote as u64);
            self.last = Instant::now();
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what has come, as far as the buffer reaches: TLS hands out one record at a time, and each
    /// write is a system call.
    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        buffers: &Rc<Buffers>,
    ) -> Poll<()> {
        let mut lent = buffers.lend(self.size);
        let mut into = ReadBuf::new(lent.bytes_mut());
        let mut count = 0;
        while into.remaining() > 0 {
            let read = match Pin::new(&mut *reader).poll_read(cx, &mut into) {
                Poll::Pending => break,
                Poll::Ready(read) => read,
            };
            if read.is_err() || into.filled().len() == count {
                self.said = Some(read);
                break;
            }
            count = into.filled().len();
        }
        if count == 0 {
            return if self.said.is_some() { Poll::Ready(()) } else { Poll::Pending };
        }
        let now = Instant::now();
        if now.duration_since(self.last) > Duration::from_millis(limits::RELAY_PAUSE_MS) {
            self.burst = 0;
        }
        self.burst = self.burst.saturating_add(count as u64);
        self.size = Size::after(self.burst);
        self.last = now;
        self.lent = Some((lent, 0, count));
        Poll::Ready(())
    }

    /// TLS keeps what did not fit into the socket; it goes out before the direction rests.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> io::Result<()> {
        if self.unflushed && Pin::new(writer).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }
}
