//! Which header names mean something to a proxy, whoever spelled them.
//!
//! `HeaderName` is lower case already; here `_` counts as `-` too, because servers that map names
//! to environment variables cannot tell the two apart.

use http::header::{HeaderMap, HeaderName};

/// What a field name is to this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// States a client certificate: `X-Forwarded-Client-Cert`, `Client-Cert*`.
    ClientCert,
    /// States the client's address or what it asked for: `X-Forwarded-*` and its family.
    Forwarded,
    /// Meant for this connection only.
    HopByHop,
    /// An ordinary field.
    Ordinary,
    /// Asks the app to read another method or path than the one decided on.
    Override,
    /// `Txn-Token` and `Countersign-*`.
    Reserved,
}

/// How a known name is compared.
enum Form {
    Exact,
    Prefix,
}

/// Every name that is not ordinary, by its first letter: most names are told from that alone. In a
/// list the first entry that fits counts.
fn known(first: u8) -> &'static [(Form, &'static str, Class)] {
    use Class::{ClientCert, Forwarded, HopByHop, Override, Reserved};
    use Form::{Exact, Prefix};
    match first {
        b'c' => &[
            (Prefix, "countersign-", Reserved),
            (Prefix, "client-cert", ClientCert),
            (Exact, "cf-connecting-ip", Forwarded),
            (Exact, "connection", HopByHop),
        ],
        b'f' => &[(Exact, "forwarded", Forwarded)],
        b'h' => &[(Exact, "http2-settings", HopByHop)],
        b'k' => &[(Exact, "keep-alive", HopByHop)],
        b'p' => &[(Prefix, "proxy-", HopByHop)],
        b't' => &[
            (Exact, "txn-token", Reserved),
            (Exact, "true-client-ip", Forwarded),
            (Exact, "te", HopByHop),
            (Exact, "transfer-encoding", HopByHop),
        ],
        b'u' => &[(Exact, "upgrade", HopByHop)],
        b'x' => &[
            (Exact, "x-forwarded-client-cert", ClientCert),
            (Exact, "x-client-ip", Forwarded),
            (Prefix, "x-envoy-", Forwarded),
            (Prefix, "x-forwarded-", Forwarded),
            (Exact, "x-real-ip", Forwarded),
            (Exact, "x-http-method", Override),
            (Exact, "x-http-method-override", Override),
            (Exact, "x-method-override", Override),
            (Exact, "x-original-method", Override),
            (Exact, "x-original-url", Override),
            (Exact, "x-rewrite-url", Override),
        ],
        _ => &[],
    }
}

/// Fields whose removal would change what the request is, or whom it comes from.
const NEVER_NOMINATED: [&str; 6] =
    ["authorization", "content-length", "content-type", "cookie", "host", "transfer-encoding"];

/// Fields that may not stand in trailers (RFC 9110 §6.5.1), beside the hop-by-hop ones.
const NEVER_TRAILING: [&str; 11] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "set-cookie",
    "trailer",
    "www-authenticate",
];

/// What one look at the names of a head shows, so that nothing is searched for that is not there.
pub(super) struct Names {
    /// Those that are not ordinary. Allocated only if there are any.
    pub notable: Vec<(HeaderName, Class)>,
    /// A length or a coding in a spelling that some servers read as such.
    pub odd_framing: bool,
    /// `Content-Length` or `Transfer-Encoding`.
    pub framing: bool,
    /// `Cookie`.
    pub cookie: bool,
}

impl Names {
    /// Whether there is a name of this class.
    pub(super) fn has(&self, class: Class) -> bool {
        self.notable.iter().any(|(_, own)| *own == class)
    }
}

/// Looks at the names in the map.
pub(super) fn look(headers: &HeaderMap) -> Names {
    let mut names =
        Names { notable: Vec::new(), odd_framing: false, framing: false, cookie: false };
    for name in headers.keys() {
        let text = name.as_str();
        match classify(text) {
            Class::Ordinary => {}
            class => names.notable.push((name.clone(), class)),
        }
        match text {
            // Servers behind CGI-like interfaces read `_` as `-`; over HTTP/2 no head check sees
            // these.
            "content_length" | "transfer_encoding" => names.odd_framing = true,
            "content-length" | "transfer-encoding" => names.framing = true,
            "cookie" => names.cookie = true,
            _ => {}
        }
    }
    names
}

/// The names in the map that are not ordinary.
pub(super) fn notable(headers: &HeaderMap) -> Vec<(HeaderName, Class)> {
    look(headers).notable
}

/// Classifies a name.
pub(super) fn classify(name: &str) -> Class {
    let fits = |(form, known, _): &&(Form, &str, Class)| match form {
        Form::Exact => same(name, known),
        Form::Prefix => starts(name, known),
    };
    let Some(first) = name.bytes().next() else { return Class::Ordinary };
    known(first).iter().find(fits).map_or(Class::Ordinary, |(_, _, class)| *class)
}

/// Whether `Connection` may name this field, so that it is removed.
pub(super) fn may_be_nominated(name: &str) -> bool {
    let protected =
        matches!(classify(name), Class::ClientCert | Class::Forwarded | Class::Reserved);
    !protected && !any(name, &NEVER_NOMINATED)
}

/// Whether this field may stand in trailers.
pub(super) fn may_trail(name: &str) -> bool {
    classify(name) == Class::Ordinary && !any(name, &NEVER_TRAILING)
}

fn any(name: &str, known: &[&str]) -> bool {
    known.iter().any(|known| same(name, known))
}

fn same(name: &str, known: &str) -> bool {
    name.len() == known.len() && starts(name, known)
}

fn starts(name: &str, prefix: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() >= prefix.len() && name.bytes().map(fold).zip(prefix.bytes()).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_by_its_first_letter() {
        let mut found = 0;
        for first in 0..=u8::MAX {
            for (_, name, class) in known(first) {
                assert_eq!(name.bytes().next(), Some(first), "{name}");
                assert_eq!(classify(name), *class, "{name}");
                assert_eq!(classify(&name.replace('-', "_")), *class, "{name}");
                found += 1;
            }
        }
        assert_eq!(found, 24);
    }
}
