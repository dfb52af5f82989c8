//! Which header names mean something to a proxy, whoever spelled them.
//!
//! `HeaderName` is lower case already; here `_` counts as `-` too, because servers that map names
//! to environment variables cannot tell the two apart.

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

const HOP_BY_HOP: [&str; 7] =
    ["connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

const OVERRIDES: [&str; 5] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

const FORWARDED: [&str; 5] =
    ["cf-connecting-ip", "forwarded", "true-client-ip", "x-client-ip", "x-real-ip"];

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

/// Classifies a name. Most names are ordinary and leave at their first byte.
pub(super) fn classify(name: &str) -> Class {
    match name.as_bytes().first() {
        Some(b'c' | b'f' | b'h' | b'k' | b'p' | b't' | b'u' | b'x') => classify_folded(name),
        _ => Class::Ordinary,
    }
}

fn classify_folded(name: &str) -> Class {
    if same(name, "txn-token") || starts(name, "countersign-") {
        Class::Reserved
    } else if same(name, "x-forwarded-client-cert") || starts(name, "client-cert") {
        Class::ClientCert
    } else if starts(name, "x-forwarded-") || starts(name, "x-envoy-") || any(name, &FORWARDED) {
        Class::Forwarded
    } else if starts(name, "proxy-") || any(name, &HOP_BY_HOP) {
        Class::HopByHop
    } else if any(name, &OVERRIDES) {
        Class::Override
    } else {
        Class::Ordinary
    }
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
