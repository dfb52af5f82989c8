//! HTTP/1.1 over HTTP/2 between two proxies, and back: pure functions on heads.
//!
//! What HTTP/2 cannot say travels in `Countersign-Http1`, written here by the sending proxy and
//! believed only from an authenticated mesh peer: `1.1`, `1.1;absolute` on requests,
//! `1.1;reason=<percent-encoded>` on responses. HTTP/1.0 and CONNECT are never translated.
//! Both directions expect heads that `hygiene` has cleaned.

use http::header::{
    CONNECTION, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE,
};
use http::uri::{self, Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Version, request, response};
use hyper::ext::ReasonPhrase;

use super::hygiene::{Field, HTTP1, percent_encode};

/// Why a head cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TranslateError {
    /// The peer's `Countersign-Http1` cannot be read.
    #[error("the peer's Countersign-Http1 field is malformed")]
    MarkMalformed,
    /// HTTP/1.0, CONNECT or an upgrade: only HTTP/1 inside mTLS carries it.
    #[error("this request cannot travel over HTTP/2")]
    NotTranslatable,
    /// A target that has no form in the other protocol.
    #[error("the request target cannot be translated")]
    Target,
}

/// Which protocol the app behind the receiving proxy is to be spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppSpeaks {
    /// HTTP/1.1, whatever the client spoke: the request is always marked.
    Http1,
    /// HTTP/2, whatever the client spoke: never marked.
    Http2,
    /// What the client spoke.
    AsClient,
}

/// What `to_h2` found that the sending side must act on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentH2 {
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
}

/// What `from_h2` restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The request is HTTP/1.1 now.
    Http1,
    /// The request had no mark and stays HTTP/2.
    Http2,
}

/// The form of the request target the app is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Absolute,
    Origin,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const PLAIN: &str = "1.1";
const ABSOLUTE: &str = "1.1;absolute";
const REASON: &str = "1.1;reason=";
/// LIMIT: bytes of a reason phrase, encoded.
const REASON_BYTES_MAX: usize = 512;

/// Turns a cleaned request into one for the shared HTTP/2 connection.
pub fn to_h2(
    parts: &mut request::Parts,
    authority: &Authority,
    app: AppSpeaks,
) -> Result<SentH2, TranslateError> {
    let upgrade = parts.headers.contains_key(UPGRADE) || parts.headers.contains_key(CONNECTION);
    if parts.method == Method::CONNECT || parts.version < Version::HTTP_11 || upgrade {
        return Err(TranslateError::NotTranslatable);
    }
    let from_http1 = parts.version == Version::HTTP_11;
    let form =
        if from_http1 && parts.uri.scheme().is_some() { Form::Absolute } else { Form::Origin };
    let scheme = parts.uri.scheme().cloned().unwrap_or(Scheme::HTTP);
    parts.uri = absolute_uri(&parts.uri, scheme, authority)?;
    parts.version = Version::HTTP_2;
    parts.headers.remove(HOST);
    let marked = match app {
        AppSpeaks::Http1 => true,
        AppSpeaks::Http2 => false,
        AppSpeaks::AsClient => from_http1,
    };
    if marked {
        let mark = if form == Form::Absolute { ABSOLUTE } else { PLAIN };
        parts.headers.insert(HTTP1, HeaderValue::from_static(mark));
    }
    // Never the same twice: in HPACK's table it would push out what is.
    if let Some(trace) = parts.headers.get_mut(TRACEPARENT) {
        trace.set_sensitive(true);
    }
    Ok(SentH2 { expects_continue: take_expect_continue(&mut parts.headers) })
}

/// Says that what goes over TLS to an outside service was asked for by `https`.
///
/// # Errors
/// [`TranslateError::Target`] where the target has no absolute form.
pub fn as_https(parts: &mut request::Parts, authority: &Authority) -> Result<(), TranslateError> {
    parts.uri = absolute_uri(&parts.uri, Scheme::HTTPS, authority)?;
    Ok(())
}

