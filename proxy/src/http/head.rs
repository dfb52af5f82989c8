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
mod lines;

use countersign_config::limits::{self, Limits};

use self::lines::{Follows, Framing};

pub use error::{HeadError, refusal_bytes};
pub use guarded::{Answer, HeadGuarded, HeadMonitor};

/// Bounds of one request head. The defaults are those of [`countersign_config::limits`].
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of request line and header lines together, line ends included.
    pub head_bytes: usize,
    /// Header lines in one head, and trailer lines in one body.
    pub headers: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
    /// Bytes of one header value.
    pub value_bytes: usize,
    /// Bytes of all trailer lines together.
    pub trailer_bytes: usize,
    /// Milliseconds from the first byte of a head to its last.
    pub head_ms: u64,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes: limits::H1_HEAD_BYTES_MAX,
            headers: limits::H1_HEADERS_MAX,
            target_bytes: limits::URI_BYTES_MAX,
            value_bytes: limits::HEADER_VALUE_BYTES_MAX,
            trailer_bytes: limits::TRAILER_BYTES_MAX,
            head_ms: limits::H1_HEAD_MS_MAX,
        }
    }
}

impl From<&Limits> for HeadLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            head_bytes: limits.h1_head_bytes_max,
            head_ms: limits.h1_head_ms_max,
            ..Self::default()
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
    /// What has already reached the parser.
    pub place: Place,
}

/// What of the offending message, and of the messages before it, has reached the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its head had passed in an earlier fragment: somebody is reading its body.
    Body,
    /// It is the first message of the connection and nobody has seen it.
    FirstHead,
    /// Nobody has seen it, but messages before it may still be answered.
    LaterHead,
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

#[derive(Clone, Copy, Debug)]
enum State {
    Start { skipped_empty_line: bool },
    Fields(Framing),
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Stopped,
    Failed(HeadError),
}

/// The check itself: fed with the bytes of one client in any fragmentation.
#[derive(Debug)]
pub struct HeadCheck {
    limits: HeadLimits,
    state: State,
    /// A line whose end has not arrived. Empty, and without allocation, between heads.
    partial: Vec<u8>,
    /// Bytes and lines of the head or the trailers so far.
    section_bytes: usize,
    section_lines: usize,
    extension_bytes: usize,
    heads: u64,
    messages: u64,
}

const START: State = State::Start { skipped_empty_line: false };

