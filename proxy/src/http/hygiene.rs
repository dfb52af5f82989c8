//! One function per direction that makes a head safe to decide on and to forward.
//!
//! Order inside each: reserved names are taken out, nominations in `Connection` are judged,
//! hop-by-hop fields end, fields that lie about method or client are dropped.
//! INVARIANT: when one of these functions returns `Ok`, no reserved name is left in the map
//! (responses from a mesh peer: but one well-formed `Countersign-Decision`), so whatever is read
//! from it later was written by this proxy. Names compare lower-cased with `_` = `-`.

mod hop;
mod names;
mod reserved;
mod values;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{Method, Version, request, response};

use self::hop::Nominations;
use self::names::{Class, Names};
use self::reserved::Reads;
use super::translate::join_cookies;

pub use hop::{HopByHop, restore_upgrade};
pub use reserved::{
    CERTS, CONTEXT, DECISION, Field, HOPS, HTTP1, JUSTIFICATION, Presented, TOKEN_HEADER,
    TXN_TOKEN, strip_reserved, take_reserved,
};
pub(crate) use values::percent_encode;
pub use values::{encode_list, encode_scope, encode_value, forwarded_for, is_grpc, set_forwarded};

/// Why a head cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HygieneError {
    /// The authority of an absolute-form target or `:authority` is not that of `Host`.
    #[error("the request names two different hosts")]
    AuthorityMismatch,
    /// `Connection` names a field that may not be removed on request.
    #[error("the Connection header names a field that may not be nominated")]
    HeaderForbidden,
    /// `Host` or `:authority` is no host.
    #[error("the request's host is malformed")]
    HostMalformed,
    /// Neither `Host` nor `:authority`.
    #[error("the request names no host")]
    HostMissing,
    /// More than one `Host`.
    #[error("the request has more than one Host header")]
    HostRepeated,
    /// More than one `Content-Length`, or one that is no number.
    #[error("the message has an ambiguous length")]
    LengthAmbiguous,
    /// A standard method in unusual case.
    #[error("the method is a misspelled standard method")]
    MethodCase,
    /// A scheme other than `http` and `https`.
    #[error("the request has an unsupported scheme")]
    SchemeUnsupported,
    /// Authority form without CONNECT, or CONNECT without it.
    #[error("the form of the request target does not fit the method")]
    TargetForm,
    /// More than one `Txn-Token`, or one with a comma.
    #[error("the request has more than one Txn-Token")]
    TokenDuplicated,
    /// A token in two fields of which one is missing, repeated or no part of a token.
    #[error("the two fields of the Txn-Token do not belong together")]
    TokenParts,
    /// Trailers above the limit.
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// `user@host` in the target or in `Host`.
    #[error("the request target contains user information")]
    UserinfoPresent,
}

impl HygieneError {
    /// The stable name used in metrics, logs and audit records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AuthorityMismatch => "authority_mismatch",
            Self::HeaderForbidden => "header_forbidden",
            Self::HostMalformed => "host_malformed",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::LengthAmbiguous => "length_ambiguous",
            Self::MethodCase => "method_case",
            Self::SchemeUnsupported => "scheme_unsupported",
            Self::TargetForm => "target_form",
            Self::TokenDuplicated => "token_duplicated",
            Self::TokenParts => "token_parts",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::UserinfoPresent => "userinfo_present",
        }
    }
}

/// Who sent a request or a response, as far as mesh-only fields are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// An authenticated mesh peer: its proxy writes mesh-only fields.
    Mesh,
    /// Anybody else: mesh-only fields are dropped and counted.
    Unauthenticated,
}

/// A cleaned request and what was found in it.
#[derive(Clone, Debug)]
pub struct CleanRequest {
    /// The one authority of the request.
    pub authority: Authority,
    /// The reserved fields this direction may read; the rest is only counted.
    pub presented: Presented,
    /// The hop-by-hop fields.
    pub hop: HopByHop,
}

