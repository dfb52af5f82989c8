//! HTTP/1.1 over HTTP/2 and back: what the app sees is what the client sent.

use http::header::{CONTENT_LENGTH, HeaderName};
use http::{Request, Response};
use proptest::prelude::*;

use super::*;

#[test]
fn origin_form_travels_as_authority_and_comes_back() {
    let mut parts = request(Method::GET, "/x?y=1", &[("host", "a:8080"), ("accept", "*/*")]);
    to_h2(&mut parts, &authority(), AppSpeaks::AsClient).unwrap();
    assert_eq!(parts.version, Version::HTTP_2);
    assert_eq!(parts.uri, "http://a:8080/x?y=1");
    assert!(!parts.headers.contains_key(HOST));
    assert_eq!(parts.headers[HTTP1], "1.1");

    assert_eq!(receive(&mut parts), Ok(Restored::Http1));
    assert_eq!((parts.version, parts.uri.to_string().as_str()), (Version::HTTP_11, "/x?y=1"));
    assert_eq!(lines(&parts.headers), [("host", "a:8080"), ("accept", "*/*")]);
}

#[test]
fn absolute_form_and_asterisk_survive() {
    for (method, target) in
        [(Method::GET, "https://a:8080/x?y"), (Method::OPTIONS, "*"), (Method::POST, "/")]
    {
        let mut parts = request(method, target, &[("host", "a:8080")]);
        to_h2(&mut parts, &authority(), AppSpeaks::Http1).unwrap();
        receive(&mut parts).unwrap();
        assert_eq!(parts.uri.to_string(), target);
    }
}

#[test]
fn what_http2_cannot_carry_is_not_translated() {
    let mut connect = request(Method::CONNECT, "a:8080", &[("host", "a:8080")]);
    let mut upgrade =
        request(Method::GET, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
    let mut old = request(Method::GET, "/", &[]);
    old.version = Version::HTTP_10;
    for parts in [&mut connect, &mut upgrade, &mut old] {
        let refused = to_h2(parts, &authority(), AppSpeaks::Http1);
        assert_eq!(refused, Err(TranslateError::NotTranslatable));
    }
}

#[test]
fn the_gateway_decides_what_the_app_speaks() {
    let marked = |version, app| {
        let mut parts = request(Method::GET, "http://a:8080/", &[]);
        parts.version = version;
        to_h2(&mut parts, &authority(), app).unwrap();
        parts.headers.get(HTTP1).map(|mark| mark.to_str().unwrap().to_owned())
    };
    assert_eq!(marked(Version::HTTP_2, AppSpeaks::AsClient), None);
    assert_eq!(marked(Version::HTTP_2, AppSpeaks::Http1).as_deref(), Some("1.1"));
    assert_eq!(marked(Version::HTTP_11, AppSpeaks::Http2), None);
    assert_eq!(marked(Version::HTTP_11, AppSpeaks::AsClient).as_deref(), Some("1.1;absolute"));
}

#[test]
fn an_unmarked_request_stays_http2() {
    let mut parts = request(Method::POST, "http://a:8080/pkg.Svc/M", &[("te", "trailers")]);
    parts.version = Version::HTTP_2;
    assert_eq!(from_h2(&mut parts, &authority(), &Field::Absent), Ok(Restored::Http2));
    assert_eq!(parts.version, Version::HTTP_2);
    assert!(!parts.headers.contains_key(HOST));
}

#[test]
fn a_mark_that_cannot_be_read_is_refused() {
    for mark in ["", "1.0", "1.1;", "1.1; absolute", "1.1, 1.1", "1.1;reason=x"] {
        let mut parts = request(Method::GET, "http://a:8080/", &[]);
        let mark = Field::One(HeaderValue::from_static(mark));
        let refused = from_h2(&mut parts, &authority(), &mark);
        assert_eq!(refused, Err(TranslateError::MarkMalformed), "{mark:?}");
    }
    let mut parts = request(Method::GET, "http://a:8080/", &[]);
    let refused = from_h2(&mut parts, &authority(), &Field::Repeated);
    assert_eq!(refused, Err(TranslateError::MarkMalformed));
}

#[test]
fn expect_continue_ends_at_the_first_proxy() {
    let mut parts =
        request(Method::PUT, "/", &[("expect", "100-Continue"), ("content-length", "5")]);
    let sent = to_h2(&mut parts, &authority(), AppSpeaks::AsClient).unwrap();
    assert!(sent.expects_continue);
    receive(&mut parts).unwrap();
    assert!(!parts.headers.contains_key(EXPECT));
    assert_eq!(parts.headers[CONTENT_LENGTH], "5");
}

#[test]
fn te_is_announced_to_an_http1_app() {
    let mut parts = request(Method::GET, "/", &[("te", "trailers")]);
    to_h2(&mut parts, &authority(), AppSpeaks::AsClient).unwrap();
    receive(&mut parts).unwrap();
    assert_eq!(parts.headers[CONNECTION], "te");
}

#[test]
fn a_reason_phrase_comes_back_if_printable() {
    let travel = |reason: &'static [u8]| {
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.extensions.insert(ReasonPhrase::try_from(reason).unwrap());
        response_to_h2(&mut parts);
        assert_eq!(parts.version, Version::HTTP_2);
        let mark = parts.headers.remove(HTTP1).map_or(Field::Absent, Field::One);
        response_from_h2(&mut parts, &mark);
        assert_eq!(parts.version, Version::HTTP_11);
        parts.extensions.get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
    };
    assert_eq!(travel(b"All, \"fine\"; 100%").as_deref(), Some(&b"All, \"fine\"; 100%"[..]));
    assert_eq!(travel(b"Gr\xfc\xdfe"), None);
    assert_eq!(travel(b""), None);
    assert_eq!(travel(&[b'x'; 600]), None);
}

