//! Reads a PROXY protocol header, version 1 or 2, from the first bytes of a connection.
//!
//! Pure and incremental: call [`parse`] with everything read so far until it is no longer
//! [`Parsed::NeedMore`]. Used only on listeners that demand the header, and only for TCP peers
//! that are listed there; the caller decides both. TLVs are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// LIMIT: version 1, CRLF included; the figure of the specification.
const V1_BYTES_MAX: usize = 107;
/// LIMIT: version 2 with its TLVs; the specification allows 64 KiB, balancers send < 1 KiB.
const V2_BYTES_MAX: usize = 4 * 1024;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// The version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// A header that was read completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the connection that belong to the header.
    pub consumed: usize,
    /// The version.
    pub version: PpVersion,
    /// The client, with IPv4-mapped addresses folded; absent for `UNKNOWN`, `UNSPEC`, `LOCAL`.
    pub source: Option<SocketAddr>,
    /// Version 2 `LOCAL`: the balancer speaks for itself (health check).
    pub local: bool,
}

/// The state of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header is complete.
    Done(ProxyHeader),
    /// So far it can become a header.
    NeedMore,
}

/// Why the bytes are not a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PpError {
    /// A field of the header is malformed.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The connection does not begin with a PROXY header.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Longer than any honest header.
    #[error("the PROXY header is too large")]
    TooLarge,
    /// A version, command, family or transport that is not spoken here.
    #[error("the PROXY header asks for something unsupported")]
    Unsupported,
}

impl PpError {
    /// The stable name used in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "proxy_header_malformed",
            Self::Missing => "proxy_header_missing",
            Self::TooLarge => "proxy_header_too_large",
            Self::Unsupported => "proxy_header_unsupported",
        }
    }
}

/// Reads the header from the bytes received so far. The answer for a complete or impossible
/// header does not change when more bytes are appended.
pub fn parse(bytes: &[u8]) -> Result<Parsed, PpError> {
    if begins(bytes, V2_START) {
        parse_v2(bytes)
    } else if begins(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(PpError::Missing)
    }
}

/// Whether one is the beginning of the other.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(left, right)| left == right)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, PpError> {
    let window = bytes.get(..bytes.len().min(V1_BYTES_MAX)).unwrap_or_default();
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let full = window.len() == V1_BYTES_MAX;
        return if full { Err(PpError::TooLarge) } else { Ok(Parsed::NeedMore) };
    };
    let line = window
        .get(..end)
        .and_then(|line| line.strip_suffix(b"\r"))
        .and_then(|line| line.strip_prefix(V1_START))
        .and_then(|line| std::str::from_utf8(line).ok())
        .ok_or(PpError::Malformed)?;
    let source = v1_source(line)?;
    Ok(Parsed::Done(ProxyHeader {
        consumed: end + 1,
        version: PpVersion::V1,
        source,
        local: false,
    }))
}

/// `TCP4 source destination port port`, exact spacing; anything may follow `UNKNOWN`.
fn v1_source(line: &str) -> Result<Option<SocketAddr>, PpError> {
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (Some(source), Some(destination), Some(port), Some(destination_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(PpError::Malformed);
    };
    let read = match family {
        "TCP4" => |text: &str| text.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => |text: &str| text.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(PpError::Unsupported),
    };
    read(destination).map_err(|_| PpError::Malformed)?;
    v1_port(destination_port)?;
    let ip = read(source).map_err(|_| PpError::Malformed)?;
    Ok(Some(SocketAddr::new(ip.to_canonical(), v1_port(port)?)))
}

fn v1_port(text: &str) -> Result<u16, PpError> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if !plain || padded {
        return Err(PpError::Malformed);
    }
    text.parse().map_err(|_| PpError::Malformed)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, PpError> {
    let Some(rest) = bytes.strip_prefix(V2_START) else {
        return Ok(Parsed::NeedMore);
    };
    let local = match rest.first() {
        None => return Ok(Parsed::NeedMore),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(PpError::Unsupported),
    };
    let Some([_, family, high, low]) = rest.first_chunk::<4>() else {
        return Ok(Parsed::NeedMore);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let consumed = V2_FIXED_BYTES + length;
    if consumed > V2_BYTES_MAX {
        return Err(PpError::TooLarge);
    }
    let Some(block) = bytes.get(V2_FIXED_BYTES..consumed) else {
        return Ok(Parsed::NeedMore);
    };
    // LOCAL: the receiver must use the real addresses and ignore the block.
    let source = if local { None } else { v2_source(*family, block)? };
    Ok(Parsed::Done(ProxyHeader { consumed, version: PpVersion::V2, source, local }))
}

fn v2_source(family: u8, block: &[u8]) -> Result<Option<SocketAddr>, PpError> {
    match family {
        0x00 => Ok(None),
        0x11 => {
            let address: &[u8; 12] = block.first_chunk().ok_or(PpError::Malformed)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *address;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)))
        }
        0x21 => {
            let (ip, rest) = block.split_first_chunk::<16>().ok_or(PpError::Malformed)?;
            let rest: &[u8; 20] = rest.first_chunk().ok_or(PpError::Malformed)?;
            let [.., high, low, _, _] = *rest;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(IpAddr::from(*ip).to_canonical(), port)))
        }
        _ => Err(PpError::Unsupported),
    }
}

#[cfg(test)]
#[path = "tests/proxy_protocol.rs"]
mod tests;
