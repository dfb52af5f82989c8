//! Canonical hosts: the one form in which host names are compared.
//!
//! Lower case, without port and trailing dot; only what CONNECT names keeps its port. User info, `%`, non-ASCII and empty names are
//! refused, so that two spellings never mean two things.

use crate::doc::Effect;

/// Why a host has no canonical form. All are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing is left of it.
    #[error("the host is empty")]
    Empty,
    /// User info, `%`, non-ASCII, or a byte no host name has.
    #[error("the host contains a byte that is not allowed")]
    Byte,
    /// What follows the colon is not a port.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// A bracketed address that is not IPv6.
    #[error("the bracketed address is not IPv6")]
    Address,
    /// More than 255 bytes or a label that is empty or has more than 63.
    #[error("the host name is too long or has an empty label")]
    Length,
}

/// The canonical form of a `Host` or `:authority` value.
///
/// ```
/// use countersign_policy::host::canonical_host;
/// assert_eq!(canonical_host("API.Example.com.:8443").unwrap(), "api.example.com");
/// assert!(canonical_host("user@example.com").is_err());
/// ```
pub fn canonical_host(written: &str) -> Result<String, HostError> {
    if let Some(rest) = written.strip_prefix('[') {
        return bracketed(rest);
    }
    let name = match written.split_once(':') {
        Some((name, port)) => {
            check_port(port)?;
            name
        }
        None => written,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Err(HostError::Byte);
    }
    if name.len() > 255 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(HostError::Length);
    }
    Ok(name.to_ascii_lowercase())
}

/// The canonical form of what CONNECT names: host and port, since together they say what is
/// reached. Without a port, or with port 0, it has none.
///
/// ```
/// use countersign_policy::host::canonical_authority;
/// assert_eq!(canonical_authority("DB.example.:0443").unwrap(), "db.example:443");
/// assert!(canonical_authority("db.example").is_err());
/// ```
pub fn canonical_authority(written: &str) -> Result<String, HostError> {
    let host = canonical_host(written)?;
    let (_, port) = written.rsplit_once(':').ok_or(HostError::Port)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
        Ok(_) | Err(_) => Err(HostError::Port),
    }
}

/// The host of a canonical host or authority.
fn without_port(canonical: &str) -> &str {
    match canonical.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        Some(_) | None => canonical,
    }
}

/// Whether a rule about `own` is about a request to `asked`, both canonical. An allow covers what
/// it names; a deny of a host covers CONNECT to each of its ports.
pub(crate) fn covers(own: &str, asked: &str, effect: Effect) -> bool {
    own == asked || (effect == Effect::Deny && own == without_port(asked))
}

/// `rest` follows the opening bracket.
fn bracketed(rest: &str) -> Result<String, HostError> {
    let (address, after) = rest.split_once(']').ok_or(HostError::Address)?;
    if !after.is_empty() {
        check_port(after.strip_prefix(':').ok_or(HostError::Byte)?)?;
    }
    let address: std::net::Ipv6Addr = address.parse().map_err(|_| HostError::Address)?;
    Ok(format!("[{address}]"))
}

fn check_port(port: &str) -> Result<(), HostError> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if digits && port.parse::<u16>().is_ok() { Ok(()) } else { Err(HostError::Port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_host_are_one() {
        for written in ["a.b", "A.B", "a.b.", "a.b:80", "A.b.:65535"] {
            assert_eq!(canonical_host(written).as_deref(), Ok("a.b"), "{written}");
        }
        assert_eq!(canonical_host("[2001:DB8:0::1]:443").as_deref(), Ok("[2001:db8::1]"));
        assert_eq!(canonical_host("127.0.0.1:1").as_deref(), Ok("127.0.0.1"));
    }

    #[test]
    fn what_connect_names_has_a_port() {
        for (written, canonical) in [
            ("A.b.:0443", "a.b:443"),
            ("[2001:DB8:0::1]:22", "[2001:db8::1]:22"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(canonical_authority(written).as_deref(), Ok(canonical), "{written}");
            assert_eq!(canonical_authority(canonical).as_deref(), Ok(canonical), "{canonical}");
        }
        for written in ["a.b", "a.b:", "a.b:0", "[::1]", "127.0.0.1", "a.b:65536"] {
            assert_eq!(canonical_authority(written), Err(HostError::Port), "{written}");
        }
    }

    #[test]
    fn a_deny_of_a_host_covers_each_port_and_an_allow_none() {
        for host in ["a.b", "[::1]"] {
            let tunnel = format!("{host}:22");
            assert!(covers(host, &tunnel, Effect::Deny), "{host}");
            assert!(!covers(host, &tunnel, Effect::Allow), "{host}");
            assert!(!covers(&format!("{host}:443"), &tunnel, Effect::Deny), "{host}");
            for effect in [Effect::Allow, Effect::Deny] {
                assert!(covers(host, host, effect) && covers(&tunnel, &tunnel, effect), "{host}");
                assert!(!covers(&tunnel, host, effect), "{host}");
            }
        }
        assert!(!covers("[:", "[::1]", Effect::Deny));
    }

    #[test]
    fn attack_sends_an_ambiguous_host() {
        let long = "a".repeat(64);
        for (written, why) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (":80", HostError::Empty),
            ("a.b:", HostError::Port),
            ("a.b:80:80", HostError::Port),
            ("a.b:+80", HostError::Port),
            ("a.b:65536", HostError::Port),
            ("user@a.b", HostError::Byte),
            ("a%2eb", HostError::Byte),
            ("ä.b", HostError::Byte),
            ("a b", HostError::Byte),
            ("a,b", HostError::Byte),
            ("a/b", HostError::Byte),
            ("a\0", HostError::Byte),
            ("a..b", HostError::Length),
            ("a.b..", HostError::Length),
            (".a", HostError::Length),
            (long.as_str(), HostError::Length),
            ("[::1", HostError::Address),
            ("[1.2.3.4]", HostError::Address),
            ("[fe80::1%eth0]", HostError::Address),
            ("[::1]x", HostError::Byte),
        ] {
            assert_eq!(canonical_host(written), Err(why), "{written}");
        }
    }
}
