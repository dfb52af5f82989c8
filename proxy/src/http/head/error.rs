//! Why a request head was refused before the parser saw it: a closed set, one variant per cause.
//!
//! Each variant has a stable reason (metric label, log, audit) and the status the client gets.
//! Nothing of the request is quoted: the bytes are hostile and the client knows what it sent.

use std::fmt;

use crate::audit::DecisionId;

/// What was wrong with the bytes of a request head, a chunk line or a trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HeadError {
    /// A line ended in LF without CR.
    BareLineFeed = 1,
    /// `CONNECT` with a `Content-Length` above zero or a `Transfer-Encoding`.
    BodyOnConnect,
    /// A chunk size, chunk extension or chunk end that the grammar does not allow.
    ChunkMalformed,
    /// Chunk extensions longer than any honest client sends.
    ChunkExtensionsTooLarge,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    CodingInHttp10,
    /// A second `Transfer-Encoding`, or one that is not exactly `chunked`.
    CodingUnsupported,
    /// NUL, a lone CR or another control byte.
    ControlByte,
    /// A header line that continues the one before it (obsolete folding).
    FoldedLine,
    /// `#` in the request target.
    FragmentInTarget,
    /// A framing field spelled with `_`, which some servers read as the real one.
    FramingLookalike,
    /// A field name that is empty or not a token, or a line without a colon.
    HeaderMalformed,
    /// A header value longer than the limit.
    HeaderValueTooLarge,
    /// The head did not end within its time, counted from its first byte.
    HeadTimeout,
    /// More bytes than a head may have.
    HeadTooLarge,
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding,
    /// A second `Content-Length`, even an equal one, or a list.
    LengthDuplicated,
    /// A `Content-Length` that is not a plain decimal number.
    LengthMalformed,
    /// Not `token SP target SP HTTP/1.x`.
    RequestLineMalformed,
    /// White space between a field name and its colon.
    SpaceBeforeColon,
    /// A request target longer than the limit.
    TargetTooLong,
    /// More header lines than the limit.
    TooManyHeaders,
    /// A framing or routing field among the trailers.
    TrailerForbidden,
    /// More bytes than trailers may have.
    TrailersTooLarge,
    /// An HTTP version other than 1.0 and 1.1.
    VersionUnsupported,
}

impl HeadError {
    /// Every variant, in order of declaration.
    pub const ALL: [Self; 24] = [
        Self::BareLineFeed,
        Self::BodyOnConnect,
        Self::ChunkMalformed,
        Self::ChunkExtensionsTooLarge,
        Self::CodingInHttp10,
        Self::CodingUnsupported,
        Self::ControlByte,
        Self::FoldedLine,
        Self::FragmentInTarget,
        Self::FramingLookalike,
        Self::HeaderMalformed,
        Self::HeaderValueTooLarge,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::LengthAndCoding,
        Self::LengthDuplicated,
        Self::LengthMalformed,
        Self::RequestLineMalformed,
        Self::SpaceBeforeColon,
        Self::TargetTooLong,
        Self::TooManyHeaders,
        Self::TrailerForbidden,
        Self::TrailersTooLarge,
        Self::VersionUnsupported,
    ];

    /// The stable name used in metrics, logs and audit records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::BodyOnConnect => "body_on_connect",
            Self::ChunkMalformed => "chunk_malformed",
            Self::ChunkExtensionsTooLarge => "chunk_extensions_too_large",
            Self::CodingInHttp10 => "coding_in_http10",
            Self::CodingUnsupported => "coding_unsupported",
            Self::ControlByte => "control_byte",
            Self::FoldedLine => "folded_line",
            Self::FragmentInTarget => "fragment_in_target",
            Self::FramingLookalike => "framing_lookalike",
            Self::HeaderMalformed => "header_malformed",
            Self::HeaderValueTooLarge => "header_value_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::LengthAndCoding => "length_and_coding",
            Self::LengthDuplicated => "length_duplicated",
            Self::LengthMalformed => "length_malformed",
            Self::RequestLineMalformed => "request_line_malformed",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::TargetTooLong => "target_too_long",
            Self::TooManyHeaders => "too_many_headers",
            Self::TrailerForbidden => "trailer_forbidden",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::VersionUnsupported => "version_unsupported",
        }
    }

    /// Status code and reason phrase of the answer.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::HeadTimeout => (408, "Request Timeout"),
            Self::TargetTooLong => (414, "URI Too Long"),
            Self::ChunkExtensionsTooLarge
            | Self::HeaderValueTooLarge
            | Self::HeadTooLarge
            | Self::TooManyHeaders
            | Self::TrailersTooLarge => (431, "Request Header Fields Too Large"),
            Self::VersionUnsupported => (505, "HTTP Version Not Supported"),
            Self::BareLineFeed
            | Self::BodyOnConnect
            | Self::ChunkMalformed
            | Self::CodingInHttp10
            | Self::CodingUnsupported
            | Self::ControlByte
            | Self::FoldedLine
            | Self::FragmentInTarget
            | Self::FramingLookalike
            | Self::HeaderMalformed
            | Self::LengthAndCoding
            | Self::LengthDuplicated
            | Self::LengthMalformed
            | Self::RequestLineMalformed
            | Self::SpaceBeforeColon
            | Self::TrailerForbidden => (400, "Bad Request"),
        }
    }

    /// The variant with this discriminant; 0 and unknown numbers are none.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|error| *error as u8 == code)
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request head was refused before parsing: {}", self.reason())
    }
}

impl std::error::Error for HeadError {}

/// The raw answer to a head nobody parsed: status, `Connection: close`, no body, and the
/// decision id if there is one.
///
/// ```text
/// HTTP/1.1 400 Bad Request
/// connection: close
/// content-length: 0
/// countersign-decision: 7q2mx1…
/// ```
pub fn refusal_bytes(error: HeadError, decision: Option<DecisionId>) -> Vec<u8> {
    let (code, phrase) = error.status();
    let mut out = format!("HTTP/1.1 {code} {phrase}\r\nconnection: close\r\ncontent-length: 0\r\n");
    if let Some(id) = decision {
        out.push_str("countersign-decision: ");
        out.push_str(id.encode().as_str());
        out.push_str("\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}