/// Turns a cleaned request that came over HTTP/2 into what the app is to see.
/// `mark` is the peer's `Countersign-Http1`; from anybody but a mesh peer it is absent.
pub fn from_h2(
    parts: &mut request::Parts,
    authority: &Authority,
    mark: &Field,
) -> Result<Restored, TranslateError> {
    let form = match mark {
        Field::Absent => return Ok(Restored::Http2),
        Field::Repeated => return Err(TranslateError::MarkMalformed),
        Field::One(value) if value == PLAIN => Form::Origin,
        Field::One(value) if value == ABSOLUTE => Form::Absolute,
        Field::One(_) => return Err(TranslateError::MarkMalformed),
    };
    if parts.method == Method::CONNECT {
        return Err(TranslateError::NotTranslatable);
    }
    let scheme = parts.uri.scheme().cloned().unwrap_or(Scheme::HTTP);
    parts.uri = match form {
        Form::Absolute => absolute_uri(&parts.uri, scheme, authority)?,
        Form::Origin => Uri::from(path_of(&parts.uri)),
    };
    parts.version = Version::HTTP_11;
    put_host_first(&mut parts.headers, authority)?;
    join_cookies(&mut parts.headers);
    announce_te(&mut parts.headers);
    Ok(Restored::Http1)
}

/// Prepares an app's HTTP/1.1 response for HTTP/2: marks an unusual reason phrase.
pub fn response_to_h2(parts: &mut response::Parts) {
    let reason = parts.extensions.remove::<ReasonPhrase>();
    if let Some(mark) = reason.as_ref().and_then(reason_mark) {
        parts.headers.insert(HTTP1, mark);
    }
    parts.version = Version::HTTP_2;
}

/// Restores the reason phrase of a response that came over HTTP/2 for an HTTP/1.1 client.
/// A mark that cannot be read is passed over: the phrase means nothing to a program.
pub fn response_from_h2(parts: &mut response::Parts, mark: &Field) {
    if let Some(reason) = mark.one().and_then(read_reason) {
        parts.extensions.insert(reason);
    }
    parts.version = Version::HTTP_11;
}

/// Joins several `Cookie` lines to one, as HTTP/1 and policy expect them.
pub fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(COOKIE) else {
        return;
    };
    if entry.iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for value in entry.iter().filter(|value| !value.is_empty()) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        entry.insert(value);
    }
}

/// Announces `TE` in `Connection`, as HTTP/1 demands. For every HTTP/1 leg.
pub fn announce_te(headers: &mut HeaderMap) {
    if headers.contains_key(TE) && !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn absolute_uri(uri: &Uri, scheme: Scheme, authority: &Authority) -> Result<Uri, TranslateError> {
    let mut to = uri::Parts::default();
    to.scheme = Some(scheme);
    to.authority = Some(authority.clone());
    to.path_and_query = Some(path_of(uri));
    Uri::from_parts(to).map_err(|_| TranslateError::Target)
}

fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// `Expect: 100-continue` ends at the first proxy, which asks for the body itself; other
/// expectations travel on.
pub fn take_expect_continue(headers: &mut HeaderMap) -> bool {
    let expects = headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects {
        headers.remove(EXPECT);
    }
    expects
}

/// Fields that are usually added behind, so that the map need not grow for them.
const ADDED: usize = 7;

/// Exactly one `Host`, in front of all other fields.
fn put_host_first(headers: &mut HeaderMap, authority: &Authority) -> Result<(), TranslateError> {
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| TranslateError::Target)?;
    headers.remove(HOST);
    let rest = std::mem::take(headers);
    headers.reserve(rest.len() + 1 + ADDED);
    headers.insert(HOST, host);
    headers.extend(rest);
    Ok(())
}

fn reason_mark(reason: &ReasonPhrase) -> Option<HeaderValue> {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~');
    let bytes = reason.as_bytes();
    if bytes.is_empty() || !bytes.iter().all(printable) {
        return None;
    }
    let mut mark = String::from(REASON);
    percent_encode(&mut mark, bytes);
    if mark.len() > REASON_BYTES_MAX {
        return None;
    }
    HeaderValue::try_from(mark).ok()
}

fn read_reason(mark: &HeaderValue) -> Option<ReasonPhrase> {
    if mark.len() > REASON_BYTES_MAX {
        return None;
    }
    let phrase = percent_decode(mark.as_bytes().strip_prefix(REASON.as_bytes())?)?;
    if phrase.is_empty() || !phrase.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    ReasonPhrase::try_from(phrase).ok()
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            out.push(high * 16 + low);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
#[path = "tests/translate.rs"]
mod tests;
