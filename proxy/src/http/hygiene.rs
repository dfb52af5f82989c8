//! One function per direction that makes a head safe to decide on and to forward.
//!
//! Order inside each: nominations in `Connection` are judged, reserved names are taken out,
//! hop-by-hop fields end, fields that lie about method or client are dropped.
//! INVARIANT: when one of these functions returns `Ok`, no reserved name is left in the map
//! (responses from a mesh peer: but one well-formed `Countersign-Decision`), so whatever is read
//! from it later was written by this proxy. Names compare lower-cased with `_` = `-`.

use http::header::{HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{request, response};

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
    /// More than one `Txn-Token`, or one with a comma.
    #[error("the request has more than one Txn-Token")]
    TokenDuplicated,
    /// Trailers above the limit.
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// `user@host` in the target or in `Host`.
    #[error("the request target contains user information")]
    UserinfoPresent,
}

/// One reserved field as the sender presented it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field {
    /// Not sent.
    #[default]
    Absent,
    /// Sent on exactly one line.
    One(HeaderValue),
    /// Sent on more than one line.
    Repeated,
}

/// The reserved fields a sender presented, moved out of the header map.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// `Txn-Token`; read it through [`Presented::token`].
    pub txn_token: Field,
    /// `Countersign-Hops`.
    pub hops: Field,
    /// `Countersign-Certs`.
    pub certs: Field,
    /// `Countersign-Context`, the handle of the app.
    pub handle: Field,
    /// `Countersign-Http1`, what HTTP/2 cannot say.
    pub http1: Field,
    /// `Countersign-Justification`.
    pub justification: Field,
    /// Lines that were dropped unread: every other reserved name and every odd spelling.
    pub dropped: usize,
}

/// What the hop-by-hop fields said before they were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopByHop {
    /// The one `Upgrade` token the sender asked for (or a 101 names), lower-cased;
    /// `h2c` is never reported.
    pub upgrade: Option<HeaderValue>,
    /// `TE: trailers` was sent (it stays in the map).
    pub te_trailers: bool,
    /// `Connection: close` was sent.
    pub close: bool,
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
pub fn gateway_request(_parts: &mut request::Parts) -> Result<CleanRequest, HygieneError> {
    todo!()
}

/// Cleans a request of the own app: reads the handle and a forwarded token, drops the rest.
pub fn outbound_request(_parts: &mut request::Parts) -> Result<CleanRequest, HygieneError> {
    todo!()
}

/// Cleans a request from a peer: reads token, hops, certificates and the HTTP/1 mark.
pub fn inbound_request(
    _parts: &mut request::Parts,
    _sender: Sender,
) -> Result<CleanRequest, HygieneError> {
    todo!()
}

/// Cleans a response of the own app: nothing reserved passes.
pub fn inbound_response(_parts: &mut response::Parts) -> Result<CleanResponse, HygieneError> {
    todo!()
}

/// Cleans a response for the own app. Of a mesh peer's response one well-formed
/// `Countersign-Decision` stays and the HTTP/1 mark and certificate requests are read.
pub fn outbound_response(
    _parts: &mut response::Parts,
    _sender: Sender,
) -> Result<CleanResponse, HygieneError> {
    todo!()
}

/// Cleans a response for the outside; the rules are those of [`outbound_response`].
pub fn gateway_response(
    _parts: &mut response::Parts,
    _sender: Sender,
) -> Result<CleanResponse, HygieneError> {
    todo!()
}

/// Removes what may not travel in trailers: reserved names, hop-by-hop, framing, routing and
/// credentials. Returns how many lines were dropped.
pub fn clean_trailers(_trailers: &mut HeaderMap, _bytes_max: usize) -> Result<usize, HygieneError> {
    todo!()
}

/// Moves the reserved fields out of the map.
pub fn take_reserved(_headers: &mut HeaderMap) -> Presented {
    todo!()
}

/// Removes every reserved field, unread. Returns how many lines were dropped.
pub fn strip_reserved(_headers: &mut HeaderMap) -> usize {
    todo!()
}

impl Presented {
    /// The token: one line without a comma, or none.
    pub fn token(&self) -> Result<Option<&HeaderValue>, HygieneError> {
        todo!()
    }
}

/// Checks method, target and host of a request and returns its one authority.
pub fn check_request(_parts: &request::Parts) -> Result<Authority, HygieneError> {
    todo!()
}

/// Sets the forwarded fields of a request from outside, after the sender's were removed.
pub fn set_forwarded(_headers: &mut HeaderMap, _client: std::net::IpAddr, _scheme: &'static str) {
    todo!()
}

/// Whether the message is gRPC by its `Content-Type`.
pub fn is_grpc(_headers: &HeaderMap) -> bool {
    todo!()
}

/// Puts an upgrade back on a request or response that keeps HTTP/1 all the way.
pub fn restore_upgrade(_headers: &mut HeaderMap, _upgrade: HeaderValue) {
    todo!()
}

/// A header value of ours: bytes outside `0x21..=0x7E` and `% , ; "` percent-encoded.
pub fn encode_value(_text: &str) -> HeaderValue {
    todo!()
}

/// A list value of ours: encoded items, separated by commas.
pub fn encode_list<'a>(_items: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    todo!()
}

/// Scope names of ours: encoded items, separated by single spaces.
pub fn encode_scope<'a>(_items: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    todo!()
}
