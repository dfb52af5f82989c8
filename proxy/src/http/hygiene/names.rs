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

/// Every name that is not ordinary; the first entry that fits counts.
const KNOWN: [(Form, &str, Class); 24] = [
    (Form::Prefix, "countersign-", Class::Reserved),
    (Form::Exact, "txn-token", Class::Reserved),
    (Form::Prefix, "client-cert", Class::ClientCert),
    (Form::Exact, "x-forwarded-client-cert", Class::ClientCert),
    (Form::Exact, "cf-connecting-ip", Class::Forwarded),
    (Form::Exact, "forwarded", Class::Forwarded),
    (Form::Exact, "true-client-ip", Class::Forwarded),
    (Form::Exact, "x-client-ip", Class::Forwarded),
    (Form::Prefix, "x-envoy-", Class::Forwarded),
    (Form::Prefix, "x-forwarded-", Class::Forwarded),
    (Form::Exact, "x-real-ip", Class::Forwarded),
    (Form::Exact, "connection", Class::HopByHop),
    (Form::Exact, "http2-settings", Class::HopByHop),
    (Form::Exact, "keep-alive", Class::HopByHop),
    (Form::Prefix, "proxy-", Class::HopByHop),
    (Form::Exact, "te", Class::HopByHop),
    (Form::Exact, "transfer-encoding", Class::HopByHop),
    (Form::Exact, "upgrade", Class::HopByHop),
    (Form::Exact, "x-http-method", Class::Override),
    (Form::Exact, "x-http-method-override", Class::Override),
    (Form::Exact, "x-method-override", Class::Override),
    (Form::Exact, "x-original-method", Class::Override),
    (Form::Exact, "x-original-url", Class::Override),
    (Form::Exact, "x-rewrite-url", Class::Override),
];

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

/// The names in the map that are not ordinary. Allocates only if there are any.
pub(super) fn notable(headers: &HeaderMap) -> Vec<(HeaderName, Class)> {
    headers
        .keys()
        .map(|name| (name, classify(name.as_str())))
        .filter(|(_, class)| *class != Class::Ordinary)
        .map(|(name, class)| (name.clone(), class))
        .collect()
}

/// Classifies a name.
pub(super) fn classify(name: &str) -> Class {
    let fits = |(form, known, _): &&(Form, &str, Class)| match form {
        Form::Exact => same(name, known),
        Form::Prefix => starts(name, known),
    };
    KNOWN.iter().find(fits).map_or(Class::Ordinary, |(_, _, class)| *class)
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
