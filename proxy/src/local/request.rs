//! What the app asks for, read strictly: who may ask at all, then the members of each call.
//!
//! Invariant: a request that a browser or a confused library in the pod can be talked into making is
//! never one of ours: it is a POST with a header no form can set, JSON, and it names a loopback
//! host. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_workload_id::WorkloadId;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{LocalError, Why};
use crate::context_index::Handle;
use crate::gateway::strict_json;
use crate::telemetry::LocalCall;

const LOCAL: &str = "countersign-local";
const CONTEXT: &str = "countersign-context";

/// Which call a head is for, if it may be made.
///
/// # Errors
/// [`LocalError`].
pub fn admit(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<LocalCall, LocalError> {
    check_host(uri, headers)?;
    if one(headers, LOCAL) != Some("1") {
        return Err(Why::HeaderMissing.error("the request does not say that it is for this API"));
    }
    if uri.query().is_some() {
        return Err(Why::NoSuchCall.error("no call has a query"));
    }
    let which = match uri.path() {
        "/v1/defer" => LocalCall::Defer,
        "/v1/resume" => LocalCall::Resume,
        "/v1/begin" => LocalCall::Begin,
        "/v1/end" => LocalCall::End,
        _ => return Err(Why::NoSuchCall.error("there is no call of this name")),
    };
    if *method != Method::POST {
        return Err(Why::NotPost.error("another method than POST"));
    }
    let json = one(headers, CONTENT_TYPE.as_str()).is_some_and(is_json);
    if json { Ok(which) } else { Err(Why::NotJson.error("the body is not said to be JSON")) }
}

/// The only value of a field.
fn one<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// A name that resolves to us, whoever owns it, is no loopback host: that is how a page of somebody
/// else's would reach us through a browser.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), LocalError> {
    let foreign = || Why::HostForeign.error("`Host` is missing, repeated or no loopback host");
    let authority: http::uri::Authority =
        one(headers, HOST.as_str()).and_then(|host| host.parse().ok()).ok_or_else(foreign)?;
    let target = uri.authority().is_none_or(|target| *target == authority);
    if target && is_loopback(&authority) { Ok(()) } else { Err(foreign()) }
}

fn is_loopback(authority: &http::uri::Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    !authority.as_str().contains('@') && (address || host.eq_ignore_ascii_case("localhost"))
}

/// The handle in `Countersign-Context`.
///
/// # Errors
/// `context_unknown` where there is none, or several.
pub fn handle(headers: &HeaderMap) -> Result<Handle, LocalError> {
    let unknown = || Why::ContextUnknown.error("`Countersign-Context` holds no handle");
    one(headers, CONTEXT).and_then(Handle::parse).ok_or_else(unknown)
}

/// `POST /v1/defer`.
#[derive(Debug, PartialEq, Eq)]
pub struct Defer {
    /// Who may take the work up.
    pub consumer: WorkloadId,
    /// How long the grant is to live, seconds; `None`: as long as is usual.
    pub ttl_s: Option<u64>,
    /// What it is to be good for; `None`: for all the live context is.
    pub scope: Option<Vec<String>>,
    /// SHA-256 of the message, base64url.
    pub digest: String,
}

/// `POST /v1/resume`.
#[derive(PartialEq, Eq)]
pub struct Resume {
    /// The grant from the message.
    pub grant: String,
    /// SHA-256 of the message, base64url.
    pub digest: String,
}

/// `POST /v1/begin`.
#[derive(Debug, PartialEq, Eq)]
pub struct Begin {
    /// What the work is for.
    pub scope: Vec<String>,
    /// Why.
    pub just: Option<Reason>,
    /// For whom it acts, `user:…`.
    pub on_behalf: Option<String>,
}

/// A stated justification.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Kind of reference, such as `ticket`.
    pub kind: String,
    /// The reference.
    #[serde(rename = "ref")]
    pub reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeferWire {
    consumer: String,
    ttl: Option<u64>,
    scope: Option<String>,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeWire {
    grant: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginWire {
    scope: String,
    just: Option<Reason>,
    #[serde(rename = "as")]
    on_behalf: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndWire {
    context: String,
}

/// Reads the body of `/v1/defer`.
///
/// # Errors
/// `request_malformed`.
pub fn defer(body: &[u8]) -> Result<Defer, LocalError> {
    let wire: DeferWire = parse(body)?;
    let not_an_id = |_| malformed("`consumer` is not a SPIFFE ID");
    Ok(Defer {
        consumer: WorkloadId::parse(&wire.consumer).map_err(not_an_id)?,
        ttl_s: wire.ttl,
        scope: wire.scope.as_deref().map(scope).transpose()?,
        digest: digest(&wire.digest)?,
    })
}

/// Reads the body of `/v1/resume`.
///
/// # Errors
/// `request_malformed`.
pub fn resume(body: &[u8]) -> Result<Resume, LocalError> {
    let wire: ResumeWire = parse(body)?;
    Ok(Resume { grant: wire.grant, digest: digest(&wire.digest)? })
}

/// Reads the body of `/v1/begin`.
///
/// # Errors
/// `request_malformed`.
pub fn begin(body: &[u8]) -> Result<Begin, LocalError> {
    let BeginWire { scope: text, just, on_behalf } = parse(body)?;
    if on_behalf.as_ref().is_some_and(|subject| !subject.starts_with("user:")) {
        return Err(malformed("`as` names a user, `user:…`"));
    }
    Ok(Begin { scope: scope(&text)?, just, on_behalf })
}

/// Reads the body of `/v1/end`.
///
/// # Errors
/// `request_malformed`.
pub fn end(body: &[u8]) -> Result<Handle, LocalError> {
    let wire: EndWire = parse(body)?;
    Handle::parse(&wire.context).ok_or_else(|| malformed("`context` is not a handle"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, LocalError> {
    let read = strict_json::object(body).map(serde_json::Value::Object);
    // The library's own text may quote what was sent.
    read.and_then(serde_json::from_value).map_err(|_| {
        malformed("the body is not one JSON object with the members of this call, each once")
    })
}

fn scope(text: &str) -> Result<Vec<String>, LocalError> {
    let names: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let sound = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
    };
    if names.iter().all(sound) {
        return Ok(names);
    }
    Err(malformed("`scope` has names separated by single spaces"))
}

/// A SHA-256 as `sha256sum` prints it, or in base64url; always base64url afterwards.
fn digest(text: &str) -> Result<String, LocalError> {
    let bytes = match text.len() {
        64 => hex(text),
        43 => URL_SAFE_NO_PAD.decode(text).ok(),
        _ => None,
    };
    let bytes = bytes.filter(|bytes| bytes.len() == 32);
    let bytes = bytes.ok_or_else(|| malformed("`digest` is not a SHA-256, hex or base64url"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

fn malformed(detail: &str) -> LocalError {
    Why::Malformed.error(detail)
}

#[cfg(test)]
#[path = "tests/request.rs"]
mod tests;