#[test]
fn attack_peer_writes_a_line_end_into_the_reason() {
    for mark in ["1.1;reason=a%0D%0AX:%20y", "1.1;reason=%", "1.1;reason=%zz", "1.1;reason=", "x"] {
        let (mut parts, ()) = Response::new(()).into_parts();
        response_from_h2(&mut parts, &Field::One(HeaderValue::from_static(mark)));
        assert!(parts.extensions.get::<ReasonPhrase>().is_none(), "{mark}");
    }
}

proptest! {
    /// A cleaned HTTP/1.1 request arrives as it was sent: method, target, one `Host` in front,
    /// every field in order, cookies on one line.
    #[test]
    fn translation_round_trip(
        method in prop_oneof![Just("GET"), Just("POST"), Just("PURGE")],
        absolute in any::<bool>(),
        path in "/[a-z0-9/%~.]{0,20}(\\?[a-z0-9=&%]{0,10})?",
        fields in proptest::collection::vec(("(x-[a-z]{1,5}|cookie|accept)", "[!-~]{1,10}"), 0..8),
    ) {
        let target = if absolute { format!("http://a:8080{path}") } else { path };
        let mut sent: Vec<(&str, &str)> = vec![("host", "a:8080")];
        sent.extend(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut parts = request(Method::from_bytes(method.as_bytes()).unwrap(), &target, &sent);
        let before = parts.uri.to_string();
        let mut expected = parts.headers.clone();
        join_cookies(&mut expected);

        to_h2(&mut parts, &authority(), AppSpeaks::AsClient).unwrap();
        receive(&mut parts).unwrap();
        prop_assert_eq!(parts.method.as_str(), method);
        prop_assert_eq!(parts.uri.to_string(), before);
        prop_assert_eq!(parts.version, Version::HTTP_11);
        prop_assert_eq!(parts.headers.iter().next().unwrap().0, HOST);
        prop_assert_eq!(&parts.headers, &expected);
    }
}

/// What the receiving proxy does: hygiene hands the mark over, then the request is restored.
fn receive(parts: &mut request::Parts) -> Result<Restored, TranslateError> {
    let mark = parts.headers.remove(HTTP1).map_or(Field::Absent, Field::One);
    from_h2(parts, &authority(), &mark)
}

fn authority() -> Authority {
    Authority::from_static("a:8080")
}

fn request(method: Method, target: &str, fields: &[(&str, &str)]) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = target.parse().unwrap();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        parts.headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    parts
}

fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}
