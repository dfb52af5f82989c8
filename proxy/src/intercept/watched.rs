//! A connection carried as bytes although nobody has declared that: if its first bytes turn out
//! to be HTTP after all, it ends before a whole request line has passed.
//!
//! Invariant: requests never travel as bytes by being slow or by coming from a sidecar that says
//! they are bytes: they would pass the cleaning of headers, whatever policy says of the port.
//! Nothing is held back while the answer is open, so protocols in which the server speaks first,
//! or the client says little, are not slowed down.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use countersign_config::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::intercept::detect::{self, Detected};
use crate::relay::OnTcp;

/// The first bytes are HTTP.
#[derive(Debug, thiserror::Error)]
#[error("HTTP came as bytes to a port that nobody declares to be `tcp`")]
pub struct CarriesHttp;

/// Looks at what is read from `io` until it is known not to be HTTP.
pub struct Watched<IO> {
    io: IO,
    /// What was read; `None` once the answer is known, or where nobody wants it.
    seen: Option<Vec<u8>>,
}

impl<IO> Watched<IO> {
    /// Watches unless the port is `declared` to carry bytes.
    pub fn new(io: IO, declared: bool) -> Watched<IO> {
        Watched { io, seen: (!declared).then(Vec::new) }
    }
}

/// Whether a connection ended because it carried HTTP.
pub fn carried_http(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<CarriesHttp>())
}

impl<IO: OnTcp> OnTcp for Watched<IO> {
    fn tcp(&self) -> &TcpStream {
        self.io.tcp()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let Some(mut seen) = self.seen.take() else { return Poll::Ready(Ok(())) };
        let room = limits::DETECT_BYTES_MAX.saturating_sub(seen.len());
        let fresh = buf.filled().get(before..).unwrap_or_default();
        seen.extend(fresh.iter().take(room));
        let found = match detect::detect(&seen) {
            Detected::NeedMore if seen.len() >= limits::DETECT_BYTES_MAX => detect::overflow(&seen),
            found => found,
        };
        match found {
            Detected::NeedMore => self.seen = Some(seen),
            Detected::Opaque | Detected::Tls => {}
            Detected::Http1 | Detected::Http2 => {
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::other(CarriesHttp)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What comes through of `bytes`, cut into pieces of `piece`, and whether it broke off.
    fn through(bytes: &[u8], piece: usize, declared: bool) -> (Vec<u8>, bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (near, mut far) = duplex(64 * 1024);
            let mut watched = Watched::new(near, declared);
            let (mut passed, mut buffer) = (Vec::new(), [0; 1024]);
            for piece in bytes.chunks(piece) {
                far.write_all(piece).await.expect("room");
                match watched.read(&mut buffer).await {
                    Ok(count) => passed.extend(&buffer[..count]),
                    Err(error) => {
                        assert!(carried_http(&error), "{error}");
                        return (passed, true);
                    }
                }
            }
            (passed, false)
        })
    }

    #[test]
    fn no_request_line_passes_however_it_is_cut() {
        let request = b"GET /a HTTP/1.1\r\nCountersign-User: root\r\n\r\n";
        let shifted = b"\r GET\t/ HTTP/1.01\r\nCountersign-User: root\r\n\r\n";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for bytes in [request.as_slice(), shifted, preface] {
            for piece in 1..bytes.len() {
                let (passed, broke) = through(bytes, piece, false);
                assert!(broke, "in pieces of {piece}");
                assert!(passed.len() < 24 && !passed.ends_with(b"1\r\n"), "{passed:?}");
            }
        }
    }

    #[test]
    fn everything_else_passes_unchanged() {
        for bytes in
            [b"PING\r\n".as_slice(), b"word", b"get key\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f"]
        {
            for piece in 1..=bytes.len() {
                assert_eq!(through(bytes, piece, false), (bytes.to_vec(), false));
            }
        }
        let request = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(through(request, 3, true), (request.to_vec(), false), "declared to be bytes");
    }

    #[test]
    fn a_line_that_never_ends_is_a_request_too() {
        for (begin, filler) in [(b"GET /".as_slice(), b'a'), (b"GET a://", b'a'), (b"", b'\n')] {
            let long = [begin, &vec![filler; 20 * 1024]].concat();
            let (passed, broke) = through(&long, 1024, false);
            assert!(broke && passed.len() < limits::DETECT_BYTES_MAX);
        }
    }
}
