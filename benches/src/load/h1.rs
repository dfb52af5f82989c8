//! An HTTP/1.1 client connection by hand: one request at a time, `Content-Length` only. It reads
//! the status and the length and skips the rest, so that the generator stays cheap.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::slot::Answer;
use super::{HOST, PATH};

/// One connection of an app in the middle, for calls one after the other.
pub(crate) struct Call(Connection);

impl Call {
    /// Calls will name `host`.
    pub(crate) fn open(stream: TcpStream, host: &str) -> Result<Call> {
        Connection::to(stream, "GET", host).map(Call)
    }

    /// One call with some header lines; an error unless it went well.
    pub(crate) async fn exchange(&mut self, lines: &[u8]) -> Result<()> {
        let answer = self.0.exchange_lines(lines).await?;
        if answer.status == 200 {
            return Ok(());
        }
        let told = format!("status {}{}", answer.status, answer.reason);
        Err(Error::new(ErrorKind::InvalidData, told))
    }
}

/// An answer's head beyond this is an error.
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where the fixed part of `request` ends and the token begins.
    fixed: usize,
    received: Vec<u8>,
}

impl Connection {
    /// Connects; every request will use `method`, without a body.
    pub(super) async fn open(address: SocketAddr, method: &str) -> Result<Connection> {
        Connection::over(TcpStream::connect(address).await?, method)
    }

    /// The same from an address of our own.
    pub(super) async fn open_from(
        source: IpAddr,
        address: SocketAddr,
        method: &str,
    ) -> Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Connection::over(socket.connect(address).await?, method)
    }

    /// The same over a connection that is there.
    pub(super) fn over(stream: TcpStream, method: &str) -> Result<Connection> {
        Connection::to(stream, method, HOST)
    }

    fn to(stream: TcpStream, method: &str, host: &str) -> Result<Connection> {
        stream.set_nodelay(true)?;
        let request =
            format!("{method} {PATH} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n").into_bytes();
        let fixed = request.len();
        Ok(Connection { stream, request, fixed, received: Vec::with_capacity(8 * 1024) })
    }

    pub(super) async fn exchange(&mut self, token: Option<&HeaderValue>) -> Result<Answer> {
        self.request.truncate(self.fixed);
        if let Some(token) = token {
            self.request.extend_from_slice(b"authorization: ");
            self.request.extend_from_slice(token.as_bytes());
            self.request.extend_from_slice(b"\r\n");
        }
        self.answered().await
    }

    async fn exchange_lines(&mut self, lines: &[u8]) -> Result<Answer> {
        self.request.truncate(self.fixed);
        self.request.extend_from_slice(lines);
        self.answered().await
    }

    /// Ends the request, sends it and reads the answer.
    async fn answered(&mut self) -> Result<Answer> {
        self.request.extend_from_slice(b"\r\n");
        self.stream.write_all(&self.request).await?;
        self.received.clear();
        let head = self.read_head().await?;
        while self.received.len() < head.end + head.body_bytes {
            self.read_more().await?;
        }
        let body = self.received.get(head.end..).unwrap_or_default();
        let reason = match head.status {
            200 => String::new(),
            _ => format!(": {}", String::from_utf8_lossy(body)),
        };
        Ok(Answer { status: head.status, body_bytes: head.body_bytes, reason })
    }

    async fn read_head(&mut self) -> Result<Head> {
        loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                return Head::parse(&self.received[..end], end + 4);
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the answer's head does not end"));
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<()> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Head {
    status: u16,
    body_bytes: usize,
    end: usize,
}

impl Head {
    fn parse(head: &[u8], end: usize) -> Result<Head> {
        let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| number(rest.get(..3)?));
        let status = status.and_then(|status| u16::try_from(status).ok());
        let mut lengths = head.split(|byte| *byte == b'\n').filter_map(content_length);
        match (status, lengths.next_back()) {
            (Some(status), Some(body_bytes)) => Ok(Head { status, body_bytes, end }),
            _ => Err(Error::new(
                ErrorKind::InvalidData,
                format!("no status or no length in {:?}", String::from_utf8_lossy(head)),
            )),
        }
    }
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    name.eq_ignore_ascii_case(NAME).then(|| number(value.trim_ascii()))?
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_gives_status_and_length() {
        let head = Head::parse(b"HTTP/1.1 404 No\r\nA: b\r\nContent-Length: 12", 9).unwrap();
        assert_eq!((head.status, head.body_bytes, head.end), (404, 12, 9));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", 9).is_err());
    }
}
