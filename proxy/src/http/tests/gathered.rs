use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{spawn_local, yield_now};

use super::*;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    runtime.expect("a runtime").block_on(work);
}

/// Remembers how long each write was.
struct Seen {
    io: DuplexStream,
    writes: Rc<RefCell<Vec<usize>>>,
}

impl AsyncRead for Seen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.writes.borrow_mut().push(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn gathered(room: usize) -> (Gathered<Seen>, DuplexStream, Rc<RefCell<Vec<usize>>>) {
    let (near, far) = duplex(room);
    let writes = Rc::new(RefCell::new(Vec::new()));
    (Gathered::new(Seen { io: near, writes: Rc::clone(&writes) }), far, writes)
}

#[test]
fn what_one_turn_writes_is_written_at_once() {
    run(async {
        let (mut near, mut far, writes) = gathered(64 * 1024);
        for _ in 0..10 {
            near.write_all(b"frame").await.expect("room");
            near.flush().await.expect("nothing to wait for");
        }
        let mut read = [0; 50];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!((*writes.borrow()).as_slice(), [50]);
        assert!(near.shared.borrow().bytes.capacity() == 0, "an idle connection holds nothing");
    });
}

#[test]
fn what_tasks_write_that_could_run_already_goes_along() {
    run(async {
        let (near, mut far, writes) = gathered(64 * 1024);
        let near = Rc::new(tokio::sync::Mutex::new(near));
        for _ in 0..10 {
            let near = Rc::clone(&near);
            spawn_local(async move { near.lock().await.write_all(b"frame").await });
        }
        let mut read = [0; 50];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!((*writes.borrow()).as_slice(), [50]);
    });
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_up() {
    run(async {
        let (mut near, mut far, _) = gathered(1_000);
        let most = limits::GATHERED_BYTES_MAX + 1_000;
        let mut taken = 0;
        loop {
            let wrote = tokio::select! {
                biased;
                wrote = near.write(&[7; 5_000]) => wrote.expect("open"),
                () = async { for _ in 0..10 { yield_now().await } } => break,
            };
            taken += wrote;
            assert!(taken <= most, "{taken} bytes taken");
        }
        // Nothing is lost or said twice once somebody reads.
        let reading = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("an orderly end");
            all
        };
        let ending = async {
            near.write_all(&[8; 5_000]).await.expect("room at last");
            near.shutdown().await.expect("written before the end");
        };
        let (all, ()) = tokio::join!(reading, ending);
        assert_eq!(all, [vec![7; taken], vec![8; 5_000]].concat());
    });
}

#[test]
fn a_connection_that_breaks_is_noticed_by_whoever_reads() {
    run(async {
        let ((reader, _silent), (writer, far)) = (duplex(1_000), duplex(1_000));
        let mut near = Gathered::new(tokio::io::join(reader, writer));
        drop(far);
        near.write_all(b"to nobody").await.expect("taken");
        for _ in 0..4 {
            yield_now().await;
        }
        let error = near.read(&mut [0; 8]).await.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(near.write(b"more").await.is_err());
        assert!(near.shutdown().await.is_err());
    });
}

#[test]
fn what_was_taken_goes_out_before_the_connection_is_dropped() {
    run(async {
        let (mut near, mut far, _) = gathered(1_000);
        let shared = Rc::downgrade(&near.shared);
        near.write_all(b"the last words").await.expect("taken");
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("the end");
        assert_eq!(all, b"the last words");
        for _ in 0..4 {
            yield_now().await;
        }
        assert!(shared.upgrade().is_none(), "the writing task has ended");
    });
}

#[test]
fn what_the_other_end_said_before_it_went_is_read() {
    run(async {
        let (mut near, mut far, _) = gathered(1_000);
        far.write_all(b"too large, goodbye").await.expect("room");
        drop(far);
        near.write_all(b"to nobody").await.expect("taken");
        for _ in 0..4 {
            yield_now().await;
        }
        assert_eq!(near.shared.borrow().failed, Some(io::ErrorKind::BrokenPipe));
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("all that came");
        assert_eq!(said, b"too large, goodbye");
    });
}

/// Takes bytes that do not fit into the socket, as TLS does.
struct Holding {
    io: DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Holding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Holding { io, held } = self.get_mut();
        while !held.is_empty() {
            let count = ready!(Pin::new(&mut *io).poll_write(cx, held))?;
            held.drain(..count);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[test]
fn the_end_comes_once_a_slow_reader_has_read() {
    run(async {
        let (near, mut far) = duplex(1_000);
        let mut near = Gathered::new(Holding { io: near, held: Vec::new() });
        near.write_all(&[7; 5_000]).await.expect("room");
        let ending = spawn_local(async move { near.shutdown().await });
        for _ in 0..8 {
            yield_now().await;
        }
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.expect("an orderly end");
        assert_eq!(all, [7; 5_000]);
        ending.await.expect("no panic").expect("an orderly end");
    });
}

#[test]
fn nothing_is_left_of_a_connection_dropped_before_a_reader_that_does_not_read() {
    run(async {
        let (mut near, far, _) = gathered(1_000);
        let shared = Rc::downgrade(&near.shared);
        near.write_all(&[7; 5_000]).await.expect("taken");
        for _ in 0..4 {
            yield_now().await;
        }
        assert_eq!(near.shared.borrow().written, 1_000, "the reader holds it up");
        drop(near);
        for _ in 0..4 {
            yield_now().await;
        }
        assert!(shared.upgrade().is_none(), "the writing task has ended");
        drop(far);
    });
}
