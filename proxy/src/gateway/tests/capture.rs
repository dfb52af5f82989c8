//! The client's address and the stated justification, honest and hostile.

use http::HeaderValue;
use http::header::{FORWARDED, HeaderName};
use proptest::prelude::*;

use super::*;

const PROXY: &str = "10.0.0.1";

#[test]
fn the_peer_is_the_client_unless_configured_otherwise() {
    let spoofed = xff(&["1.1.1.1"]);
    for (hops, proxies, from) in [
        (0, PROXY, AddressFrom::XForwardedFor),
        (1, "10.9.9.9", AddressFrom::XForwardedFor),
        (1, PROXY, AddressFrom::Peer),
        (1, PROXY, AddressFrom::ProxyProtocol),
    ] {
        let found = client_address(ip(PROXY), None, &spoofed, &rules(hops, proxies, from));
        assert_eq!(found.map(print), Ok("10.0.0.1 peer".into()));
    }
}

#[test]
fn a_proxy_header_is_the_peer_and_is_judged_as_one() {
    let from = AddressFrom::XForwardedFor;
    let seen = |version, headers: &HeaderMap, proxies| {
        let proxied = Some((ip("203.0.113.7"), version));
        client_address(ip(PROXY), proxied, headers, &rules(1, proxies, from)).map(print)
    };
    assert_eq!(seen(PpVersion::V1, &HeaderMap::new(), PROXY), Ok("203.0.113.7 pp1".into()));
    assert_eq!(seen(PpVersion::V2, &xff(&["1.1.1.1"]), PROXY), Ok("203.0.113.7 pp2".into()));
    let listed = seen(PpVersion::V2, &xff(&["1.1.1.1"]), "203.0.113.7");
    assert_eq!(listed, Ok("1.1.1.1 xff:1".into()));
}

#[test]
fn mapped_addresses_are_folded_everywhere() {
    let rules = rules(1, PROXY, AddressFrom::XForwardedFor);
    let found = client_address(ip("::ffff:10.0.0.1"), None, &xff(&["::ffff:192.0.2.1"]), &rules);
    assert_eq!(found.map(print), Ok("192.0.2.1 xff:1".into()));
}

#[test]
fn attack_spoofs_leftmost_forwarded_for() {
    assert_eq!(by_xff(1, &["6.6.6.6, 203.0.113.7"]), Ok("203.0.113.7 xff:1".into()));
    assert_eq!(by_xff(2, &["6.6.6.6, 203.0.113.7, 10.0.0.9"]), Ok("203.0.113.7 xff:2".into()));
    assert_eq!(by_xff(1, &["garbage!, 203.0.113.7"]), Ok("203.0.113.7 xff:1".into()));
    let spoofed = ["for=6.6.6.6;proto=https, for=203.0.113.7"];
    assert_eq!(by_forwarded(1, &spoofed), Ok("203.0.113.7 fwd:1".into()));
}

#[test]
fn attack_splits_forwarded_for_over_lines() {
    assert_eq!(by_xff(1, &["203.0.113.7", "192.0.2.1"]), Ok("192.0.2.1 xff:1".into()));
    assert_eq!(by_xff(2, &["6.6.6.6, 203.0.113.7", "192.0.2.1"]), Ok("203.0.113.7 xff:2".into()));
}

#[test]
fn attack_puts_port_zone_or_unknown_in_forwarded_for() {
    for entry in [
        "203.0.113.7:80",
        "[2001:db8::1]",
        "[2001:db8::1]:80",
        "fe80::1%eth0",
        "unknown",
        "_hidden",
        "",
        "203.0.113.07",
        "203.0.113",
        "\"203.0.113.7\"",
        "203.0.113.7 x",
        "6.6.6.6,,203.0.113.7",
    ] {
        assert_eq!(by_xff(1, &[entry]), Err(CaptureError::AddressMalformed), "{entry:?}");
    }
    for element in [
        "for=unknown",
        "for=_hidden",
        "for=\"_hidden\"",
        "for=203.0.113.7:80",
        "for=[2001:db8::1]",
        "for=2001:db8::1",
        "for=\"2001:db8::1\"",
        "for=\"[fe80::1%eth0]\"",
        "for=\"[2001:db8::1]:\"",
        "for=\"203.0.113.7:99999\"",
        "for=\"203.0.113.7:+80\"",
        "for=\"203.0.113.7",
        "for=",
        "by=203.0.113.7",
        "for=1.1.1.1;for=2.2.2.2",
        "203.0.113.7",
        "for = 203.0.113.7",
        "for=203.0.113.7;",
        "",
        "for=\"203\\.0.113.7\"",
        "for=1.1.1.1;by=\"a,b\"",
    ] {
        let found = by_forwarded(1, &[element]);
        assert_eq!(found, Err(CaptureError::AddressMalformed), "{element:?}");
    }
}

#[test]
fn forwarded_takes_quoted_addresses_with_ports() {
    for (element, expected) in [
        ("For=203.0.113.7", "203.0.113.7"),
        ("by=_x; for=\"203.0.113.7:80\" ;proto=https", "203.0.113.7"),
        ("for=\"[2001:db8::1]\"", "2001:db8::1"),
        ("host=a;for=\"[2001:db8::1]:443\"", "2001:db8::1"),
    ] {
        assert_eq!(by_forwarded(1, &[element]), Ok(format!("{expected} fwd:1")), "{element}");
    }
}

#[test]
fn attack_leaves_a_quote_open_to_swallow_the_proxys_entry() {
    let open = ["for=\"6.6.6.6, for=203.0.113.7"];
    assert_eq!(by_forwarded(1, &open), Ok("203.0.113.7 fwd:1".into()));
}

