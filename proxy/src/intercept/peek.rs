//! Reads the first bytes of a connection until they tell what it speaks. What was read is served
//! again by whoever comes next, so nothing is lost and nothing is looked at twice by the kernel.
//!
//! LIMIT: `DETECT_BYTES_MAX`; the buffer begins with `DETECT_BYTES_MIN`. The time is the caller's.

use std::cell::RefCell;
use std::io;

use bytes::{Bytes, BytesMut};
use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::intercept::detect::{self, Detected};
use crate::telemetry::WorkerMetrics;

/// The first bytes of a connection and what they are.
#[derive(Clone, Debug)]
pub struct Peeked {
    /// What they are; never `NeedMore`.
    pub what: Detected,
    /// The bytes.
    pub seen: Bytes,
    /// Whether time ran out before they told.
    pub timed_out: bool,
}

impl Peeked {
    /// What is known without looking.
    pub fn known(what: Detected) -> Peeked {
        Peeked { what, seen: Bytes::new(), timed_out: false }
    }
}

/// Ports named in the log because nobody says what they speak.
const NAMED_MAX: usize = 64;

/// Ports whose first bytes did not tell the protocol in time; each is named in the log once.
#[derive(Debug, Default)]
pub struct Undetected(RefCell<Vec<u16>>);

impl Undetected {
    /// Counts a connection, and says which port should be declared.
    pub fn timed_out(&self, metrics: &WorkerMetrics, port: u16) {
        metrics.detect_timeout(port);
        let mut named = self.0.borrow_mut();
        if named.len() < NAMED_MAX && !named.contains(&port) {
            named.push(port);
            let advice = "first bytes did not tell the protocol in time; declare it for this port";
            tracing::warn!(code = "DP-08", port, "{advice}");
        }
    }
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Any protocol.
    Everything,
    /// TLS or not, where the port's protocol is declared not to be looked at.
    TlsOnly,
}

/// Reads until the bytes tell, the buffer is full, the peer ends or `until` is there.
///
/// # Errors
/// The error of the read.
pub async fn peek<IO: AsyncRead + Unpin>(
    io: &mut IO,
    look: Look,
    until: Instant,
) -> io::Result<Peeked> {
    let mut seen = BytesMut::new();
    loop {
        let found = match look {
            Look::Everything => detect::detect(&seen),
            Look::TlsOnly => match detect::is_tls(&seen) {
                None => Detected::NeedMore,
                Some(true) => Detected::Tls,
                Some(false) => Detected::Opaque,
            },
        };
        if found != Detected::NeedMore {
            return Ok(Peeked { what: found, seen: seen.freeze(), timed_out: false });
        }
        let settled = |seen: BytesMut, timed_out| {
            let what = match look {
                Look::Everything if is_full(&seen) => detect::overflow(&seen),
                Look::Everything => detect::settle(&seen),
                Look::TlsOnly => Detected::Opaque,
            };
            Ok(Peeked { what, seen: seen.freeze(), timed_out })
        };
        if is_full(&seen) {
            return settled(seen, false);
        }
        match timeout_at(until, read_some(io, &mut seen)).await {
            Err(_) => return settled(seen, true),
            Ok(Ok(0)) => return settled(seen, false),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

fn is_full(seen: &[u8]) -> bool {
    seen.len() >= limits::DETECT_BYTES_MAX
}

/// Reads what is there, within the bound.
async fn read_some<IO: AsyncRead + Unpin>(io: &mut IO, seen: &mut BytesMut) -> io::Result<usize> {
    let room = limits::DETECT_BYTES_MAX.saturating_sub(seen.len());
    if seen.capacity() == seen.len() {
        seen.reserve(room.min(seen.len().max(limits::DETECT_BYTES_MIN)));
    }
    let count = io.take(room as u64).read_buf(seen).await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::time::Duration;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    fn never() -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }

    #[test]
    fn byte_by_byte_it_reads_no_further_than_needed() {
        run(async {
            let text = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
            let (mut near, mut far) = duplex(1);
            let write = async {
                // Reading stops at the end of the line.
                far.write_all(&text[..17]).await.unwrap();
                far
            };
            let (_far, peeked) = tokio::join!(write, peek(&mut near, Look::Everything, never()));
            let peeked = peeked.unwrap();
            assert_eq!((peeked.what, &peeked.seen[..]), (Detected::Http1, &text[..17]));
        });
    }

    #[test]
    fn a_full_buffer_settles_it() {
        run(async {
            for (begin, filler) in [(b"GET /".as_slice(), b'a'), (b"GET a:/", b'/'), (b"", b'\n')] {
                let (mut near, mut far) = duplex(64 * 1024);
                let long = [begin, &vec![filler; 32 * 1024]].concat();
                far.write_all(&long).await.unwrap();
                let peeked = peek(&mut near, Look::Everything, never()).await.unwrap();
                assert_eq!(peeked.what, Detected::Http1);
                assert_eq!(peeked.seen.len(), limits::DETECT_BYTES_MAX);
                assert!(!peeked.timed_out);
            }
        });
    }

    #[test]
    fn silence_and_the_end_settle_it() {
        run(async {
            let (mut near, far) = duplex(64);
            let peeked = peek(&mut near, Look::Everything, Instant::now()).await.unwrap();
            assert_eq!((peeked.what, peeked.timed_out), (Detected::Opaque, true));
            drop(far);
            let peeked = peek(&mut near, Look::Everything, never()).await.unwrap();
            assert_eq!((peeked.what, peeked.timed_out), (Detected::Opaque, false));
        });
    }

    #[test]
    fn on_a_declared_port_the_first_byte_decides() {
        run(async {
            let (mut near, mut far) = duplex(64);
            far.write_all(b"G").await.unwrap();
            let peeked = peek(&mut near, Look::TlsOnly, never()).await.unwrap();
            assert_eq!((peeked.what, &peeked.seen[..]), (Detected::Opaque, b"G".as_slice()));
        });
    }
}
