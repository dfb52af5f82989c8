//! `X-Forwarded-For` and `Forwarded` as a trusted proxy hands them on. The first byte chooses the
//! field and the number of trusted hops; lines are separated by line feeds.
#![no_main]

use countersign_proxy::gateway::capture::{AddressFrom, AddressRules, IpSrc, client_address};
use http::{HeaderMap, HeaderName, HeaderValue};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, list)) = bytes.split_first() else { return };
    let hops = usize::from(choice >> 1) % 5;
    let (from, name) = match choice & 1 {
        0 => (AddressFrom::XForwardedFor, "x-forwarded-for"),
        _ => (AddressFrom::Forwarded, "forwarded"),
    };
    let mut headers = HeaderMap::new();
    for line in list.split(|byte| *byte == b'\n').take(64) {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(HeaderName::from_static(name), value);
    }
    let proxy = "10.0.0.1".parse().unwrap();
    let trusted = vec!["10.0.0.0/8".parse().unwrap()];
    let rules = |trusted_proxies| AddressRules { trusted_hops: hops, trusted_proxies, from };
    let told = client_address(proxy, None, &headers, &rules(trusted));
    if let Ok(client) = &told {
        let forwarded = matches!(client.src, IpSrc::Xff(n) | IpSrc::Fwd(n) if n == hops && n > 0);
        assert!(forwarded || client.ip == proxy, "{client:?}");
        assert_eq!(client.ip, client.ip.to_canonical());
    }
    // What proxies appended counts; nothing that a client put before it can move it.
    if let (Ok(client), 1..) = (told, hops)
        && client.src.is_forwarded()
    {
        let mut longer = HeaderMap::new();
        longer.append(name, HeaderValue::from_static("203.0.113.9"));
        longer.extend(
            headers
                .get_all(name)
                .iter()
                .map(|value| (HeaderName::from_static(name), value.clone())),
        );
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let again = client_address(proxy, None, &longer, &rules(trusted));
        assert!(again.is_err() || again == Ok(client), "{again:?} for {client:?}");
    }
    let nobody = client_address(proxy, None, &headers, &rules(Vec::new()));
    assert_eq!(nobody.map(|client| (client.ip, client.src)), Ok((proxy, IpSrc::Peer)));
});