#[test]
fn attack_sends_too_short_forwarded_for() {
    assert_eq!(by_xff(2, &["6.6.6.6"]), Ok("10.0.0.1 peer-short".into()));
    assert_eq!(by_xff(1, &[]), Ok("10.0.0.1 peer-short".into()));
    assert_eq!(by_forwarded(3, &["for=6.6.6.6"]), Ok("10.0.0.1 peer-short".into()));
}

#[test]
fn attack_sends_endless_forwarded_for() {
    let many = vec!["1.1.1.1"; 33].join(",");
    assert_eq!(by_xff(1, &[&many]), Err(CaptureError::AddressesTooMany));
    let long = format!("{}, 1.1.1.1", "x".repeat(2048));
    assert_eq!(by_xff(1, &[&long]), Err(CaptureError::AddressesTooMany));
    assert_eq!(by_xff(1, &vec!["1.1.1.1"; 33]), Err(CaptureError::AddressesTooMany));
}

#[test]
fn only_the_configured_field_is_read() {
    let mut headers = xff(&["6.6.6.6"]);
    headers.insert(FORWARDED, HeaderValue::from_static("for=203.0.113.7"));
    let found = client_address(ip(PROXY), None, &headers, &rules(1, PROXY, AddressFrom::Forwarded));
    assert_eq!(found.map(print), Ok("203.0.113.7 fwd:1".into()));
}

#[test]
fn a_justification_is_a_kind_and_a_reference_that_fits() {
    let stated = stated("ticket=SUP-1234").unwrap().unwrap();
    assert_eq!((stated.kind.as_str(), stated.reference.as_str()), ("ticket", "SUP-1234"));
    assert_eq!(justification(&Field::Absent, fits), Ok(None));
}

#[test]
fn attack_invents_a_ticket() {
    for (value, error) in [
        ("ticket=because I need it", CaptureError::JustificationMalformed),
        ("ticket=SUP-", CaptureError::JustificationMalformed),
        ("ticket", CaptureError::JustificationMalformed),
        ("=SUP-1", CaptureError::JustificationMalformed),
        ("ticket=", CaptureError::JustificationMalformed),
        ("ticket=SUP-1,ticket=SUP-2", CaptureError::JustificationMalformed),
        ("tick et=SUP-1", CaptureError::JustificationMalformed),
        ("ticket=SUP-\u{e9}", CaptureError::JustificationMalformed),
        ("boss=said-so", CaptureError::JustificationKindUnknown),
    ] {
        assert_eq!(stated(value), Err(error), "{value}");
    }
    let long = format!("ticket=SUP-{}", "1".repeat(200));
    assert_eq!(stated(&long), Err(CaptureError::JustificationMalformed));
    assert_eq!(justification(&Field::Repeated, fits), Err(CaptureError::JustificationRepeated));
}

proptest! {
    /// Nothing a client puts to the left of what trusted proxies appended moves the answer.
    #[test]
    fn the_left_part_never_decides(left in "[ -+\\--~]{1,40}", extra in 0_usize..4) {
        prop_assume!(!left.trim().is_empty());
        let mut entries = vec![left.as_str()];
        entries.extend(["6.6.6.6"].repeat(extra));
        entries.push("203.0.113.7");
        let found = by_xff(1, &[&entries.join(",")]);
        prop_assert_eq!(found, Ok("203.0.113.7 xff:1".to_owned()));
    }

    #[test]
    fn hostile_lists_never_panic(lines in proptest::collection::vec("[ -~]{0,60}", 0..4), hops in 0_usize..5) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let _ = by_xff(hops, &lines);
        let _ = by_forwarded(hops, &lines);
    }
}

fn by_xff(hops: usize, lines: &[&str]) -> Result<String, CaptureError> {
    let rules = rules(hops, PROXY, AddressFrom::XForwardedFor);
    client_address(ip(PROXY), None, &xff(lines), &rules).map(print)
}

fn by_forwarded(hops: usize, lines: &[&str]) -> Result<String, CaptureError> {
    let rules = rules(hops, PROXY, AddressFrom::Forwarded);
    client_address(ip(PROXY), None, &lines_of(FORWARDED, lines), &rules).map(print)
}

fn stated(value: &str) -> Result<Option<StatedJustification>, CaptureError> {
    justification(&Field::One(HeaderValue::from_bytes(value.as_bytes()).unwrap()), fits)
}

fn fits(kind: &str, reference: &str) -> KindMatch {
    match (kind, reference.strip_prefix("SUP-")) {
        ("ticket", Some(number)) if !number.is_empty() => KindMatch::Fits,
        ("ticket", _) => KindMatch::Misfit,
        _ => KindMatch::UnknownKind,
    }
}

fn rules(trusted_hops: usize, proxy: &str, from: AddressFrom) -> AddressRules {
    AddressRules { trusted_hops, trusted_proxies: vec![ip(proxy).into()], from }
}

fn xff(lines: &[&str]) -> HeaderMap {
    lines_of(X_FORWARDED_FOR, lines)
}

fn lines_of(name: HeaderName, lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    headers
}

fn print(found: ClientAddress) -> String {
    format!("{} {}", found.ip, found.src)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_source_reads_the_same_in_tokens_and_records() {
    for src in [IpSrc::Peer, IpSrc::PeerShort, IpSrc::Pp1, IpSrc::Pp2]
        .into_iter()
        .chain([0, 1, 32, 255, 256].into_iter().flat_map(|n| [IpSrc::Xff(n), IpSrc::Fwd(n)]))
    {
        let printed = src.to_string();
        assert_eq!(src.text().as_str(), printed);
        assert_eq!(src.in_token(), IpSource::parse(&printed), "{printed}");
    }
}
