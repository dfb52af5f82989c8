//! The grammar of one line: request line, field line, chunk-size line. Pure functions on slices.
//!
//! Each gets a line without its CRLF and says what it means for the framing, or why it is
//! refused. Stricter than RFC 9112 wherever two honest readers could disagree.

use super::{HeadError, HeadLimits};

/// LIMIT: one chunk-size line with its extensions; hyper allows 16 KiB, nobody needs it.
pub(super) const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// LIMIT: chunk extensions of one body together.
pub(super) const CHUNK_EXTENSIONS_BYTES_MAX: usize = 8 * 1024;

/// How the body of one request is delimited, as far as its head has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    http10: bool,
    connect: bool,
    length: Option<u64>,
    chunked: bool,
}

/// What follows an accepted head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    Bytes(u64),
    Chunks,
}

impl Framing {
    /// Reads `token SP target SP HTTP/1.x`.
    pub(super) fn of_request_line(line: &[u8], limits: &HeadLimits) -> Result<Self, HeadError> {
        if !all(line, |byte| !byte.is_ascii_control()) {
            return Err(HeadError::ControlByte);
        }
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HeadError::RequestLineMalformed);
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(HeadError::RequestLineMalformed);
        }
        check_target(target, limits)?;
        let http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ if version.starts_with(b"HTTP/") => return Err(HeadError::VersionUnsupported),
            _ => return Err(HeadError::RequestLineMalformed),
        };
        let connect = method == b"CONNECT";
        Ok(Self { http10, connect, ..Self::default() })
    }

    /// Reads one field line and takes note of a framing field.
    pub(super) fn add_field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        let (name, value) = split_field(line)?;
        if value.len() > limits.value_bytes {
            return Err(HeadError::HeaderValueTooLarge);
        }
        match framing_field(name)? {
            None => Ok(()),
            Some(FramingField::ContentLength) => self.add_length(value),
            Some(FramingField::TransferEncoding) => self.add_coding(value),
        }
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.length.is_some() || value.contains(&b',') {
            return Err(HeadError::LengthDuplicated);
        }
        self.length = Some(decimal(value).ok_or(HeadError::LengthMalformed)?);
        Ok(())
    }

    fn add_coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.http10 {
            return Err(HeadError::CodingInHttp10);
        }
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::CodingUnsupported);
        }
        self.chunked = true;
        Ok(())
    }

    /// Judges the whole head at its empty line.
    pub(super) fn finish(self) -> Result<Follows, HeadError> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(HeadError::LengthAndCoding),
            (true, None) if self.connect => Err(HeadError::BodyOnConnect),
            (true, None) => Ok(Follows::Chunks),
            (false, None | Some(0)) => Ok(Follows::Nothing),
            (false, Some(_)) if self.connect => Err(HeadError::BodyOnConnect),
            (false, Some(length)) => Ok(Follows::Bytes(length)),
        }
    }
}

/// Checks a trailer line: grammar as in a head, no field that frames or routes.
pub(super) fn check_trailer(line: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    let (name, value) = split_field(line)?;
    if value.len() > limits.value_bytes {
        return Err(HeadError::HeaderValueTooLarge);
    }
    if framing_field(name)?.is_some() || name.eq_ignore_ascii_case(b"host") {
        return Err(HeadError::TrailerForbidden);
    }
    Ok(())
}

/// Reads a chunk-size line: the size and how many bytes its extensions take.
pub(super) fn chunk_size(line: &[u8]) -> Result<(u64, usize), HeadError> {
    let mut parts = line.splitn(2, |byte| *byte == b';');
    let size = hexadecimal(parts.next().unwrap_or_default()).ok_or(HeadError::ChunkMalformed)?;
    let Some(extensions) = parts.next() else {
        return Ok((size, 0));
    };
    if !extensions.iter().all(|byte| is_value(*byte)) {
        return Err(HeadError::ControlByte);
    }
    Ok((size, extensions.len()))
}

fn check_target(target: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    if target.len() > limits.target_bytes {
        return Err(HeadError::TargetTooLong);
    }
    if target.contains(&b'#') {
        return Err(HeadError::FragmentInTarget);
    }
    if target.is_empty() || !target.is_ascii() {
        return Err(HeadError::RequestLineMalformed);
    }
    Ok(())
}

/// `name: OWS value OWS`, both parts checked byte by byte.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    if let Some(b' ' | b'\t') = line.first() {
        return Err(HeadError::FoldedLine);
    }
    if !all(line, is_value) {
        return Err(HeadError::ControlByte);
    }
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
        return Err(HeadError::HeaderMalformed);
    };
    if let Some(b' ' | b'\t') = name.last() {
        return Err(HeadError::SpaceBeforeColon);
    }
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(HeadError::HeaderMalformed);
    }
    Ok((name, value.trim_ascii()))
}

/// Whether every byte fits. All are looked at, many at a time: lines are short, and honest.
fn all(bytes: &[u8], fits: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & fits(*byte))
}

enum FramingField {
    ContentLength,
    TransferEncoding,
}

/// Whether the name is a framing field; a spelling with `_` is refused, because servers that map
/// names to environment variables read it as the real one.
fn framing_field(name: &[u8]) -> Result<Option<FramingField>, HeadError> {
    let field = if same_name(name, b"content-length") {
        FramingField::ContentLength
    } else if same_name(name, b"transfer-encoding") {
        FramingField::TransferEncoding
    } else {
        return Ok(None);
    };
    if name.contains(&b'_') {
        return Err(HeadError::FramingLookalike);
    }
    Ok(Some(field))
}

fn same_name(name: &[u8], known: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len() && name.iter().map(fold).eq(known.iter().copied())
}

/// 1 to 19 digits and nothing else: no sign, no list, no overflow.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

/// 1 to 15 hexadecimal digits and nothing else: no `0x`, no white space, no overflow.
fn hexadecimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        char::from(*byte).to_digit(16).map(|digit| sum * 16 + u64::from(digit))
    })
}

/// RFC 9110 §5.6.2 `tchar`.
const fn token() -> [bool; 256] {
    let mut token = [false; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        token[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-')
            || matches!(byte, b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    token
}

/// Looked up, because it is asked for every byte of every name.
const TOKEN: [bool; 256] = token();

fn is_token(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// What a field value may contain: visible bytes, space, tab, and `obs-text`.
fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
