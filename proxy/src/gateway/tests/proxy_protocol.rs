//! PROXY protocol headers, complete, cut short and forged.

use proptest::prelude::*;

use super::*;

#[test]
fn version_1_names_the_client() {
    let v1 = |line: &str| source(line.as_bytes());
    assert_eq!(
        v1("PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n"),
        Ok(Some("203.0.113.7:4711".into()))
    );
    assert_eq!(
        v1("PROXY TCP6 2001:db8::1 ::1 4711 443\r\n"),
        Ok(Some("[2001:db8::1]:4711".into()))
    );
    assert_eq!(v1("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), Ok(Some("192.0.2.1:1".into())));
    assert_eq!(v1("PROXY UNKNOWN\r\n"), Ok(None));
    assert_eq!(v1("PROXY UNKNOWN ff::1 ff::2 1 2\r\n"), Ok(None));
}

#[test]
fn version_2_names_the_client_and_skips_the_rest() {
    let v4 = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187];
    assert_eq!(source(&v2(0x21, 0x11, &v4)), Ok(Some("203.0.113.7:4711".into())));
    let tlv = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
    assert_eq!(source(&v2(0x21, 0x11, &tlv)), Ok(Some("203.0.113.7:4711".into())));
    let mut v6 = [0_u8; 36];
    v6[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    v6[33] = 9;
    assert_eq!(source(&v2(0x21, 0x21, &v6)), Ok(Some("192.0.2.1:9".into())));
    assert_eq!(source(&v2(0x21, 0x00, &[])), Ok(None));
}

#[test]
fn a_health_check_of_the_balancer_is_local() {
    let Ok(Parsed::Done(header)) = parse(&v2(0x20, 0x11, &[0; 12])) else { panic!("not read") };
    assert_eq!((header.local, header.source, header.version), (true, None, PpVersion::V2));
}

#[test]
fn what_follows_the_header_is_left_alone() {
    let bytes = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n";
    let Ok(Parsed::Done(header)) = parse(bytes) else { panic!("not read") };
    assert_eq!(&bytes[header.consumed..], b"GET / HTTP/1.1\r\n");
    let bytes = [v2(0x21, 0x11, &[0; 12]), b"rest".to_vec()].concat();
    let Ok(Parsed::Done(header)) = parse(&bytes) else { panic!("not read") };
    assert_eq!(&bytes[header.consumed..], b"rest");
}

#[test]
fn attack_skips_the_mandatory_proxy_header() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"\r\n\r\nG", b"proxy TCP4"] {
        assert_eq!(parse(bytes), Err(PpError::Missing));
    }
}

#[test]
fn attack_sends_malformed_proxy_headers() {
    for line in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(PpError::Malformed), "{line:?}");
    }
    assert_eq!(parse(b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n"), Err(PpError::Unsupported));
    assert_eq!(parse(format!("PROXY TCP4 {}", "1".repeat(200)).as_bytes()), Err(PpError::TooLarge));
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 11])), Err(PpError::Malformed));
    assert_eq!(parse(&v2(0x21, 0x21, &[0; 35])), Err(PpError::Malformed));
    for (command, family) in [(0x11, 0x11), (0x22, 0x11), (0x21, 0x12), (0x21, 0x31), (0x21, 0xff)]
    {
        assert_eq!(parse(&v2(command, family, &[0; 216])), Err(PpError::Unsupported));
    }
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 5000])), Err(PpError::TooLarge));
}

proptest! {
    /// Every beginning of a header asks for more; the whole gives the same answer whatever follows.
    #[test]
    fn reading_is_incremental_and_monotone(
        ip in any::<IpAddr>(), port in any::<u16>(), binary in any::<bool>(), tail in any::<Vec<u8>>(),
    ) {
        let header = if binary { v2_of(ip, port) } else { v1_of(ip, port) };
        for end in 0..header.len() {
            prop_assert_eq!(parse(&header[..end]), Ok(Parsed::NeedMore));
        }
        let whole = parse(&header);
        let Ok(Parsed::Done(done)) = whole else { panic!("not read") };
        prop_assert_eq!(done.source, Some(SocketAddr::new(ip.to_canonical(), port)));
        prop_assert_eq!(done.consumed, header.len());
        prop_assert_eq!(parse(&[header, tail].concat()), whole);
    }

    /// Arbitrary bytes behind either start never panic, and never consume more than was read.
    #[test]
    fn hostile_bytes_are_judged(start in prop_oneof![Just(V1_START), Just(V2_START)], rest in any::<Vec<u8>>()) {
        let bytes = [start, &rest].concat();
        if let Ok(Parsed::Done(header)) = parse(&bytes) {
            prop_assert!(header.consumed <= bytes.len());
        }
    }
}

fn source(bytes: &[u8]) -> Result<Option<String>, PpError> {
    match parse(bytes)? {
        Parsed::Done(header) => Ok(header.source.map(|source| source.to_string())),
        Parsed::NeedMore => panic!("the header is complete"),
    }
}

fn v1_of(ip: IpAddr, port: u16) -> Vec<u8> {
    let family = if ip.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {ip} {ip} {port} 1\r\n").into_bytes()
}

fn v2_of(ip: IpAddr, port: u16) -> Vec<u8> {
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
    };
    let [high, low] = port.to_be_bytes();
    v2(0x21, family, &[octets.clone(), octets, vec![high, low, 0, 1]].concat())
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family, high, low], block].concat()
}
