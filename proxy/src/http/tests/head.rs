//! The head check on bytes: what passes, what is refused and why, in every fragmentation.

use proptest::prelude::*;

use super::*;

const ID: &str = "01JD2MX1Q0A7B8C9D0E1F2G3H4";
const OK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn accepts_what_honest_clients_send() {
    for stream in [
        OK,
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "GET http://a/x?y=%20 HTTP/1.1\r\nHost: a\r\nX: \t v \u{fc} \t\r\nEmpty:\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
         5;a=\"b\"\r\nhel\nl\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut check = HeadCheck::new(HeadLimits::default());
        assert_eq!(check.feed(stream.as_bytes()), Ok(()), "{stream:?}");
        assert_eq!(check.phase(), Phase::Idle, "{stream:?}");
        assert!(check.partial.capacity() == 0, "idle connections hold no buffer");
    }
}

#[test]
fn every_refusal_has_a_stream_that_causes_it() {
    let cases = [line_cases(), framing_cases(), chunk_cases()].concat();
    for (error, stream) in &cases {
        assert_eq!(outcome(stream.as_bytes(), &[]).err(), Some(*error), "{stream:.120?}");
    }
    for error in HeadError::ALL.into_iter().filter(|error| *error != HeadError::HeadTimeout) {
        assert!(cases.iter().any(|(caused, _)| *caused == error), "{error:?} has no case");
    }
}

#[test]
fn attack_smuggles_with_length_and_chunked() {
    let stream = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                  0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(outcome(stream.as_bytes(), &[]), Err(HeadError::LengthAndCoding));
}

#[test]
fn attack_smuggles_with_two_lengths() {
    assert_eq!(
        outcome(field("Content-Length: 5\r\nContent-Length: 40").as_bytes(), &[]),
        Err(HeadError::LengthDuplicated)
    );
}

#[test]
fn attack_repeats_equal_content_length() {
    assert_eq!(
        outcome(field("Content-Length: 5\r\ncontent-length: 5").as_bytes(), &[]),
        Err(HeadError::LengthDuplicated)
    );
}

#[test]
fn attack_smuggles_with_bare_line_feed() {
    for stream in [
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(outcome(stream.as_bytes(), &[]), Err(HeadError::BareLineFeed));
    }
}

#[test]
fn attack_hides_a_bad_head_behind_a_good_one() {
    let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let stream = format!("{good}{}", field("Content-Length: 5\r\nContent-Length: 5"));
    let mut check = HeadCheck::new(HeadLimits::default());
    let violation = check.feed(stream.as_bytes()).unwrap_err();
    let expected = Violation {
        error: HeadError::LengthDuplicated,
        complete: good.len(),
        place: Place::LaterHead,
    };
    assert_eq!(violation, expected);
}

#[test]
fn a_body_is_not_read_as_heads() {
    let body = "GET / HTTP/1.1\nContent-Length: x\r\n\r\n";
    let stream =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(outcome(stream.as_bytes(), &[]), Ok((1, Phase::Idle)));
}

#[test]
fn stop_ends_the_check_for_good() {
    let mut check = HeadCheck::new(HeadLimits::default());
    check.feed(OK.as_bytes()).unwrap();
    check.stop();
    assert_eq!(check.feed(b"\x81\x05hello\n\0"), Ok(()));
    assert_eq!(check.phase(), Phase::Stopped);
}

#[test]
fn a_failed_check_stays_failed() {
    let mut check = HeadCheck::new(HeadLimits::default());
    check.feed(b"\n").unwrap_err();
    assert_eq!(check.feed(OK.as_bytes()).unwrap_err().error, HeadError::BareLineFeed);
}

#[test]
fn place_says_what_the_parser_has_seen() {
    let place = |pieces: &[&str]| {
        let mut check = HeadCheck::new(HeadLimits::default());
        pieces.iter().find_map(|piece| check.feed(piece.as_bytes()).err()).unwrap().place
    };
    assert_eq!(place(&["GET / HTTP/1.1\r\n", "\0: a\r\n\r\n"]), Place::FirstHead);
    assert_eq!(place(&[OK, "GET / HTTP/1.1\r\n", "\0: a\r\n\r\n"]), Place::LaterHead);
    assert_eq!(place(&[&chunked(""), "x\r\n"]), Place::Body);
    assert_eq!(place(&[&chunked("x\r\n")]), Place::FirstHead);
    assert_eq!(place(&[OK, &chunked("x\r\n")]), Place::LaterHead);
}

