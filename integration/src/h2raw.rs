//! HTTP/2 frame by frame, as no library would send them. Header blocks are written as literals, so
//! every byte of a name or value arrives as the test wrote it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::wait;

/// Frame types, RFC 9113 §6.
pub mod kind {
    #![expect(missing_docs, reason = "named as the frames are")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// On DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// On HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A response with status 200.
    Served,
    /// A response with another status.
    Answered,
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection ended, with this code, or 0 if nothing was said.
    Ended(u32),
}

impl Fate {
    /// Whether the request was kept from whoever it was for.
    pub fn refused(self) -> bool {
        self != Fate::Served
    }
}

/// A connection.
pub struct H2Raw<IO> {
    io: IO,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> H2Raw<IO> {
    /// Sends the preface and SETTINGS, given as pairs.
    pub async fn open(io: IO, settings: &[(u16, u32)]) -> H2Raw<IO> {
        let mut conn = H2Raw { io };
        let _ = conn.io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        conn.send(kind::SETTINGS, 0, 0, &payload).await;
        conn
    }

    /// Sends one frame; `false` once the connection is gone.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// Sends whole frames made with [`frame`]; `false` once the connection is gone or takes no more.
    pub async fn write(&mut self, frames: &[u8]) -> bool {
        let written = tokio::time::timeout(wait::DEADLINE, self.io.write_all(frames)).await;
        matches!(written, Ok(Ok(()))) && self.io.flush().await.is_ok()
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame, if one comes within this time.
    pub async fn next_within(&mut self, time: Duration) -> Option<Frame> {
        tokio::time::timeout(time, self.next()).await.ok()?
    }

    /// Reads until a stream is answered, reset, or the connection ends.
    ///
    /// # Panics
    /// When nothing of this happens.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        wait::ends("the fate of a stream", async {
            loop {
                let Some(frame) = self.next().await else { return Fate::Ended(0) };
                match frame.kind {
                    kind::HEADERS if frame.stream == stream => return status(&frame.payload),
                    kind::RST_STREAM if frame.stream == stream => {
                        return Fate::Reset(code(&frame.payload, 0));
                    }
                    kind::GOAWAY => return Fate::Ended(code(&frame.payload, 4)),
                    kind::SETTINGS if frame.flags == 0 => {
                        self.send(kind::SETTINGS, 1, 0, &[]).await;
                    }
                    _ => {}
                }
            }
        })
        .await
    }
}

fn code(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// `:status 200` is one byte of the static table; every other status is something else.
fn status(block: &[u8]) -> Fate {
    // A change of the table's size may stand in front.
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    if first == Some(&0x88) { Fate::Served } else { Fate::Answered }
}

/// The bytes of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that enter no table.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name.as_ref());
        string(&mut out, value.as_ref());
    }
    out
}

/// A literal that enters the dynamic table (RFC 7541 §6.2.1).
pub fn indexed(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x40];
    string(&mut out, name);
    string(&mut out, value);
    out
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).unwrap_or(0));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap_or(0));
    }
    out.extend(text);
}