impl HeadCheck {
    /// A check for a new connection.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            state: START,
            partial: Vec::new(),
            section_bytes: 0,
            section_lines: 0,
            extension_bytes: 0,
            heads: 0,
            messages: 0,
        }
    }

    /// Looks at the next bytes of the stream. After an error every further call fails too.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let mut seen_by_parser = self.phase() == Phase::Body;
        let mut complete = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = self.messages;
            rest = self.step(rest).map_err(|error| self.fail(error, complete, seen_by_parser))?;
            if self.messages != before {
                seen_by_parser = false;
                complete = bytes.len() - rest.len();
            }
        }
        Ok(())
    }

    /// Steps aside: what follows is not HTTP/1 any more.
    pub fn stop(&mut self) {
        self.state = State::Stopped;
        self.partial = Vec::new();
    }

    /// Where the stream stands.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Start { .. } if self.partial.is_empty() => Phase::Idle,
            State::Start { .. } | State::Fields(_) | State::Failed(_) => Phase::Head,
            State::Length(_)
            | State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers => Phase::Body,
            State::Stopped => Phase::Stopped,
        }
    }

    /// How many of the bytes fed last belong to a line that has not ended.
    pub fn unfinished(&self) -> usize {
        self.partial.len()
    }

    /// How many heads have been accepted so far.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// How many messages have ended so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    fn fail(&mut self, error: HeadError, complete: usize, seen_by_parser: bool) -> Violation {
        self.state = State::Failed(error);
        self.partial = Vec::new();
        let place = match (seen_by_parser, self.messages) {
            (true, _) => Place::Body,
            (false, 0) => Place::FirstHead,
            (false, _) => Place::LaterHead,
        };
        Violation { error, complete, place }
    }

    /// Consumes a stretch of body, or one line or what there is of it; returns the rest.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], HeadError> {
        match self.state {
            State::Stopped => Ok(&[]),
            State::Failed(error) => Err(error),
            State::Length(left) => {
                let (left, rest) = skip(bytes, left);
                if left == 0 {
                    self.end_message();
                } else {
                    self.state = State::Length(left);
                }
                Ok(rest)
            }
            State::ChunkData(left) => {
                let (left, rest) = skip(bytes, left);
                self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                Ok(rest)
            }
            State::Start { .. }
            | State::Fields(_)
            | State::ChunkSize
            | State::ChunkEnd
            | State::Trailers => self.step_line(bytes),
        }
    }

    fn step_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], HeadError> {
        let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
        let line = parts.next().unwrap_or_default();
        let Some(rest) = parts.next() else {
            self.check_room(self.partial.len() + bytes.len())?;
            self.partial.extend_from_slice(bytes);
            return Ok(&[]);
        };
        if self.partial.is_empty() {
            self.line(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            self.line(&whole)?;
            if matches!(self.state, State::Fields(_) | State::Trailers) {
                whole.clear();
                self.partial = whole;
            }
        }
        Ok(rest)
    }

    /// Whether this many bytes may stand before the next LF.
    fn check_room(&self, bytes: usize) -> Result<(), HeadError> {
        let (room, error) = match self.state {
            State::ChunkSize => (lines::CHUNK_LINE_BYTES_MAX, HeadError::ChunkExtensionsTooLarge),
            State::ChunkEnd => (1, HeadError::ChunkMalformed),
            State::Trailers => (
                self.limits.trailer_bytes.saturating_sub(self.section_bytes + 1),
                HeadError::TrailersTooLarge,
            ),
            State::Start { .. }
            | State::Fields(_)
            | State::Length(_)
            | State::ChunkData(_)
            | State::Stopped
            | State::Failed(_) => (
                self.limits.head_bytes.saturating_sub(self.section_bytes + 1),
                HeadError::HeadTooLarge,
            ),
        };
        if bytes > room { Err(error) } else { Ok(()) }
    }

    /// Judges one line, given without its LF.
    fn line(&mut self, line: &[u8]) -> Result<(), HeadError> {
        self.check_room(line.len())?;
        let text = line.strip_suffix(b"\r").ok_or(HeadError::BareLineFeed)?;
        match self.state {
            State::Start { skipped_empty_line } if text.is_empty() => {
                if skipped_empty_line {
                    return Err(HeadError::RequestLineMalformed);
                }
                self.state = State::Start { skipped_empty_line: true };
            }
            State::Start { .. } => {
                self.section_bytes = line.len() + 1;
                self.section_lines = 0;
                self.state = State::Fields(Framing::of_request_line(text, &self.limits)?);
            }
            State::Fields(framing) if text.is_empty() => self.end_head(framing.finish()?),
            State::Fields(mut framing) => {
                self.count_line(line)?;
                framing.add_field(text, &self.limits)?;
                self.state = State::Fields(framing);
            }
            State::ChunkSize => self.begin_chunk(text)?,
            State::ChunkEnd if text.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(HeadError::ChunkMalformed),
            State::Trailers if text.is_empty() => self.end_message(),
            State::Trailers => {
                self.count_line(line)?;
                lines::check_trailer(text, &self.limits)?;
            }
            State::Length(_) | State::ChunkData(_) | State::Stopped | State::Failed(_) => {}
        }
        Ok(())
    }

    fn count_line(&mut self, line: &[u8]) -> Result<(), HeadError> {
        self.section_bytes += line.len() + 1;
        self.section_lines += 1;
        if self.section_lines > self.limits.headers {
            return Err(HeadError::TooManyHeaders);
        }
        Ok(())
    }

    fn end_head(&mut self, follows: Follows) {
        self.heads += 1;
        self.extension_bytes = 0;
        self.section_bytes = 0;
        match follows {
            Follows::Nothing => self.end_message(),
            Follows::Bytes(length) => self.state = State::Length(length),
            Follows::Chunks => self.state = State::ChunkSize,
        }
    }

    fn begin_chunk(&mut self, text: &[u8]) -> Result<(), HeadError> {
        let (size, extensions) = lines::chunk_size(text)?;
        self.extension_bytes += extensions;
        if self.extension_bytes > lines::CHUNK_EXTENSIONS_BYTES_MAX {
            return Err(HeadError::ChunkExtensionsTooLarge);
        }
        if size == 0 {
            self.section_bytes = 0;
            self.section_lines = 0;
            self.state = State::Trailers;
        } else {
            self.state = State::ChunkData(size);
        }
        Ok(())
    }

    fn end_message(&mut self) {
        self.messages += 1;
        self.section_bytes = 0;
        self.state = START;
    }
}

/// Passes over at most `left` bytes; returns what is left to pass over and the rest.
fn skip(bytes: &[u8], left: u64) -> (u64, &[u8]) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let rest = bytes.get(here..).unwrap_or_default();
    (left - here as u64, rest)
}

#[cfg(test)]
#[path = "tests/head.rs"]
mod tests;
