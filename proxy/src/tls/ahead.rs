//! Reads the socket under TLS ahead: the TLS library asks for 4 KiB at a time, which is a quarter of
//! a record, and each time would be a system call.
//!
//! A connection holds a buffer only while it has bytes the TLS library has not asked for yet.
//! Invariant: a thread lends `AHEAD_POOL_BYTES_MAX` at most; where they are gone, reading is slower
//! and nothing else.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::relay::OnTcp;

/// A connection whose bytes are read ahead.
#[derive(Debug)]
pub struct Ahead<IO> {
    io: IO,
    held: Option<Held>,
}

/// Bytes read and not yet asked for.
#[derive(Debug)]
struct Held {
    lent: Lent,
    from: usize,
    until: usize,
}

impl<IO> Ahead<IO> {
    /// Holds nothing yet.
    pub fn new(io: IO) -> Ahead<IO> {
        Ahead { io, held: None }
    }

    /// Moves what is held into `buf`.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(held) = &mut self.held else { return };
        let rest = held.lent.bytes.get(held.from..held.until).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(now);
        held.from += now.len();
        if later.is_empty() {
            self.held = None;
        }
    }
}

impl<IO: OnTcp> OnTcp for Ahead<IO> {
    fn tcp(&self) -> &TcpStream {
        self.io.tcp()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Ahead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_some() {
            // As much of its turn as a read of the socket: whoever sends without end must not keep
            // the other connections of this thread waiting for sixteen times as long.
            let turn = ready!(coop::poll_proceed(cx));
            self.hand_out(buf);
            turn.made_progress();
            return Poll::Ready(Ok(()));
        }
        let Some(mut lent) = Lent::take().filter(|lent| lent.bytes.len() > buf.remaining()) else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        let mut into = ReadBuf::new(&mut lent.bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        let until = into.filled().len();
        if until > 0 {
            self.held = Some(Held { lent, from: 0, until });
            self.hand_out(buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Ahead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

/// The buffers of a thread.
#[derive(Default)]
struct Pool {
    kept: RefCell<Vec<Box<[u8]>>>,
    lent_bytes: Cell<usize>,
}

thread_local! {
    static POOL: Pool = Pool::default();
}

/// A lent buffer; dropping it returns it.
#[derive(Debug)]
struct Lent {
    bytes: Box<[u8]>,
}

impl Lent {
    fn take() -> Option<Lent> {
        POOL.with(|pool| {
            let lent_bytes = pool.lent_bytes.get() + limits::AHEAD_BYTES;
            if lent_bytes > limits::AHEAD_POOL_BYTES_MAX {
                return None;
            }
            pool.lent_bytes.set(lent_bytes);
            let kept = pool.kept.borrow_mut().pop();
            Some(Lent { bytes: kept.unwrap_or_else(|| vec![0; limits::AHEAD_BYTES].into()) })
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Nowhere to return it to once the thread ends.
        let _ = POOL.try_with(|pool| {
            pool.lent_bytes.set(pool.lent_bytes.get().saturating_sub(limits::AHEAD_BYTES));
            let mut kept = pool.kept.borrow_mut();
            if kept.len() < limits::AHEAD_KEPT_MAX {
                kept.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
    }

    fn lent_bytes() -> usize {
        POOL.with(|pool| pool.lent_bytes.get())
    }

    #[test]
    fn bytes_come_in_order_however_few_are_asked_for() {
        run(async {
            let (near, mut far) = duplex(1_000_000);
            let sent: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[1]).collect();
            far.write_all(&sent).await.expect("room");
            drop(far);
            let mut ahead = Ahead::new(near);
            let mut came = Vec::new();
            for size in (1..).map(|turn| turn * 97 % 9_000 + 1) {
                let mut piece = vec![0; size];
                let count = ahead.read(&mut piece).await.expect("open");
                if count == 0 {
                    break;
                }
                came.extend_from_slice(piece.get(..count).expect("as many as were read"));
                assert!(lent_bytes() <= limits::AHEAD_BYTES);
            }
            assert!(came == sent);
            assert_eq!(lent_bytes(), 0, "an idle connection holds nothing");
        });
    }

    #[test]
    fn what_was_read_ahead_uses_up_the_turn_of_its_connection() {
        run(async {
            let mut ahead = Ahead::new(tokio::io::repeat(7));
            let (mut piece, mut reads) = ([0; 4_096], 0);
            std::future::poll_fn(|cx| {
                let mut into = ReadBuf::new(&mut piece);
                while Pin::new(&mut ahead).poll_read(cx, &mut into).is_ready() {
                    into.clear();
                    reads += 1;
                }
                Poll::Ready(())
            })
            .await;
            // Tokio grants 128.
            assert!((16..256).contains(&reads), "{reads} reads in one turn");
        });
    }

    #[test]
    fn connections_nobody_reads_from_share_a_bounded_pool() {
        run(async {
            let most = limits::AHEAD_POOL_BYTES_MAX / limits::AHEAD_BYTES;
            let mut open = Vec::new();
            for number in 0..most + 10 {
                let (near, mut far) = duplex(1_000);
                far.write_all(&[7; 100]).await.expect("room");
                let mut ahead = Ahead::new(near);
                ahead.read_exact(&mut [0; 10]).await.expect("ten bytes");
                assert_eq!(ahead.held.is_some(), number < most);
                open.push((ahead, far));
            }
            assert_eq!(lent_bytes(), limits::AHEAD_POOL_BYTES_MAX);
            // Who got no buffer reads on all the same.
            for (ahead, _) in &mut open {
                let mut rest = [0; 90];
                ahead.read_exact(&mut rest).await.expect("the rest");
                assert_eq!(rest, [7; 90]);
            }
            assert_eq!(lent_bytes(), 0);
            let kept = POOL.with(|pool| pool.kept.borrow().len());
            assert_eq!(kept, limits::AHEAD_KEPT_MAX);
        });
    }
}
