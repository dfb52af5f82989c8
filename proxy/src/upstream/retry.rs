//! Whether a failed request may be sent once more, and what is kept of it for that.
//!
//! Invariant: sent again is only what provably was not processed, or what may be processed twice
//! (RFC 9110 §9.2.2) on a connection its server closed while idle. Never after a response head.

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body::Body as _;

use crate::http::body::ProxyBody;
use crate::upstream::pool::SendFailed;

/// What a failed request showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failed {
    /// Not a byte was sent.
    unsent: bool,
    /// The server said that it did not process the stream: `REFUSED_STREAM`, or `GOAWAY` with a
    /// lower last stream.
    unprocessed: Option<&'static str>,
    /// A connection used before was closed without a byte of response.
    closed_while_idle: bool,
}

/// The reason a request may be sent again, a label of `countersign_upstream_retries_total`.
fn why(failed: Failed, kept: bool, idempotent: bool) -> Option<&'static str> {
    match failed {
        Failed { unsent: true, .. } => Some("reused_closed"),
        Failed { unprocessed: Some(how), .. } if kept => Some(how),
        Failed { closed_while_idle: true, .. } if kept && idempotent => Some("closed_while_idle"),
        Failed { .. } => None,
    }
}

/// What is kept of a request without a body, or with a short one, to send it again.
pub struct Kept {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Kept {
    /// Keeps a request whose body can be repeated; a body that streams cannot.
    pub fn of(request: &Request<ProxyBody>) -> Option<Kept> {
        // What hangs on a request that opens a tunnel cannot be kept.
        if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
            return None;
        }
        let body = match request.body() {
            ProxyBody::Full(bytes) => bytes.clone(),
            body if body.is_end_stream() => None,
            ProxyBody::Empty | ProxyBody::Stream(_) | ProxyBody::Tunnel(_) => return None,
        };
        Some(Kept {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            body,
        })
    }

    /// The request, to be sent again.
    pub fn request(self) -> Request<ProxyBody> {
        let mut request = Request::new(self.body.map_or(ProxyBody::Empty, ProxyBody::full));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        request
    }
}

/// The request to send once more, with the reason; else what failed.
///
/// # Errors
/// What hyper said, where it is not provably safe.
pub fn again(
    failed: SendFailed,
    kept: Option<Kept>,
) -> Result<(Request<ProxyBody>, &'static str), hyper::Error> {
    let seen = Failed {
        unsent: failed.unsent.is_some(),
        unprocessed: unprocessed(&failed.error),
        closed_while_idle: failed.reused
            && !failed.h2
            && (failed.error.is_incomplete_message() || is_reset(&failed.error)),
    };
    let idempotent = kept.as_ref().is_some_and(|kept| kept.method.is_idempotent());
    match (why(seen, kept.is_some(), idempotent), failed.unsent, kept) {
        (Some(why), Some(unsent), _) => Ok((unsent, why)),
        (Some(why), None, Some(kept)) => Ok((kept.request(), why)),
        (Some(_) | None, _, _) => Err(failed.error),
    }
}

/// Whether the error concerns one stream only, so that its connection may serve others.
pub fn is_stream_only(error: &hyper::Error) -> bool {
    of_h2(error).is_some_and(h2::Error::is_reset)
}

fn unprocessed(error: &hyper::Error) -> Option<&'static str> {
    let error = of_h2(error).filter(|error| error.is_remote())?;
    if error.is_go_away() {
        return Some("goaway");
    }
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    refused.then_some("refused_stream")
}

fn of_h2(error: &hyper::Error) -> Option<&h2::Error> {
    use std::error::Error as _;
    error.source()?.downcast_ref::<h2::Error>()
}

/// The server's side of the connection was gone when our bytes arrived.
fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), ConnectionReset | BrokenPipe | UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Failed = Failed { unsent: false, unprocessed: None, closed_while_idle: false };

    #[test]
    fn only_what_is_safe_is_sent_again() {
        let unsent = Failed { unsent: true, ..NOTHING };
        let refused = Failed { unprocessed: Some("refused_stream"), ..NOTHING };
        let closed = Failed { closed_while_idle: true, ..NOTHING };
        for (failed, kept, idempotent, expected) in [
            // Not a byte was sent: any method, any body.
            (unsent, false, false, Some("reused_closed")),
            (unsent, true, true, Some("reused_closed")),
            // The server did not look at it: any method, a body only if it can be repeated.
            (refused, true, false, Some("refused_stream")),
            (refused, false, true, None),
            // It may have been processed: only what may be processed twice.
            (closed, true, true, Some("closed_while_idle")),
            (closed, true, false, None),
            (closed, false, true, None),
            (NOTHING, true, true, None),
        ] {
            assert_eq!(why(failed, kept, idempotent), expected, "{failed:?} {kept} {idempotent}");
        }
    }

    #[test]
    fn a_kept_request_is_the_same_again() {
        let mut request = Request::new(ProxyBody::full("abc"));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = Uri::from_static("/a?b");
        request.headers_mut().insert("x-a", http::HeaderValue::from_static("1"));
        let again = Kept::of(&request).expect("kept").request();
        assert_eq!(again.method(), Method::PUT);
        assert_eq!(again.uri(), request.uri());
        assert_eq!(again.headers(), request.headers());
        assert!(matches!(again.body(), ProxyBody::Full(Some(bytes)) if bytes == "abc"));
    }
}