#[test]
fn refusals_have_distinct_reasons_and_codes() {
    let reasons: std::collections::HashSet<_> = HeadError::ALL.iter().map(|e| e.reason()).collect();
    assert_eq!(reasons.len(), HeadError::ALL.len());
    for error in HeadError::ALL {
        assert_eq!(HeadError::from_code(error as u8), Some(error));
    }
    assert_eq!(HeadError::from_code(0), None);
    let bytes = refusal_bytes(HeadError::BareLineFeed, Some(ID.parse().unwrap()));
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        format!(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
             countersign-decision: {ID}\r\n\r\n"
        )
    );
}

proptest! {
    /// Every fragmentation of well-formed, mutated and arbitrary streams gives the same answer.
    #[test]
    fn every_fragmentation_gives_the_same_answer(
        stream in streams(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        let whole = outcome(&stream, &[]);
        prop_assert_eq!(&whole, &outcome(&stream, &cuts));
        let every: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&whole, &outcome(&stream, &every));
    }

    /// What the check accepts as a head, the parser reads as exactly one head of that length.
    #[test]
    fn an_accepted_head_is_one_head_for_the_parser(stream in streams()) {
        let mut check = HeadCheck::new(HeadLimits::default());
        let end = (0..stream.len()).find(|at| {
            check.feed(&stream[*at..=*at]).is_err() || check.heads() == 1
        });
        if let Some(end) = end && check.heads() == 1 {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut request = httparse::Request::new(&mut headers);
            prop_assert_eq!(request.parse(&stream), Ok(httparse::Status::Complete(end + 1)));
        }
    }
}

