//! What the edge itself saw of a request: the client's address and its justification.
//!
//! The address comes from an exact number of trusted hops, counted from the right, and only when
//! the TCP (or PROXY) peer is a trusted proxy; the source is recorded beside it, so that policy
//! can demand one. Whatever cannot be parsed strictly is a 400, never a guess.
//! Runs before `hygiene::gateway_request` removes the fields it reads.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use countersign_ctxtoken::IpSource;
use http::header::{FORWARDED, HeaderMap, HeaderName};
use ipnet::IpNet;

use super::proxy_protocol::PpVersion;
use crate::audit::Text;
use crate::http::hygiene::Field;

/// Which source names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFrom {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// The TCP peer.
    Peer,
    /// The PROXY protocol header.
    ProxyProtocol,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

/// How a listener learns the client's address.
#[derive(Clone, Debug)]
pub struct AddressRules {
    /// Exact number of trusted proxies in front of us.
    pub trusted_hops: usize,
    /// Their addresses, as far as they connect to us.
    pub trusted_proxies: Vec<IpNet>,
    /// The one source that is read.
    pub from: AddressFrom,
}

impl AddressRules {
    /// Whether this peer is a proxy whose word on its client's address counts.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let forwards = matches!(self.from, AddressFrom::Forwarded | AddressFrom::XForwardedFor);
        forwards
            && self.trusted_hops > 0
            && self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

/// Where the address came from; prints as `rctx.ip_src`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpSrc {
    /// The TCP peer.
    Peer,
    /// The peer, because the list was shorter than the trusted hops.
    PeerShort,
    /// PROXY protocol version 1.
    Pp1,
    /// PROXY protocol version 2.
    Pp2,
    /// `X-Forwarded-For`, this many entries from the right.
    Xff(usize),
    /// `Forwarded`, this many entries from the right.
    Fwd(usize),
}

impl IpSrc {
    /// Whether a proxy in front of us said so, in a header of the request.
    pub fn is_forwarded(self) -> bool {
        matches!(self, Self::Xff(_) | Self::Fwd(_))
    }

    /// As a token says it; `None` for a count that no token can say.
    pub fn in_token(self) -> Option<IpSource> {
        let hops = |hops| u8::try_from(hops).ok().filter(|hops| *hops > 0);
        match self {
            Self::Peer => Some(IpSource::Peer),
            Self::PeerShort => Some(IpSource::PeerShort),
            Self::Pp1 => Some(IpSource::ProxyV1),
            Self::Pp2 => Some(IpSource::ProxyV2),
            Self::Xff(entry) => hops(entry).map(IpSource::XForwardedFor),
            Self::Fwd(entry) => hops(entry).map(IpSource::Forwarded),
        }
    }

    /// As it prints.
    pub fn text(self) -> Text {
        match self {
            Self::Peer => Text::Static("peer"),
            Self::PeerShort => Text::Static("peer-short"),
            Self::Pp1 => Text::Static("pp1"),
            Self::Pp2 => Text::Static("pp2"),
            Self::Xff(_) | Self::Fwd(_) => self.to_string().into(),
        }
    }
}

impl fmt::Display for IpSrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("peer"),
            Self::PeerShort => f.write_str("peer-short"),
            Self::Pp1 => f.write_str("pp1"),
            Self::Pp2 => f.write_str("pp2"),
            Self::Xff(hops) => write!(f, "xff:{hops}"),
            Self::Fwd(hops) => write!(f, "fwd:{hops}"),
        }
    }
}

/// The client's address, canonical (IPv4-mapped IPv6 folded), and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address.
    pub ip: IpAddr,
    /// Who said so.
    pub src: IpSrc,
}

/// Why a request's circumstances cannot be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CaptureError {
    /// The trusted entry is not a plain address, or the list has an empty element.
    #[error("the forwarded address is malformed")]
    AddressMalformed,
    /// More entries or bytes than the list may have.
    #[error("the list of forwarded addresses is too long")]
    AddressesTooMany,
    /// A justification of a kind that is not configured.
    #[error("the justification has an unknown kind")]
    JustificationKindUnknown,
    /// Not `kind=reference`, or the reference does not fit the kind's pattern.
    #[error("the justification is malformed")]
    JustificationMalformed,
    /// More than one justification.
    #[error("the request has more than one justification")]
    JustificationRepeated,
}

impl CaptureError {
    /// The stable name used in metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AddressMalformed => "forwarded_malformed",
            Self::AddressesTooMany => "forwarded_too_long",
            Self::JustificationKindUnknown => "justification_kind_unknown",
            Self::JustificationMalformed => "justification_malformed",
            Self::JustificationRepeated => "justification_repeated",
        }
    }
}

/// A justification as the user stated it: nothing has been checked with its system yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedJustification {
    /// The configured kind, for example `ticket`.
    pub kind: String,
    /// The reference, which fits the kind's pattern.
    pub reference: String,
}

/// How a reference fits a configured kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindMatch {
    /// The kind exists and its anchored pattern matches.
    Fits,
    /// The kind exists, the reference does not fit.
    Misfit,
    /// There is no such kind.
    UnknownKind,
}

/// LIMIT: entries in the list of forwarded addresses.
const ENTRIES_MAX: usize = 32;
/// LIMIT: bytes of all its lines.
const LIST_BYTES_MAX: usize = 2 * 1024;
/// LIMIT: bytes of a justification's kind and of its reference.
const KIND_BYTES_MAX: usize = 32;
const REFERENCE_BYTES_MAX: usize = 128;

