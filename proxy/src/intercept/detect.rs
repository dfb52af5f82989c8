//! What the first bytes of a connection are. Pure and monotone: an answer other than `NeedMore`
//! never changes when bytes are appended, so fragmentation cannot change it.
//!
//! HTTP/1 is recognised by the shape of its first line, more widely than the parser accepts:
//! what some server might take for HTTP must meet our parser and its refusals, not pass as bytes.
//! Sources: RFC 8446 §5.1 (TLS records), RFC 9112 §3 (request line), RFC 9113 §3.4 (preface).

/// The client preface of HTTP/2, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// From here on a broken-off preface is nothing else.
const PREFACE_TELLING: usize = b"PRI ".len();
/// The longest fragment a TLS record may carry unencrypted.
const RECORD_BYTES_MAX: u16 = 1 << 14;

/// What a connection speaks, as far as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// More bytes are needed.
    NeedMore,
    /// A TLS record that carries a ClientHello.
    Tls,
    /// HTTP/1; the head check and the parser have the last word.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// None of them.
    Opaque,
}

/// What `bytes`, the first ones of a connection, are.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes.first() {
        None => Detected::NeedMore,
        Some(0x16) => tls(bytes),
        Some(_) if is_prefix(PREFACE, bytes) => Detected::Http2,
        Some(_) if is_prefix(bytes, PREFACE) => Detected::NeedMore,
        Some(_) => match http1(bytes) {
            Line::Open { .. } => Detected::NeedMore,
            Line::Http => Detected::Http1,
            Line::Other => Detected::Opaque,
        },
    }
}

/// The answer when no more bytes will come: the buffer is full, time is up, or the peer has ended.
/// What can only be HTTP goes to the HTTP parser, which refuses it by its own rules.
pub fn settle(bytes: &[u8]) -> Detected {
    match detect(bytes) {
        Detected::NeedMore => {}
        decided => return decided,
    }
    if is_prefix(bytes, PREFACE) && bytes.len() >= PREFACE_TELLING {
        return Detected::Http2;
    }
    match http1(bytes) {
        Line::Open { path: true } => Detected::Http1,
        Line::Open { path: false } | Line::Http | Line::Other => Detected::Opaque,
    }
}

/// Whether the first bytes can be TLS; `None` when more are needed.
pub fn is_tls(bytes: &[u8]) -> Option<bool> {
    match (bytes.first(), detect(bytes)) {
        (None, _) | (Some(0x16), Detected::NeedMore) => None,
        (Some(_), found) => Some(found == Detected::Tls),
    }
}

fn is_prefix(short: &[u8], long: &[u8]) -> bool {
    long.starts_with(short)
}

/// A handshake record of any TLS version, whose message is a ClientHello.
fn tls(bytes: &[u8]) -> Detected {
    let length = match (bytes.get(3), bytes.get(4)) {
        (Some(high), Some(low)) => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    };
    let fits = bytes.get(1).is_none_or(|major| *major == 0x03)
        && bytes.get(2).is_none_or(|minor| *minor <= 0x04)
        && length.is_none_or(|length| (1..=RECORD_BYTES_MAX).contains(&length));
    match (fits, bytes.get(5)) {
        (false, _) => Detected::Opaque,
        (true, None) => Detected::NeedMore,
        (true, Some(0x01)) => Detected::Tls,
        (true, Some(_)) => Detected::Opaque,
    }
}

/// How far the first line fits `method target HTTP/x.y`.
enum Line {
    /// It fits so far; `path` if its target starts with `/`, as hardly anything but HTTP has it.
    Open { path: bool },
    /// A request line.
    Http,
    /// No request line.
    Other,
}

fn http1(bytes: &[u8]) -> Line {
    let line = without_empty_lines(bytes);
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    let rest = line.get(method..).unwrap_or_default();
    match (method, rest.first()) {
        (_, None) => return Line::Open { path: false },
        (1.., Some(b' ' | b'\t')) => {}
        (_, Some(_)) => return Line::Other,
    }
    let rest = without_blanks(rest);
    let path = rest.first() == Some(&b'/');
    let (text, ended) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => (rest.get(..end).unwrap_or_default(), true),
        None => (rest, false),
    };
    // A CR is a line's end or nothing.
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Line::Other;
    }
    match (ended, path) {
        (true, _) if ends_in_version(text) && (path || can_go_on(text)) => Line::Http,
        (true, _) => Line::Other,
        // A space inside the target is for the parser to refuse.
        (false, true) => Line::Open { path },
        (false, false) if can_go_on(text) => Line::Open { path },
        (false, false) => Line::Other,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Servers skip empty lines before a request.
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    loop {
        match bytes {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => bytes = rest,
            // Half a line end.
            [b'\r'] => return &[],
            _ => return bytes,
        }
    }
}

/// `target HTTP/x.y`, with whatever blanks.
fn ends_in_version(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    let mut words = text.rsplitn(2, |byte| matches!(byte, b' ' | b'\t'));
    let version = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    !target.trim_ascii().is_empty() && version_prefix(version) == Some(VERSION_BYTES)
}

/// Whether a line that is still open can become `target HTTP/x.y`.
fn can_go_on(text: &[u8]) -> bool {
    let target = text.iter().take_while(|byte| !matches!(byte, b' ' | b'\t')).count();
    let rest = without_blanks(text.get(target..).unwrap_or_default());
    let version = rest.iter().take_while(|byte| !matches!(byte, b' ' | b'\t')).count();
    let (version, after) = rest.split_at_checked(version).unwrap_or_default();
    match version_prefix(version) {
        Some(VERSION_BYTES) => without_blanks(after).is_empty(),
        Some(_) => after.is_empty(),
        None => false,
    }
}

const VERSION_BYTES: usize = b"HTTP/1.1".len();

/// How many bytes of `HTTP/x.y` these are; `None` if they are something else.
fn version_prefix(bytes: &[u8]) -> Option<usize> {
    let fits = bytes.iter().enumerate().all(|(at, byte)| match b"HTTP/0.0".get(at) {
        Some(b'0') => byte.is_ascii_digit(),
        Some(expected) => byte.eq_ignore_ascii_case(expected),
        None => false,
    });
    fits.then_some(bytes.len())
}

#[cfg(test)]
#[path = "tests/detect.rs"]
mod tests;
