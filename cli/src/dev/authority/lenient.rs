//! Lets clients of the gRPC C library (Python, C++, Ruby) in.
//!
//! On a Unix socket they send the percent-encoded socket path as `:authority`
//! (`tmp%2Fapi.sock`), which HTTP/2 servers of the hyper family refuse as malformed although no
//! Workload API ever reads it. This reader changes the `%` of such a value to `-` before the
//! parser sees it; lengths stay, so frames and header tables stay valid. Everything else passes
//! untouched. The proxy has nothing of this.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A literal header name as HPACK writes it: length, then the name, not Huffman-coded.
const NAME: &[u8] = b"\x0a:authority";

/// A stream whose `:authority` may hold `%`.
pub(super) struct Lenient<S> {
    stream: S,
    state: State,
}

/// Where in the byte stream we are.
#[derive(Clone, Copy)]
enum State {
    /// This many bytes of the name were seen.
    Name(usize),
    /// The next byte starts the length of the value.
    Length,
    /// A length of 127 and more continues; value so far and bits to shift the next byte by.
    LongLength(usize, u32),
    /// This many bytes of the value are left.
    Value(usize),
}

impl<S> Lenient<S> {
    pub(super) fn new(stream: S) -> Lenient<S> {
        Lenient { stream, state: State::Name(0) }
    }
}

impl State {
    fn after(self, byte: &mut u8) -> State {
        match self {
            State::Name(seen) => State::after_name_byte(seen, *byte),
            // The high bit says Huffman: then no byte of it is a plain `%`.
            State::Length if *byte & 0x80 != 0 => State::Name(0),
            State::Length if *byte == 0x7f => State::LongLength(0x7f, 0),
            State::Length => State::Value(usize::from(*byte)).settled(),
            State::LongLength(sum, shift) if shift <= 14 => {
                let sum = sum.saturating_add(usize::from(*byte & 0x7f) << shift);
                let more = *byte & 0x80 != 0;
                if more { State::LongLength(sum, shift + 7) } else { State::Value(sum).settled() }
            }
            State::LongLength(..) => State::Name(0),
            State::Value(left) => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                State::Value(left.saturating_sub(1)).settled()
            }
        }
    }

    fn after_name_byte(seen: usize, byte: u8) -> State {
        let seen = match NAME.get(seen) {
            Some(expected) if *expected == byte => seen + 1,
            // Only the first byte of the name occurs in it once, so a new start is all there is.
            _ => usize::from(NAME.first() == Some(&byte)),
        };
        if seen == NAME.len() { State::Length } else { State::Name(seen) }
    }

    fn settled(self) -> State {
        match self {
            State::Value(0) => State::Name(0),
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        for byte in buf.filled_mut().iter_mut().skip(before) {
            self.state = self.state.after(byte);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::Lenient;

    /// What comes out when `bytes` arrive in pieces of `size`.
    async fn read(bytes: &[u8], size: usize) -> Vec<u8> {
        let (mut far, near) = tokio::io::duplex(4096);
        let mut near = Lenient::new(near);
        let mut out = Vec::new();
        for piece in bytes.chunks(size) {
            far.write_all(piece).await.unwrap();
            let mut buffer = [0; 4096];
            let length = near.read(&mut buffer).await.unwrap();
            out.extend_from_slice(&buffer[..length]);
        }
        out
    }

    #[tokio::test]
    async fn only_the_plain_value_of_authority_changes() {
        let long = [b"%a".repeat(100), b"%rest".to_vec()].concat();
        let cleared = [b"-a".repeat(100), b"%rest".to_vec()].concat();
        for (sent, seen) in [
            (
                &b"@\x0a:authority\x10tmp%2Fsniff.sock%"[..],
                &b"@\x0a:authority\x10tmp-2Fsniff.sock%"[..],
            ),
            (b"\x0a\x0a:authority\x02%%%", b"\x0a\x0a:authority\x02--%"),
            (b"\x0a:authority\x82%%", b"\x0a:authority\x82%%"),
            (b"\x0a:authority\x00%", b"\x0a:authority\x00%"),
            (b"\x05:path\x03/%2", b"\x05:path\x03/%2"),
            (
                &[b"\x0a:authority\x7f\x49".as_slice(), &long].concat(),
                &[b"\x0a:authority\x7f\x49".as_slice(), &cleared].concat(),
            ),
        ] {
            for size in 1..=sent.len() {
                assert_eq!(read(sent, size).await, seen, "pieces of {size}");
            }
        }
    }
}
