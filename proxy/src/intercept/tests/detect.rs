//! Every protocol at every cut, and monotony for any bytes.

use proptest::prelude::*;

use super::*;

/// The first record of a ClientHello; only its first bytes matter here.
fn hello(length: u16) -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01];
    hello.extend(length.to_be_bytes());
    hello.extend([0x01, 0x00]);
    hello.resize(5 + usize::from(length), 0xab);
    hello
}

/// What nginx, Node, Python or Go take for a request beyond the grammar.
const SERVED: [&str; 20] = [
    "\rGET /x HTTP/1.1\r\n",
    "\r\r\n\rGET /x HTTP/1.1\n",
    " GET /x HTTP/1.1\r\n",
    "\t \r\n GET /x HTTP/1.1\r\n",
    "\x0bGET\x0b/x\x0cHTTP/1.1\x1d\r\n",
    "GET\rx\rHTTP/1.1\r\n",
    "GET \t x\t  HTTP/1.1\t\r\n",
    "GET /x HTTP/1.01\r\n",
    "GET x HTTP/1.10\r\n",
    "GET x HTTP/0001.0000000000001\r\n",
    "GET /\0 HTTP/1.1\r\n",
    "GET x\x01 HTTP/1.1\r\n",
    "GET http://a/b c HTTP/1.1\r\n",
    "GET http://a/\u{e0}b HTTP/1.1\r\n",
    "GET /x RTSP/1.0\r\n",
    "GET rtsp://a/x RTSP/1.0\r\n",
    "OPTIONS * rtsp/1.0\r\n",
    "SOURCE /x ICE/1.0\r\n",
    "GET /x\r\n",
    "GET x\r\n",
];

/// First bytes and what they are.
fn samples() -> Vec<(Vec<u8>, Detected)> {
    let mut samples = vec![(hello(300), Detected::Tls), (hello(1_800), Detected::Tls)];
    for http1 in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "\r\nPOST /a/b?c=d HTTP/1.1\r\n",
        "\n\r\nGET / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT db.shop:5432 HTTP/1.1\r\n",
        "GET http://orders.shop/ HTTP/1.1\r\n",
        "PRI / HTTP/1.1\r\n",
        "PRI * HTTP/1.1\r\n",
        "P /a HTTP/1.1\r\n",
        // Not for us to pass on: the parser refuses these.
        "GET  /two-spaces HTTP/1.1\r\n",
        "GET\t/tab HTTP/1.1\r\n",
        "GET /a b HTTP/1.1\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        "GET / http/1.1\r\n",
        "GET / HTTP/3.0\r\n",
        "PRI * HTTP/2.0\r\nX",
    ] {
        samples.push((http1.as_bytes().to_vec(), Detected::Http1));
    }
    samples.extend(SERVED.map(|http1| (http1.as_bytes().to_vec(), Detected::Http1)));
    samples.push((b"\xa0GET\xa0x\x85HTTP/1.1\xa0\r\n".to_vec(), Detected::Http1));
    samples.push((PREFACE.to_vec(), Detected::Http2));
    let mut h2 = PREFACE.to_vec();
    h2.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    h2.resize(80, 0);
    samples.push((h2, Detected::Http2));
    for opaque in [
        b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice(), // PostgreSQL, SSLRequest
        b"\0\0\0\x29\0\x03\0\0user\0app\0",       // PostgreSQL, StartupMessage
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"get key\r\n",
        b"SET key value\r\n",
        b"SET key\r\n",
        b"GET two keys\r\n",
        b"REQMOD icap://a/b ICAP/1.0\r\n",
        b"10.0.0.7 - - [21/Nov/2026] \"GET / HTTP/1.1\" 200 12\n",
        b" \t\r\0",
        b"EHLO client.example\r\n",
        b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n",
        b"INVITE sip:bob@example.org SIP/2.0\r\n",
        b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
        b"AMQP\0\0\x09\x01",
        b"\x10\x1a\0\x04MQTT",
        b"\x16\x03\x01\0\0\x01", // a record of no length
        b"\x16\x03\x01\x01\0\x02",
        b"\x16\x04\x01\x01\0\x01",
        b"\x80\x2e\x01\x03\x01",
        b"<stream:stream to='a'>",
        b"GET / HTTP/1.1\rHost: a\r\n",
    ] {
        samples.push((opaque.to_vec(), Detected::Opaque));
    }
    samples
}