/// A cleaned response and what was found in it.
#[derive(Clone, Debug)]
pub struct CleanResponse {
    /// The reserved fields this direction may read; the rest is only counted.
    pub presented: Presented,
    /// The hop-by-hop fields.
    pub hop: HopByHop,
}

/// Cleans a request from outside the mesh. Nothing reserved is read but the justification.
/// [`crate::gateway::capture::client_address`] must have looked at the headers before.
pub fn gateway_request(parts: &mut request::Parts) -> Result<CleanRequest, HygieneError> {
    clean_request(parts, Reads::Edge)
}

/// Cleans a request of the own app: reads the handle and a forwarded token, drops the rest.
pub fn outbound_request(parts: &mut request::Parts) -> Result<CleanRequest, HygieneError> {
    clean_request(parts, Reads::App)
}

/// Cleans a request from a peer: reads the token, whole or in two fields, hops, certificates and the HTTP/1 mark of a mesh
/// peer; of anybody else only the token, so that it can be refused by its own name.
pub fn inbound_request(
    parts: &mut request::Parts,
    sender: Sender,
) -> Result<CleanRequest, HygieneError> {
    match sender {
        Sender::Mesh => {
            let mut clean = clean_request(parts, Reads::Peer)?;
            clean.presented.join_token()?;
            Ok(clean)
        }
        Sender::Unauthenticated => clean_request(parts, Reads::Stranger),
    }
}

/// Cleans a response of the own app: nothing reserved passes.
pub fn inbound_response(parts: &mut response::Parts) -> Result<CleanResponse, HygieneError> {
    clean_response(parts, Reads::Nothing)
}

/// Cleans a response for the own app. Of a mesh peer's response one well-formed
/// `Countersign-Decision` stays and the HTTP/1 mark and certificate requests are read.
pub fn outbound_response(
    parts: &mut response::Parts,
    sender: Sender,
) -> Result<CleanResponse, HygieneError> {
    match sender {
        Sender::Unauthenticated => clean_response(parts, Reads::Nothing),
        Sender::Mesh => {
            let decision = reserved::take_decision(&mut parts.headers);
            let clean = clean_response(parts, Reads::PeerResponse)?;
            if let Some(decision) = decision {
                parts.headers.insert(DECISION, decision);
            }
            Ok(clean)
        }
    }
}

/// Cleans a response for the outside; the rules are those of [`outbound_response`].
pub fn gateway_response(
    parts: &mut response::Parts,
    sender: Sender,
) -> Result<CleanResponse, HygieneError> {
    outbound_response(parts, sender)
}

/// Removes what may not travel in trailers: reserved names, hop-by-hop, framing, routing and
/// credentials. Returns how many lines were dropped.
pub fn clean_trailers(trailers: &mut HeaderMap, bytes_max: usize) -> Result<usize, HygieneError> {
    let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > bytes_max {
        return Err(HygieneError::TrailersTooLarge);
    }
    let before = trailers.len();
    let drop: Vec<_> = trailers.keys().filter(|n| !names::may_trail(n.as_str())).cloned().collect();
    for name in drop {
        trailers.remove(name);
    }
    Ok(before - trailers.len())
}

/// Checks method, target and host of a request and returns its one authority. A fragment is
/// refused earlier, by the head check: the parsed URI no longer shows it.
pub fn check_request(parts: &request::Parts) -> Result<Authority, HygieneError> {
    check_method(&parts.method)?;
    let scheme = parts.uri.scheme();
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(HygieneError::SchemeUnsupported);
    }
    // RFC 9112 §3.2.3: an authority alone is the target of CONNECT, and of nothing else.
    let authority_form = scheme.is_none() && parts.uri.authority().is_some();
    if authority_form != (parts.method == Method::CONNECT) {
        return Err(HygieneError::TargetForm);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(HygieneError::HostRepeated);
    }
    let target = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = host.map(HeaderValue::as_bytes);
    match (host, target) {
        (None, None) => Err(HygieneError::HostMissing),
        (None, Some(_)) if parts.version < Version::HTTP_2 => Err(HygieneError::HostMissing),
        (None, Some(target)) => {
            check_authority(target)?;
            // It was read as one already.
            let authority = parts.uri.authority().ok_or(HygieneError::HostMissing)?;
            fits_authority(authority)?;
            Ok(authority.clone())
        }
        (Some(host), None) => read_authority(host),
        (Some(host), Some(target)) => {
            let (host, target) = (read_authority(host)?, read_authority(target)?);
            if host.as_str().eq_ignore_ascii_case(target.as_str()) {
                Ok(host)
            } else {
                Err(HygieneError::AuthorityMismatch)
            }
        }
    }
}

