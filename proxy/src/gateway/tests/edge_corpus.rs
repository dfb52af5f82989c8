//! What the edge reads of strangers, replayed from the fuzz corpora: each file has its answer.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::corpus::corpus;
use crate::gateway::capture::{
    AddressFrom, AddressRules, KindMatch, client_address, justification,
};
use crate::gateway::proxy_protocol::{Parsed, parse};
use crate::http::hygiene::Field;

/// As the target `client_address` reads its input: the first byte chooses field and hops.
fn address(bytes: &[u8]) -> String {
    let (choice, list) = bytes.split_first().unwrap();
    let (from, name) = match choice & 1 {
        0 => (AddressFrom::XForwardedFor, "x-forwarded-for"),
        _ => (AddressFrom::Forwarded, "forwarded"),
    };
    let mut headers = HeaderMap::new();
    for line in list.split(|byte| *byte == b'\n') {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(line).unwrap());
    }
    let rules = AddressRules {
        trusted_hops: usize::from(choice >> 1),
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        from,
    };
    match client_address("10.0.0.1".parse().unwrap(), None, &headers, &rules) {
        Ok(client) => format!("{} {}", client.ip, client.src),
        Err(error) => error.reason().to_owned(),
    }
}

#[test]
fn the_corpus_of_client_addresses_replays() {
    for (name, bytes) in corpus("client_address") {
        let expected = match name.as_str() {
            "one_hop" | "spoofed_left" => "203.0.113.7 xff:1",
            "two_hops" | "two_lines" => "203.0.113.7 xff:2",
            "mapped" => "192.0.2.1 xff:1",
            "v6" => "2001:db8::1 xff:1",
            "too_short" => "10.0.0.1 peer-short",
            "no_hops" => "10.0.0.1 peer",
            "fwd" | "fwd_port" | "fwd_case" => "203.0.113.7 fwd:1",
            "fwd_v6" => "2001:db8::1 fwd:1",
            // A client's open quote does not swallow what the proxy appended.
            "fwd_open_quote" => "10.0.0.9 fwd:1",
            "33_entries" | "long" => "forwarded_too_long",
            _ => "forwarded_malformed",
        };
        assert_eq!(address(&bytes), expected, "{name}");
    }
}

#[test]
fn the_corpus_of_proxy_headers_replays() {
    for (name, bytes) in corpus("proxy_protocol") {
        let told = match parse(&bytes) {
            Ok(Parsed::NeedMore) => "more".to_owned(),
            Ok(Parsed::Done(header)) => {
                format!(
                    "{:?} {} {}",
                    header.version,
                    header.source.map_or("-".into(), |s| s.to_string()),
                    header.consumed
                )
            }
            Err(error) => error.reason().to_owned(),
        };
        let expected = match name.as_str() {
            "v1_tcp4" => "V1 203.0.113.7:4711 42",
            "v1_tcp6" => "V1 [2001:db8::1]:4711 37",
            "v1_mapped" => "V1 192.0.2.1:1 37",
            "v1_unknown" => "V1 - 31",
            "v2_v4" => "V2 203.0.113.7:4711 28",
            "v2_tlv" => "V2 203.0.113.7:4711 34",
            "v2_v6" => "V2 [::]:0 52",
            "v2_local" => "V2 - 28",
            "v2_unspec" => "V2 - 16",
            "v2_cut" | "empty" => "more",
            "v1_endless" | "v2_huge" => "proxy_header_too_large",
            "v2_unix" | "v2_version" => "proxy_header_unsupported",
            "none" => "proxy_header_missing",
            _ => "proxy_header_malformed",
        };
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn the_corpus_of_justifications_replays() {
    for (name, bytes) in corpus("justification") {
        // What no header can carry never arrives here.
        let Ok(value) = HeaderValue::from_bytes(&bytes) else {
            assert_eq!(name, "control");
            continue;
        };
        let stated = justification(&Field::One(value), |_, _| KindMatch::Fits);
        let taken = matches!(name.as_str(), "ticket" | "page" | "second_equals" | "quote");
        assert_eq!(stated.is_ok(), taken, "{name}: {stated:?}");
    }
}