#[test]
fn every_sample_is_what_it_is() {
    for (bytes, expected) in samples() {
        assert_eq!(detect(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
        assert_eq!(settle(&bytes), expected);
    }
}

/// The first 64 bytes in two pieces, wherever they are cut: the first piece alone never gives
/// another answer, and what a reader sees byte by byte ends the same.
#[test]
fn every_split_of_the_first_64_bytes() {
    for (bytes, expected) in samples() {
        let head = bytes.get(..64).unwrap_or(&bytes);
        for cut in 0..=head.len() {
            let first = detect(&head[..cut]);
            assert!(
                first == Detected::NeedMore || first == expected,
                "{first:?} at {cut} of {:?}",
                String::from_utf8_lossy(head)
            );
        }
        assert_eq!(detect(head), expected);
    }
}

#[test]
fn an_opaque_protocol_is_known_by_its_first_line_at_the_latest() {
    for (bytes, _) in samples().into_iter().filter(|(_, what)| *what == Detected::Opaque) {
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            assert_eq!(detect(&bytes[..=end]), Detected::Opaque);
        }
    }
}

#[test]
fn what_is_cut_short_goes_where_it_is_refused() {
    for (bytes, expected) in [
        (b"".as_slice(), Detected::Opaque),
        (b"PR", Detected::Opaque),
        (b"PRI ", Detected::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM", Detected::Http2),
        (b"GET", Detected::Opaque),
        (b"GET /", Detected::Http1),
        (b"GET /a%20b", Detected::Http1),
        (b"GET / HTTP/1.", Detected::Http1),
        (b"\r\nGET /a", Detected::Http1),
        (b"GET key", Detected::Opaque),
        (b"\x16\x03\x01", Detected::Opaque),
        (b"\r", Detected::Opaque),
        (b" \r\n\t GET /a", Detected::Http1),
        (b"0032git-upload-pack /project.git\0host=a\0", Detected::Opaque),
    ] {
        assert_eq!(settle(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
    let long = [b"GET /".as_slice(), &vec![b'a'; 16 * 1024]].concat();
    assert_eq!(settle(&long), Detected::Http1, "the parser answers 414");
}

#[test]
fn nothing_that_fills_the_buffer_goes_around_the_parser() {
    for (begin, filler) in [
        ("", "\r\n"),
        ("", " "),
        ("GET http://a/", "a"),
        ("GET x ", " "),
        ("", "a"),
        ("GET /\0", "a"),
    ] {
        let long = [begin, &filler.repeat(16 * 1024)].concat();
        assert_eq!(overflow(long.as_bytes()), Detected::Http1, "{begin:?} {filler:?}");
    }
    for (bytes, expected) in samples() {
        assert_eq!(overflow(&bytes), expected);
    }
    assert_eq!(overflow(b"\x16\x03"), Detected::Opaque);
}

#[test]
fn tls_is_told_from_the_first_bytes_alone() {
    assert_eq!(is_tls(b""), None);
    assert_eq!(is_tls(b"\x16"), None);
    assert_eq!(is_tls(&hello(300)), Some(true));
    assert_eq!(is_tls(b"G"), Some(false));
    assert_eq!(is_tls(b"\x16\x05"), Some(false));
}

#[test]
fn fuzz_corpus_replays() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/detect");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let known = detect(&bytes);
        for end in 0..bytes.len() {
            let before = detect(&bytes[..end]);
            assert!(before == Detected::NeedMore || before == known);
        }
        assert_ne!(settle(&bytes), Detected::NeedMore);
        seen += 1;
    }
    assert!(seen > 0, "the corpus is missing");
}

/// Bytes near the grammars, where the corners are.
fn near() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET".to_vec()),
        Just(b"PRI * HTTP/2.0\r\n\r\n".to_vec()),
        Just(b"SM\r\n\r\n".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\t".to_vec()),
        Just(vec![0xa0]),
        Just(b"http://a".to_vec()),
        Just(b"HTTP/".to_vec()),
        Just(b"1.01".to_vec()),
        Just(b"RTSP/1.0".to_vec()),
        Just(b"/".to_vec()),
        Just(b"HTTP/1.1".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(vec![0x16, 0x03, 0x01]),
        Just(vec![0x01, 0x00, 0x01]),
        prop::collection::vec(any::<u8>(), 0..4),
        "[ -~]{0,6}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn an_answer_never_changes(bytes in near(), more in near()) {
        let whole = [bytes.as_slice(), &more].concat();
        let mut known = Detected::NeedMore;
        for end in 0..=whole.len() {
            let now = detect(&whole[..end]);
            if known != Detected::NeedMore {
                prop_assert_eq!(now, known);
            }
            known = now;
        }
    }

    /// Blanks and digits that some server overlooks change nothing.
    #[test]
    fn what_servers_overlook_changes_nothing(
        before in "[\r\n\t ]{0,6}",
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}",
        target in "[!-~]{1,40}",
        between in "[\t ]{1,4}",
        version in "(HTTP|http)/[0-9]{1,4}[.][0-9]{1,4}",
        blanks in "[\t ]{0,3}",
        end in prop_oneof![Just("\r\n"), Just("\n")],
    ) {
        let line = format!("{before}{method}{between}{target}{between}{version}{blanks}{end}");
        prop_assert_eq!(detect(line.as_bytes()), Detected::Http1, "{}", line);
    }

    /// Whatever the HTTP/1 parser would take as a request is never passed on as opaque bytes.
    #[test]
    fn what_the_parser_accepts_is_never_opaque(
        blank in prop_oneof![Just(""), Just("\r\n"), Just("\n")],
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}",
        target in "[!-~]{1,40}",
        version in prop_oneof![Just("HTTP/1.0"), Just("HTTP/1.1")],
        end in prop_oneof![Just("\r\n"), Just("\n")],
    ) {
        let line = format!("{blank}{method} {target} {version}{end}Host: a{end}{end}");
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let mut request = httparse::Request::new(&mut fields);
        if request.parse(line.as_bytes()).is_ok_and(|status| status.is_complete()) {
            prop_assert_eq!(detect(line.as_bytes()), Detected::Http1, "{}", line);
        }
    }
}