/// Finds the client's address. `proxied` is the source of a PROXY header that this listener
/// demanded and that came from a listed peer.
pub fn client_address(
    tcp_peer: IpAddr,
    proxied: Option<(IpAddr, PpVersion)>,
    headers: &HeaderMap,
    rules: &AddressRules,
) -> Result<ClientAddress, CaptureError> {
    let (peer, src) = match proxied {
        None => (tcp_peer, IpSrc::Peer),
        Some((source, PpVersion::V1)) => (source, IpSrc::Pp1),
        Some((source, PpVersion::V2)) => (source, IpSrc::Pp2),
    };
    let peer = ClientAddress { ip: peer.to_canonical(), src };
    if !rules.trusts(peer.ip) {
        return Ok(peer);
    }
    let hops = rules.trusted_hops;
    let (name, src, read): (_, _, fn(&str) -> Option<IpAddr>) = match rules.from {
        AddressFrom::Peer | AddressFrom::ProxyProtocol => return Ok(peer),
        AddressFrom::XForwardedFor => (X_FORWARDED_FOR, IpSrc::Xff(hops), plain_address),
        AddressFrom::Forwarded => (FORWARDED, IpSrc::Fwd(hops), forwarded_for),
    };
    match entry_from_right(headers, &name, hops)? {
        None => Ok(ClientAddress { ip: peer.ip, src: IpSrc::PeerShort }),
        Some(entry) => {
            let ip = read(entry).ok_or(CaptureError::AddressMalformed)?;
            Ok(ClientAddress { ip: ip.to_canonical(), src })
        }
    }
}

/// Reads `kind=reference`; `fits` knows the configured kinds and their anchored patterns.
pub fn justification(
    field: &Field,
    fits: impl Fn(&str, &str) -> KindMatch,
) -> Result<Option<StatedJustification>, CaptureError> {
    let value = match field {
        Field::Absent => return Ok(None),
        Field::Repeated => return Err(CaptureError::JustificationRepeated),
        Field::One(value) => value.to_str().map_err(|_| CaptureError::JustificationMalformed)?,
    };
    let (kind, reference) = value.split_once('=').ok_or(CaptureError::JustificationMalformed)?;
    let kind_ok = (1..=KIND_BYTES_MAX).contains(&kind.len())
        && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let reference_ok = (1..=REFERENCE_BYTES_MAX).contains(&reference.len())
        && reference.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    if !kind_ok || !reference_ok {
        return Err(CaptureError::JustificationMalformed);
    }
    match fits(kind, reference) {
        KindMatch::Fits => {
            Ok(Some(StatedJustification { kind: kind.to_owned(), reference: reference.to_owned() }))
        }
        KindMatch::Misfit => Err(CaptureError::JustificationMalformed),
        KindMatch::UnknownKind => Err(CaptureError::JustificationKindUnknown),
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The entry this many places from the right, over all lines of the field; none if the list is
/// shorter. The split is deliberately blind to quotes: a client's unbalanced quote must not move
/// the entries that proxies appended after it.
fn entry_from_right<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    hops: usize,
) -> Result<Option<&'h str>, CaptureError> {
    let (mut bytes, mut entries) = (0, Vec::new());
    for line in headers.get_all(name) {
        bytes += line.len() + 1;
        if bytes > LIST_BYTES_MAX {
            return Err(CaptureError::AddressesTooMany);
        }
        let line = line.to_str().map_err(|_| CaptureError::AddressMalformed)?;
        for entry in line.split(',') {
            entries.push(entry.trim_matches([' ', '\t']));
        }
        if entries.len() > ENTRIES_MAX {
            return Err(CaptureError::AddressesTooMany);
        }
    }
    if entries.iter().any(|entry| entry.is_empty()) {
        return Err(CaptureError::AddressMalformed);
    }
    Ok(entries.into_iter().nth_back(hops.saturating_sub(1)))
}

/// An address and nothing else: no port, no brackets, no zone.
fn plain_address(entry: &str) -> Option<IpAddr> {
    entry.parse().ok()
}

/// One element of `Forwarded`: `;`-separated pairs with exactly one `for`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
        let value = Value::read(value)?;
        if !is_token(name) {
            return None;
        }
        if name.eq_ignore_ascii_case("for") && found.replace(node(&value)?).is_some() {
            return None;
        }
    }
    found
}

/// A parameter value of `Forwarded`, and whether it was quoted.
enum Value<'e> {
    Quoted(&'e str),
    Token(&'e str),
}

impl<'e> Value<'e> {
    fn read(text: &'e str) -> Option<Self> {
        match text.strip_prefix('"') {
            None => is_token(text).then_some(Self::Token(text)),
            Some(rest) => {
                let inner = rest.strip_suffix('"')?;
                (!inner.contains(['"', '\\'])).then_some(Self::Quoted(inner))
            }
        }
    }
}

/// An IPv4 literal, or quoted: IPv4 or bracketed IPv6 with an optional port.
fn node(value: &Value<'_>) -> Option<IpAddr> {
    let text = match value {
        Value::Token(text) => return text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Value::Quoted(text) => text,
    };
    let (ip, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            (IpAddr::V6(ip.parse().ok()?), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (ip, port) = text.split_at_checked(end)?;
            (IpAddr::V4(ip.parse().ok()?), port)
        }
    };
    let plain_port = |port: &str| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(plain_port)).then_some(ip)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
#[path = "tests/capture.rs"]
mod tests;
