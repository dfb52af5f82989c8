//! Checks every HTTP/1 request head before the parser sees it.
//!
//! hyper is too kind for a proxy that decides on what it parsed: of `Content-Length` and
//! `Transfer-Encoding` it drops one, an equal second length passes, a bare LF ends a line.
//! [`HeadCheck`] refuses all that. It follows the framing it accepted, so a second request in
//! the same segment is checked too, and steps aside after an upgrade.
//! INVARIANT: the answer depends on the bytes alone, never on how they were cut into reads.
//! [`HeadGuarded`] runs it between socket and parser and owns the head time-out.

mod error;
mod guarded;

pub use error::{HeadError, refusal_bytes};
pub use guarded::{HeadGuarded, HeadMonitor};

/// Bounds of one request head. The defaults are those of `countersign_config::limits`.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of request line and header lines together, line ends included.
    pub head_bytes: usize,
    /// Header lines in one head, and trailer lines in one body.
    pub headers: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
    /// Bytes of all trailer lines together.
    pub trailer_bytes: usize,
    /// Milliseconds from the first byte of a head to its last.
    pub head_ms: u64,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            headers: 100,
            target_bytes: 16 * 1024,
            trailer_bytes: 16 * 1024,
            head_ms: 10_000,
        }
    }
}

/// A refused byte stream: why, and how much of the last fragment may still be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The cause.
    pub error: HeadError,
    /// How many bytes at the start of the fragment belong to messages that ended before the
    /// offending one began.
    pub complete: usize,
    /// Whether the offence is in a head (nothing of that request has reached the pipeline) or
    /// in a body that is already being read.
    pub in_head: bool,
}

/// Where in the stream of one connection the check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// Inside a request head.
    Head,
    /// Inside a request body or its trailers.
    Body,
    /// Upgraded: the bytes are no longer HTTP/1.
    Stopped,
}

/// The check itself: fed with the bytes of one client in any fragmentation.
#[derive(Debug)]
pub struct HeadCheck {
    limits: HeadLimits,
}

impl HeadCheck {
    /// A check for a new connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits }
    }

    /// Looks at the next bytes of the stream. After an error every further call fails too.
    pub fn feed(&mut self, _bytes: &[u8]) -> Result<(), Violation> {
        let _ = self.limits;
        todo!()
    }

    /// Steps aside: what follows is not HTTP/1 any more.
    pub fn stop(&mut self) {
        todo!()
    }

    /// Where the stream stands.
    pub fn phase(&self) -> Phase {
        todo!()
    }

    /// How many heads have been accepted so far.
    pub fn heads(&self) -> u64 {
        todo!()
    }
}
