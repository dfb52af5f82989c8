//! HTTP/1.1 over HTTP/2 between two proxies, and back: pure functions on heads.
//!
//! What HTTP/2 cannot say travels in `Countersign-Http1`, written here by the sending proxy and
//! believed only from an authenticated mesh peer: `1.1`, `1.1;absolute` on requests,
//! `1.1;reason=<percent-encoded>` on responses. HTTP/1.0 and CONNECT are never translated.
//! Both directions expect heads that `hygiene` has cleaned.

use http::uri::Authority;
use http::{request, response};

use super::hygiene::Field;

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

/// Turns a cleaned request into one for the shared HTTP/2 connection.
pub fn to_h2(
    _parts: &mut request::Parts,
    _authority: &Authority,
    _app: AppSpeaks,
) -> Result<SentH2, TranslateError> {
    todo!()
}

/// Turns a cleaned request that came over HTTP/2 into what the app is to see.
/// `mark` is the peer's `Countersign-Http1`; from anybody but a mesh peer it is absent.
pub fn from_h2(
    _parts: &mut request::Parts,
    _authority: &Authority,
    _mark: &Field,
) -> Result<Restored, TranslateError> {
    todo!()
}

/// Prepares an app's HTTP/1.1 response for HTTP/2: marks an unusual reason phrase.
pub fn response_to_h2(_parts: &mut response::Parts) {
    todo!()
}

/// Restores the reason phrase of a response that came over HTTP/2 for an HTTP/1.1 client.
pub fn response_from_h2(_parts: &mut response::Parts, _mark: &Field) {
    todo!()
}

/// Joins several `Cookie` lines to one, as HTTP/1 and policy expect them.
pub fn join_cookies(_headers: &mut http::HeaderMap) {
    todo!()
}

/// Announces `TE` in `Connection`, as HTTP/1 demands. For every HTTP/1 leg.
pub fn announce_te(_headers: &mut http::HeaderMap) {
    todo!()
}
