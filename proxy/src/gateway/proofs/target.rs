//! Whether a proof's `htu` is the address a request was sent to: scheme, authority and path after
//! the normalisation of RFC 3986 §6.2.2 and §6.2.3; query and fragment do not count (RFC 9449 §4.3).
//! The path is compared in the one canonical form that policy sees and the app gets.

use countersign_policy::host::canonical_host;
use countersign_policy::path::{CanonicalOptions, CanonicalPath};
use http::Uri;
use http::uri::{Authority, Scheme};

/// Where a request was sent, as its client means it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The method.
    pub method: &'a str,
    /// The schemes the client may have used.
    pub schemes: Schemes,
    /// The authority, as sent.
    pub authority: &'a Authority,
    /// The canonical host.
    pub host: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// How paths are made canonical here.
    pub options: CanonicalOptions,
}

/// What a client may have written before `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// The connection is TLS.
    Https,
    /// The connection is not, and nobody stands in front of us.
    Http,
    /// The connection is not, and comes from a proxy we trust, at which TLS may have ended.
    Either,
}

impl Target<'_> {
    /// Whether `url` names this target.
    pub(super) fn is_at(&self, url: &str) -> bool {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return false };
        let is_https = *scheme == Scheme::HTTPS;
        let fits = match self.schemes {
            Schemes::Https => is_https,
            Schemes::Http => *scheme == Scheme::HTTP,
            Schemes::Either => is_https || *scheme == Scheme::HTTP,
        };
        let usual = if is_https { 443 } else { 80 };
        let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
        let host = canonical_host(authority.as_str());
        fits && host.is_ok_and(|host| host == self.host)
            && port(authority) == port(self.authority)
            && self.is_path(uri.path())
    }

    fn is_path(&self, path: &str) -> bool {
        let path = CanonicalPath::from_target(self.method, path, self.host, self.options);
        path.is_ok_and(|path| path.path() == self.path)
    }
}