fn clean_request(parts: &mut request::Parts, reads: Reads) -> Result<CleanRequest, HygieneError> {
    let authority = check_request(parts)?;
    let headers = &mut parts.headers;
    let names = names::look(headers);
    check_length(headers, &names)?;
    let presented = reserved::take(headers, &names.notable, reads);
    let hop = hop::remove(headers, &names, parts.version, Nominations::Strict)?;
    for (name, class) in &names.notable {
        let lies = match class {
            Class::ClientCert | Class::Override => true,
            Class::Forwarded => reads == Reads::Edge,
            Class::HopByHop | Class::Ordinary | Class::Reserved => false,
        };
        if lies {
            headers.remove(name);
        }
    }
    if names.cookie {
        join_cookies(headers);
    }
    Ok(CleanRequest { authority, presented, hop })
}

fn clean_response(
    parts: &mut response::Parts,
    reads: Reads,
) -> Result<CleanResponse, HygieneError> {
    let headers = &mut parts.headers;
    let names = names::look(headers);
    if names.framing && headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 §6.3: the coding wins, and the length must not be passed on.
        headers.remove(CONTENT_LENGTH);
    }
    check_length(headers, &names)?;
    let presented = reserved::take(headers, &names.notable, reads);
    let hop = hop::remove(headers, &names, parts.version, Nominations::Lenient)?;
    Ok(CleanResponse { presented, hop })
}

/// One length at most, a plain number, and none beside a coding.
fn check_length(headers: &HeaderMap, names: &Names) -> Result<(), HygieneError> {
    if names.odd_framing {
        return Err(HygieneError::LengthAmbiguous);
    }
    if !names.framing {
        return Ok(());
    }
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = lines.next() else {
        return Ok(());
    };
    let bytes = value.as_bytes();
    let plain = (1..=19).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit);
    if !plain || lines.next().is_some() || headers.contains_key(TRANSFER_ENCODING) {
        return Err(HygieneError::LengthAmbiguous);
    }
    Ok(())
}

/// Methods are case-sensitive, but servers exist that fold them: `get` must not dodge a rule.
fn check_method(method: &Method) -> Result<(), HygieneError> {
    const STANDARD: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    let name = method.as_str();
    if STANDARD.contains(&name) {
        return Ok(());
    }
    let misspelled = |standard: &&str| standard.eq_ignore_ascii_case(name) && *standard != name;
    if STANDARD.iter().any(misspelled) { Err(HygieneError::MethodCase) } else { Ok(()) }
}

/// A host with an optional port, nothing else.
fn read_authority(bytes: &[u8]) -> Result<Authority, HygieneError> {
    check_authority(bytes)?;
    let authority = Authority::try_from(bytes).map_err(|_| HygieneError::HostMalformed)?;
    fits_authority(&authority)?;
    Ok(authority)
}

fn check_authority(bytes: &[u8]) -> Result<(), HygieneError> {
    if bytes.contains(&b'@') {
        return Err(HygieneError::UserinfoPresent);
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    if !bytes.iter().all(plain) || bytes.last() == Some(&b':') {
        return Err(HygieneError::HostMalformed);
    }
    Ok(())
}

fn fits_authority(authority: &Authority) -> Result<(), HygieneError> {
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    let port_fits = port.is_empty() || authority.port_u16().is_some();
    if host.is_empty() || !port_fits { Err(HygieneError::HostMalformed) } else { Ok(()) }
}

#[cfg(test)]
#[path = "tests/hygiene.rs"]
mod tests;
