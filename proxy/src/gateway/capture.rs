//! What the edge itself saw of a request: the client's address and its justification.
//!
//! The address comes from an exact number of trusted hops, counted from the right, and only when
//! the TCP (or PROXY) peer is a trusted proxy; the source is recorded beside it, so that policy
//! can demand one. Whatever cannot be parsed strictly is a 400, never a guess.
//! Runs before `hygiene::gateway_request` removes the fields it reads.

use std::fmt;
use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use super::proxy_protocol::PpVersion;
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

/// Finds the client's address.
pub fn client_address(
    _tcp_peer: IpAddr,
    _proxied: Option<(IpAddr, PpVersion)>,
    _headers: &HeaderMap,
    _rules: &AddressRules,
) -> Result<ClientAddress, CaptureError> {
    todo!()
}

/// Reads `kind=reference`; `fits` knows the configured kinds and their patterns.
pub fn justification(
    _field: &Field,
    _fits: impl Fn(&str, &str) -> KindMatch,
) -> Result<Option<StatedJustification>, CaptureError> {
    todo!()
}
