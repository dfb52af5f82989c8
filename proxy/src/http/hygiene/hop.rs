//! Hop-by-hop fields (RFC 9110 §7.6.1): read once, then gone, before our own headers are set.

use http::Version;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};

use super::HygieneError;
use super::names::{Class, Names, may_be_nominated};

/// What the hop-by-hop fields said before they were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopByHop {
    /// The one `Upgrade` protocol the sender asked for (or a 101 names); never `h2c`.
    pub upgrade: Option<HeaderValue>,
    /// `TE: trailers` was sent (it stays in the map).
    pub te_trailers: bool,
    /// `Connection: close` was sent.
    pub close: bool,
}

/// Whether a nomination that may not be made refuses the message or is passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nominations {
    Strict,
    Lenient,
}

/// Reads and removes the hop-by-hop fields and everything `Connection` nominates.
pub(super) fn remove(
    headers: &mut HeaderMap,
    names: &Names,
    version: Version,
    mode: Nominations,
) -> Result<HopByHop, HygieneError> {
    // Whatever nominates is such a field itself.
    if !names.has(Class::HopByHop) {
        return Ok(HopByHop::default());
    }
    let mut hop =
        HopByHop { te_trailers: names_token(headers, &TE, "trailers"), ..HopByHop::default() };
    let nominated = nominations(headers, &mut hop, version, mode)?;
    for (name, _) in names.notable.iter().filter(|(_, class)| *class == Class::HopByHop) {
        headers.remove(name);
    }
    for name in nominated {
        headers.remove(name);
    }
    if hop.te_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(hop)
}

/// Puts an upgrade back on a request or response that keeps HTTP/1 all the way.
pub fn restore_upgrade(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, upgrade);
}

/// What `Connection` names beside its own words.
fn nominations(
    headers: &HeaderMap,
    hop: &mut HopByHop,
    version: Version,
    mode: Nominations,
) -> Result<Vec<HeaderName>, HygieneError> {
    let mut names = Vec::new();
    for line in headers.get_all(CONNECTION) {
        for option in options(line) {
            let Some(name) = HeaderName::from_bytes(option).ok() else {
                match mode {
                    Nominations::Strict => return Err(HygieneError::HeaderForbidden),
                    Nominations::Lenient => continue,
                }
            };
            match name.as_str() {
                "close" => hop.close = true,
                "upgrade" if version == Version::HTTP_11 => hop.upgrade = one_upgrade(headers),
                "keep-alive" | "upgrade" | "te" | "http2-settings" => {}
                other if may_be_nominated(other) => names.push(name),
                _ if mode == Nominations::Strict => return Err(HygieneError::HeaderForbidden),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// The upgrade, if there is exactly one and it is not HTTP/2 by the back door.
fn one_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(value), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let mut protocols = options(value);
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else {
        return None;
    };
    (!protocol.eq_ignore_ascii_case(b"h2c")).then(|| value.clone())
}

fn names_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(options)
        .any(|option| option.eq_ignore_ascii_case(token.as_bytes()))
}

/// The non-empty elements of a comma-separated value.
fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|o| !o.is_empty())
}
