//! Which protocol a request takes between two sidecars, and how HTTP/1.1 frames its body. The choice lives here alone, so that it
//! can be measured again and reversed (HTTP/2 costs less CPU from a few connections upward).

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Version};
use http_body::Body as _;

use crate::http::body::ProxyBody;
use crate::outbound::discover::{Destination, ToPeer};
use crate::tls::Alpn;
use crate::upstream::target::Offer;

/// HTTP travels multiplexed over HTTP/2 whatever the app speaks; a port marked `preserveHttp1`
/// keeps HTTP/1.1, because header case and connection semantics do not survive the translation,
/// and so does HTTP/1.0, which HTTP/2 cannot say.
pub fn offer(destination: &Destination, version: Version) -> Offer {
    match destination.peer {
        ToPeer::Mesh => match alpn(destination.preserve_http1, version) {
            Alpn::H2 => Offer::Http2,
            Alpn::Http1 | Alpn::Tcp => Offer::Http1,
        },
        ToPeer::Outside(_) if destination.grpc => Offer::Http2,
        ToPeer::Outside(_) if destination.preserve_http1 || version < Version::HTTP_11 => {
            Offer::Http1
        }
        ToPeer::Outside(_) => Offer::Either,
        // Nobody knows what it speaks but the app that calls it.
        ToPeer::Plain if version == Version::HTTP_2 => Offer::Http2,
        ToPeer::Plain => Offer::Http1,
    }
}

fn alpn(preserve_http1: bool, version: Version) -> Alpn {
    if preserve_http1 || version < Version::HTTP_11 { Alpn::Http1 } else { Alpn::H2 }
}

/// Says how long the body is, where hyper would not: of a GET, HEAD or CONNECT of unknown length
/// it would send no body at all.
pub fn frame(mut request: Request<ProxyBody>) -> Request<ProxyBody> {
    let body = request.body();
    let told = request.headers().contains_key(CONTENT_LENGTH)
        || request.headers().contains_key(TRANSFER_ENCODING)
        || body.is_end_stream()
        || body.size_hint().exact().is_some();
    if !told && request.version() == Version::HTTP_11 {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}
