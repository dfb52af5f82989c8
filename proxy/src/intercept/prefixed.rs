//! A stream whose first bytes were already read and are served again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The client preface of HTTP/2, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks that is known to be HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Not HTTP/2; the HTTP/1 parser has the last word.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// HTTP/1 or HTTP/2; `None` when more bytes are needed.
pub fn http_version(bytes: &[u8]) -> Option<Version> {
    let shared = bytes.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
    if shared == PREFACE.len() {
        Some(Version::Http2)
    } else if shared == bytes.len() {
        None
    } else {
        Some(Version::Http1)
    }
}

/// An I/O object that replays `prefix` before reading on.
pub struct Prefixed<IO> {
    prefix: Bytes,
    io: IO,
}

impl<IO> Prefixed<IO> {
    /// Serves `prefix`, then `io`.
    pub fn new(prefix: Bytes, io: IO) -> Prefixed<IO> {
        Prefixed { prefix, io }
    }

    /// The wrapped I/O object.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

/// Reads until the HTTP version is known; the bytes read come back with the answer.
///
/// # Errors
/// The error of the read. End of stream answers `Http1` with what there was.
pub async fn read_version<IO: AsyncRead + Unpin>(
    io: &mut IO,
    mut seen: Vec<u8>,
) -> io::Result<(Version, Bytes)> {
    loop {
        if let Some(version) = http_version(&seen) {
            return Ok((version, seen.into()));
        }
        if io.read_buf(&mut seen).await? == 0 {
            return Ok((Version::Http1, seen.into()));
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let take = self.prefix.len().min(buf.remaining());
        if let Some(bytes) = self.prefix.get(..take) {
            buf.put_slice(bytes);
        }
        self.prefix.advance(take);
        if self.prefix.is_empty() {
            // An empty view would keep the whole buffer for as long as the connection lives.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
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
    use super::*;

    #[test]
    fn every_split_of_the_preface_ends_as_http2() {
        for cut in 0..PREFACE.len() {
            assert_eq!(http_version(&PREFACE[..cut]), None, "{cut}");
        }
        assert_eq!(http_version(PREFACE), Some(Version::Http2));
        assert_eq!(http_version(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"), Some(Version::Http2));
    }

    #[test]
    fn http1_methods_that_share_a_prefix_are_http1() {
        for head in [&b"POST / HTTP/1.1"[..], b"PUT ", b"PRI / HTTP/1.1", b"GET ", b"\r\n"] {
            assert_eq!(http_version(head), Some(Version::Http1));
        }
        assert_eq!(http_version(b"P"), None);
    }
}