/// Request lines, fields and sizes.
fn line_cases() -> Vec<(HeadError, String)> {
    use HeadError as E;
    let many = "A: b\r\n".repeat(101);
    vec![
        (E::BareLineFeed, "GET / HTTP/1.1\nHost: a\n\n".into()),
        (E::BareLineFeed, "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n".into()),
        (E::BareLineFeed, "\nGET / HTTP/1.1\r\n\r\n".into()),
        (E::ControlByte, field("X: a\0b")),
        (E::ControlByte, field("X: a\rb")),
        (E::ControlByte, field("X\u{7f}: a")),
        (E::ControlByte, "GET /\t HTTP/1.1\r\n\r\n".into()),
        (E::FoldedLine, field("X: a\r\n b")),
        (E::FoldedLine, "GET / HTTP/1.1\r\n\tHost: a\r\n\r\n".into()),
        (E::FragmentInTarget, "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        (E::HeaderMalformed, field("no colon")),
        (E::HeaderMalformed, field(": empty")),
        (E::HeaderMalformed, field("a b: c")),
        (E::HeaderMalformed, field("Content-Length\u{e9}: 5")),
        (E::HeaderValueTooLarge, field(&format!("X: {}", long(16 * 1024 + 1)))),
        (
            E::HeadTooLarge,
            format!("GET / HTTP/1.1\r\n{}", format!("X: {}\r\n", long(8000)).repeat(9)),
        ),
        (E::HeadTooLarge, long(70_000)),
        (E::RequestLineMalformed, "GET  / HTTP/1.1\r\n\r\n".into()),
        (E::RequestLineMalformed, "GET / HTTP/1.1 \r\n\r\n".into()),
        (E::RequestLineMalformed, " GET / HTTP/1.1\r\n\r\n".into()),
        (E::RequestLineMalformed, "GET /\r\n\r\n".into()),
        (E::RequestLineMalformed, "GET /\u{e9} HTTP/1.1\r\n\r\n".into()),
        (E::RequestLineMalformed, "G(T / HTTP/1.1\r\n\r\n".into()),
        (E::RequestLineMalformed, "GET / ICAP/1.1\r\n\r\n".into()),
        (E::RequestLineMalformed, "\r\n\r\nGET / HTTP/1.1\r\n\r\n".into()),
        (E::SpaceBeforeColon, field("Content-Length : 5")),
        (E::SpaceBeforeColon, field("Transfer-Encoding\t: chunked")),
        (E::TargetTooLong, format!("GET /{} HTTP/1.1\r\n\r\n", long(16 * 1024))),
        (E::TooManyHeaders, format!("GET / HTTP/1.1\r\n{many}\r\n")),
        (E::VersionUnsupported, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (E::VersionUnsupported, "GET / HTTP/1.2\r\n\r\n".into()),
    ]
}

/// What says how long a body is.
fn framing_cases() -> Vec<(HeadError, String)> {
    use HeadError as E;
    vec![
        (E::BodyOnConnect, "CONNECT a:1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n".into()),
        (E::BodyOnConnect, "CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
        (E::CodingInHttp10, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
        (E::CodingUnsupported, field("Transfer-Encoding: gzip, chunked")),
        (E::CodingUnsupported, field("Transfer-Encoding: chunked, identity")),
        (E::CodingUnsupported, field("Transfer-Encoding:")),
        (E::CodingUnsupported, field("Transfer-Encoding: xchunked")),
        (E::CodingUnsupported, field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
        (E::FramingLookalike, field("Content_Length: 5")),
        (E::FramingLookalike, field("transfer_encoding: chunked")),
        (E::LengthAndCoding, field("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        (E::LengthAndCoding, field("Transfer-Encoding: chunked\r\nContent-Length: 5")),
        (E::LengthDuplicated, field("Content-Length: 5\r\nContent-Length: 5")),
        (E::LengthDuplicated, field("Content-Length: 5, 5")),
        (E::LengthMalformed, field("Content-Length: +5")),
        (E::LengthMalformed, field("Content-Length: -5")),
        (E::LengthMalformed, field("Content-Length: 0x5")),
        (E::LengthMalformed, field("Content-Length:")),
        (E::LengthMalformed, field("Content-Length: 5 5")),
        (E::LengthMalformed, field("Content-Length: 18446744073709551616")),
    ]
}

/// Chunk lines and trailers.
fn chunk_cases() -> Vec<(HeadError, String)> {
    use HeadError as E;
    vec![
        (E::BareLineFeed, chunked("5\nhello\r\n0\r\n\r\n")),
        (E::BareLineFeed, chunked("5\r\nhello\n0\r\n\r\n")),
        (E::BareLineFeed, chunked("5;a\nx\r\nhello\r\n")),
        (E::ChunkMalformed, chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked("+5\r\nhello\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked(" 5\r\nhello\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked("5 ;a\r\nhello\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked("\r\nhello\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked("5\r\nhelloX\r\n0\r\n\r\n")),
        (E::ChunkMalformed, chunked("10000000000000000\r\n")),
        (E::ChunkExtensionsTooLarge, chunked(&format!("5;{}\r\n", long(1100)))),
        (E::ChunkExtensionsTooLarge, chunked(&format!("1;{}\r\nx\r\n", long(1000)).repeat(9))),
        (E::ControlByte, chunked("5;a\rb\r\nhello\r\n")),
        (E::TrailerForbidden, chunked("0\r\nContent-Length: 5\r\n\r\n")),
        (E::TrailerForbidden, chunked("0\r\nHost: b\r\n\r\n")),
        (
            E::TrailersTooLarge,
            chunked(&format!("0\r\n{}", format!("X: {}\r\n", long(4000)).repeat(5))),
        ),
    ]
}

fn long(n: usize) -> String {
    "a".repeat(n)
}

/// Streams of requests, some of them damaged by a byte or two.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Host: a\r\n".to_owned()),
        Just("Content-Length: 3\r\n".to_owned()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        "[A-Za-z_-]{1,9}: [ -~]{0,20}\r\n",
    ];
    let head = (
        prop_oneof![
            Just("GET / HTTP/1.1\r\n"),
            Just("POST /a?b HTTP/1.1\r\n"),
            Just("PUT / HTTP/1.0\r\n")
        ],
        proptest::collection::vec(line, 0..4),
        prop_oneof![
            Just(""),
            Just("abc"),
            Just("3\r\nabc\r\n0\r\n\r\n"),
            Just("2;x\r\nab\r\n0\r\nT: v\r\n\r\n")
        ],
    )
        .prop_map(|(first, lines, body)| {
            format!("{first}{}\r\n{body}", lines.concat()).into_bytes()
        });
    let damage = proptest::collection::vec(
        (
            any::<proptest::sample::Index>(),
            prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(0_u8), any::<u8>()],
        ),
        0..3,
    );
    (proptest::collection::vec(head, 1..4), damage).prop_map(|(heads, damage)| {
        let mut stream = heads.concat();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream
    })
}

/// The answer to a stream cut at the given places: messages and phase, or the refusal.
fn outcome(stream: &[u8], cuts: &[usize]) -> Result<(u64, Phase), HeadError> {
    let mut check = HeadCheck::new(HeadLimits::default());
    let mut cuts: Vec<usize> = cuts.iter().copied().chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        check.feed(&stream[pair[0]..pair[1]]).map_err(|violation| violation.error)?;
    }
    Ok((check.messages(), check.phase()))
}

fn field(line: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")
}

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}
