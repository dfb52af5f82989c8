//! What the first bytes of a connection are. Pure and monotone: an answer other than `NeedMore`
//! never changes when bytes are appended, so fragmentation cannot change it.
//!
//! HTTP/1 is recognised by the shape of its first line, more widely than the parser accepts:
//! what some server might take for HTTP must meet our parser and its refusals, not pass as bytes.
//! Node takes `RTSP/1.0` and `ICE/1.0` for HTTP, Python any white space and a line without version.
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

/// The answer when no more bytes will come: time is up, or the peer has ended.
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

/// The answer when more bytes will come and are not waited for: the buffer is full. Whatever can
/// still become a request line is one, or filling the buffer would be a way around.
pub fn overflow(bytes: &[u8]) -> Detected {
    match (detect(bytes), http1(bytes)) {
        (Detected::NeedMore, Line::Open { .. }) => Detected::Http1,
        (Detected::NeedMore, Line::Http | Line::Other) => settle(bytes),
        (decided, _) => decided,
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
    // Servers skip empty lines before a request, and some of them blanks.
    let line = after(bytes, |byte| byte == b'\n' || is_blank(byte));
    let (method, rest) = until(line, |byte| !is_token(byte));
    match (method, rest.first()) {
        (_, None) => return Line::Open { path: false },
        ([_, ..], Some(byte)) if is_blank(*byte) => {}
        (_, Some(_)) => return Line::Other,
    }
    let rest = after(rest, is_blank);
    let (text, end) = until(rest, |byte| byte == b'\n');
    let fits = is_url(text) || can_go_on(text);
    match (fits, end.is_empty()) {
        (false, _) => Line::Other,
        // A space inside the target is for the parser to refuse.
        (true, true) => Line::Open { path: text.first() == Some(&b'/') && is_text(text) },
        (true, false) if ends_in_version(text) => Line::Http,
        // HTTP/0.9, after which some servers read headers all the same.
        (true, false) if method == b"GET" && is_one_word(text) => Line::Http,
        (true, false) => Line::Other,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What stands between the parts of a request line, RFC 9112 §3.
fn is_ascii_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b..=b'\r' | 0x1c..=0x1f | b' ')
}

/// The same for servers that read Latin-1.
fn is_blank(byte: u8) -> bool {
    is_ascii_blank(byte) || matches!(byte, 0x85 | 0xa0)
}

/// Whether these are the bytes of a text: other protocols may begin with a name and a path, too.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| byte.is_ascii_control() && !is_blank(*byte))
}

/// What is left after the bytes that are `skipped`.
fn after(bytes: &[u8], skipped: impl Fn(u8) -> bool) -> &[u8] {
    until(bytes, |byte| !skipped(byte)).1
}

/// The bytes before the first one that is an `end`, and the rest.
fn until(bytes: &[u8], end: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|byte| end(*byte)).unwrap_or(bytes.len());
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

/// Whether the target is a path or a URL; some servers take blanks inside them.
fn is_url(text: &[u8]) -> bool {
    let (target, _) = until(text, is_ascii_blank);
    target.starts_with(b"/") || target.windows(3).any(|three| three == b"://")
}

/// `target HTTP/x.y`, with whatever blanks.
fn ends_in_version(text: &[u8]) -> bool {
    let mut words = words(text);
    let version = words.next_back().unwrap_or_default();
    words.next_back().is_some() && version_after_name(version).is_some_and(|rest| !rest.is_empty())
}

fn is_one_word(text: &[u8]) -> bool {
    words(text).count() == 1
}

fn words(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty())
}

/// Whether a line that is still open can become `target HTTP/x.y`.
fn can_go_on(text: &[u8]) -> bool {
    let (_, rest) = until(text, is_ascii_blank);
    let (version, rest) = until(after(rest, is_blank), is_blank);
    match version_after_name(version) {
        Some(_) => after(rest, is_blank).is_empty(),
        // The name itself is not complete.
        None => {
            let begun = |name: &&[u8]| starts(name, version) && rest.is_empty();
            VERSIONS.iter().any(begun)
        }
    }
}

/// Names of versions that servers take for HTTP.
const VERSIONS: [&[u8]; 3] = [b"HTTP/", b"RTSP/", b"ICE/"];

/// The digits and dots after the name; `None` if there is something else.
fn version_after_name(word: &[u8]) -> Option<&[u8]> {
    let name = VERSIONS.iter().find(|name| starts(word, name))?;
    let rest = word.get(name.len()..)?;
    rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.').then_some(rest)
}

/// Whether `long` starts with `short` in whatever case.
fn starts(long: &[u8], short: &[u8]) -> bool {
    long.get(..short.len()).is_some_and(|start| start.eq_ignore_ascii_case(short))
}

#[cfg(test)]
#[path = "tests/detect.rs"]
mod tests;
