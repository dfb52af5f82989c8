//! Which protocol a request takes between two sidecars. The choice lives here alone, so that it
//! can be measured again and reversed (HTTP/2 costs less CPU from a few connections upward).

use http::Version;

use crate::tls::Alpn;

/// HTTP travels multiplexed over HTTP/2 whatever the app speaks; a port marked `preserveHttp1`
/// keeps HTTP/1.1, because header case and connection semantics do not survive the translation,
/// and so does HTTP/1.0, which HTTP/2 cannot say.
pub fn alpn(preserve_http1: bool, version: Version) -> Alpn {
    if preserve_http1 || version < Version::HTTP_11 { Alpn::Http1 } else { Alpn::H2 }
}
