//! Hygiene on header maps: what each direction reads, drops, keeps and refuses.

use http::header::{CONNECTION, TE, UPGRADE};
use http::{HeaderName, Request, Response};
use proptest::prelude::*;

use super::*;

#[test]
fn attack_sends_forged_context_headers_to_the_gateway() {
    let mut parts = request(&[
        ("txn-token", "a.b.c"),
        ("countersign-user", "root"),
        ("countersign-user", "admin"),
        ("countersign-hops", "x"),
        ("countersign-decision", "x"),
        ("countersign-justification", "ticket=SUP-1"),
    ]);
    let clean = gateway_request(&mut parts).unwrap();
    assert_eq!(clean.presented.dropped, 5);
    assert_eq!(clean.presented.txn_token, Field::Absent);
    assert_eq!(clean.presented.justification, one("ticket=SUP-1"));
    assert_eq!(names(&parts.headers), ["host"]);
}

#[test]
fn attack_spells_reserved_names_with_underscore_and_case() {
    let spellings =
        ["Txn_Token", "TXN-TOKEN", "countersign_user", "CounterSign-User", "Countersign_-x"];
    for spelling in spellings {
        let mut parts = request(&[(spelling, "x")]);
        outbound_request(&mut parts).unwrap();
        assert_eq!(names(&parts.headers), ["host"], "{spelling}");
    }
    let mut parts = request(&[("txn-token", "a.b.c"), ("txn_token", "x.y.z")]);
    let clean = inbound_request(&mut parts, Sender::Mesh).unwrap();
    assert_eq!(clean.presented.txn_token, one("a.b.c"), "a look-alike is never the token");
    assert_eq!(clean.presented.dropped, 1);
}

#[test]
fn attack_hides_reserved_names_in_trailers() {
    let mut trailers = map(&[
        ("txn-token", "x"),
        ("countersign_user", "root"),
        ("host", "b"),
        ("content-length", "1"),
        ("x-forwarded-for", "1.2.3.4"),
        ("authorization", "x"),
        ("grpc-status", "0"),
    ]);
    assert_eq!(clean_trailers(&mut trailers, 1024), Ok(6));
    assert_eq!(names(&trailers), ["grpc-status"]);
    let mut large = map(&[("x", &"v".repeat(1024))]);
    assert_eq!(clean_trailers(&mut large, 1024), Err(HygieneError::TrailersTooLarge));
}

#[test]
fn attack_nominates_our_headers_in_connection() {
    for nominated in [
        "countersign-user",
        "close, Txn_Token",
        "Host",
        "content-length",
        "X-Forwarded-For",
        "authorization",
        "\"x",
    ] {
        type Clean = fn(&mut request::Parts) -> Result<CleanRequest, HygieneError>;
        let directions: [Clean; 3] =
            [gateway_request, outbound_request, |parts| inbound_request(parts, Sender::Mesh)];
        for clean in directions {
            let mut parts = request(&[("connection", nominated)]);
            assert_eq!(
                clean(&mut parts).unwrap_err(),
                HygieneError::HeaderForbidden,
                "{nominated}"
            );
        }
    }
}

#[test]
fn attack_sends_two_txn_tokens() {
    let mut parts = request(&[("txn-token", "a.b.c"), ("txn-token", "a.b.c")]);
    let clean = inbound_request(&mut parts, Sender::Mesh).unwrap();
    assert_eq!(clean.presented.token(), Err(HygieneError::TokenDuplicated));
}

#[test]
fn attack_joins_tokens_with_a_comma() {
    let mut parts = request(&[("txn-token", "a.b.c,d.e.f")]);
    let clean = inbound_request(&mut parts, Sender::Mesh).unwrap();
    assert_eq!(clean.presented.token(), Err(HygieneError::TokenDuplicated));
}

#[test]
fn a_token_in_two_fields_is_put_together_for_a_mesh_peer_only() {
    let sent = [("countersign-token-header", "a"), ("txn-token", ".b.c")];
    let clean = inbound_request(&mut request(&sent), Sender::Mesh).unwrap().presented;
    assert_eq!(clean.token(), Ok(Some(&HeaderValue::from_static("a.b.c"))));
    assert_eq!((clean.in_parts, clean.token_header, clean.dropped), (true, Field::Absent, 0));
    let clean = inbound_request(&mut request(&sent), Sender::Unauthenticated).unwrap().presented;
    assert_eq!((clean.txn_token, clean.in_parts, clean.dropped), (one(".b.c"), false, 1));
    let clean = outbound_request(&mut request(&sent)).unwrap().presented;
    assert_eq!((clean.txn_token, clean.in_parts, clean.dropped), (one(".b.c"), false, 1));
    let clean = gateway_request(&mut request(&sent)).unwrap().presented;
    assert_eq!((clean.txn_token, clean.in_parts, clean.dropped), (Field::Absent, false, 2));
}

#[test]
fn attack_sends_half_a_token() {
    const HEADER: &str = "countersign-token-header";
    for sent in [
        &[(HEADER, "a")][..],
        &[(HEADER, "a"), ("txn-token", "a.b.c")],
        &[(HEADER, "a"), (HEADER, "a"), ("txn-token", ".b.c")],
        &[(HEADER, "a"), ("txn-token", ".b.c"), ("txn-token", ".b.c")],
        &[(HEADER, "a"), ("txn-token", ".b.c,.b.c")],
        &[(HEADER, "a.b"), ("txn-token", ".c")],
        &[(HEADER, ""), ("txn-token", ".b.c")],
    ] {
        let refused = inbound_request(&mut request(sent), Sender::Mesh).unwrap_err();
        assert_eq!(refused, HygieneError::TokenParts, "{sent:?}");
    }
}

#[test]
fn attack_app_sets_countersign_headers_outbound() {
    let mut parts = request(&[
        ("countersign-hops", "x"),
        ("countersign-certs", "x"),
        ("countersign-http1", "1.1"),
        ("countersign-user", "root"),
        ("countersign-context", "handle"),
        ("x-forwarded-client-cert", "By=x"),
        ("x-forwarded-for", "10.0.0.1"),
    ]);
    let clean = outbound_request(&mut parts).unwrap();
    assert_eq!(clean.presented.dropped, 4);
    assert_eq!(clean.presented.handle, one("handle"));
    assert_eq!(names(&parts.headers), ["host", "x-forwarded-for"]);
}

#[test]
fn attack_sends_client_cert_header_from_outside() {
    let mut parts = request(&[
        ("x-forwarded-client-cert", "x"),
        ("X_Forwarded_Client_Cert", "x"),
        ("client-cert", "x"),
        ("client-cert-chain", "x"),
    ]);
    gateway_request(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["host"]);
}

#[test]
fn attack_sends_mesh_only_headers_from_a_plain_client() {
    let sent = [
        ("countersign-http1", "1.1;absolute"),
        ("countersign-hops", "x"),
        ("countersign-certs", "x"),
        ("txn-token", "a.b.c"),
    ];
    let clean = inbound_request(&mut request(&sent), Sender::Unauthenticated).unwrap();
    assert_eq!(clean.presented.dropped, 3);
    assert_eq!(clean.presented.txn_token, one("a.b.c"), "kept only to be refused by its name");
    let clean = inbound_request(&mut request(&sent), Sender::Mesh).unwrap();
    assert_eq!(clean.presented.dropped, 0);
    assert_eq!(clean.presented.http1, one("1.1;absolute"));
}

#[test]
fn attack_overrides_the_method_by_header() {
    let mut parts = request(&[
        ("x-http-method-override", "DELETE"),
        ("X_HTTP_Method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
    ]);
    outbound_request(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["host"]);
}

#[test]
fn attack_lowers_the_case_of_a_method() {
    for method in ["get", "Delete", "pOST"] {
        let mut parts = request(&[]);
        parts.method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(check_request(&parts), Err(HygieneError::MethodCase), "{method}");
    }
    let mut parts = request(&[]);
    parts.method = Method::from_bytes(b"purge").unwrap();
    assert!(check_request(&parts).is_ok(), "not a standard method");
}

#[test]
fn attack_sends_host_unlike_authority() {
    let h2 = |uri: &str, host: Option<&str>| target(uri, host, Version::HTTP_2);
    assert_eq!(h2("https://a/x", Some("b")), Err(HygieneError::AuthorityMismatch));
    assert_eq!(h2("https://a/x", Some("a:443")), Err(HygieneError::AuthorityMismatch));
    assert_eq!(h2("https://a/x", Some("A")).unwrap().as_str(), "A");
    assert_eq!(h2("https://a/x", None).unwrap().as_str(), "a");
    assert_eq!(h2("/x", None), Err(HygieneError::HostMissing));
    assert_eq!(h2("ftp://a/x", None), Err(HygieneError::SchemeUnsupported));
}

#[test]
fn attack_uses_absolute_form_with_other_host() {
    let h1 = |uri: &str, host: Option<&str>| target(uri, host, Version::HTTP_11);
    assert_eq!(h1("http://b/x", Some("a")), Err(HygieneError::AuthorityMismatch));
    assert_eq!(h1("http://a/x", None), Err(HygieneError::HostMissing));
    assert_eq!(h1("http://u:p@a/x", Some("a")), Err(HygieneError::UserinfoPresent));
    assert_eq!(h1("/x", Some("u@a")), Err(HygieneError::UserinfoPresent));
    assert_eq!(h1("http://a:80/x", Some("a:80")).unwrap().as_str(), "a:80");
}

#[test]
fn attack_sends_no_or_two_or_malformed_hosts() {
    let mut parts = request(&[("host", "a")]);
    assert_eq!(check_request(&parts), Err(HygieneError::HostRepeated));
    parts.headers.remove(HOST);
    assert_eq!(check_request(&parts), Err(HygieneError::HostMissing));
    for host in
        ["", "a b", "a/b", "a?b", "a:b", "a:99999", "a:", ":80", "a%2eb", "[::1", "a,b", "h\u{f6}"]
    {
        let found = target("/x", Some(host), Version::HTTP_11);
        assert_eq!(found, Err(HygieneError::HostMalformed), "{host:?}");
    }
    for host in ["a", "a.b.", "a:1", "127.0.0.1:80", "[::1]", "[::1]:80"] {
        assert!(target("/x", Some(host), Version::HTTP_11).is_ok(), "{host:?}");
    }
}

#[test]
fn attack_smuggles_a_second_length_over_http2() {
    for lengths in [&["5", "5"][..], &["5, 5"], &["+5"], &[""]] {
        let mut parts = request(&[]);
        for length in lengths {
            parts.headers.append(CONTENT_LENGTH, HeaderValue::from_str(length).unwrap());
        }
        let refused = inbound_request(&mut parts, Sender::Mesh).unwrap_err();
        assert_eq!(refused, HygieneError::LengthAmbiguous, "{lengths:?}");
    }
}

#[test]
fn attack_app_returns_reserved_headers() {
    let mut parts = response(&[("txn-token", "x"), ("Countersign_User", "root"), ("etag", "1")]);
    let clean = inbound_response(&mut parts).unwrap();
    assert_eq!(clean.presented.dropped, 2);
    assert_eq!(names(&parts.headers), ["etag"]);
}

#[test]
fn attack_app_returns_a_decision_id() {
    let mut parts = response(&[("countersign-decision", DECISION_ID)]);
    inbound_response(&mut parts).unwrap();
    assert!(parts.headers.is_empty());
    let mut parts = response(&[("countersign-decision", DECISION_ID)]);
    outbound_response(&mut parts, Sender::Unauthenticated).unwrap();
    assert!(parts.headers.is_empty());
}

#[test]
fn attack_peer_returns_malformed_decision_id() {
    for lines in [&["short"][..], &[&DECISION_ID.replace('0', "!")], &[DECISION_ID, DECISION_ID]] {
        let lines: Vec<_> = lines.iter().map(|id| ("countersign-decision", *id)).collect();
        let mut parts = response(&lines);
        outbound_response(&mut parts, Sender::Mesh).unwrap();
        assert!(parts.headers.is_empty(), "{lines:?}");
    }
    let mut parts = response(&[("countersign-decision", DECISION_ID)]);
    gateway_response(&mut parts, Sender::Mesh).unwrap();
    assert_eq!(parts.headers[DECISION], DECISION_ID);
}

#[test]
fn attack_app_asks_for_hop_certificates() {
    let sent = [("countersign-certs", "\"x\""), ("countersign-http1", "1.1;reason=x")];
    let clean = inbound_response(&mut response(&sent)).unwrap();
    assert_eq!((clean.presented.certs, clean.presented.dropped), (Field::Absent, 2));
    let clean = outbound_response(&mut response(&sent), Sender::Mesh).unwrap();
    assert_eq!((clean.presented.certs, clean.presented.dropped), (one("\"x\""), 0));
}

#[test]
fn attack_upstream_reflects_the_token_in_a_header() {
    for clean in [outbound_response, gateway_response] {
        let mut parts = response(&[("txn-token", "a.b.c"), ("connection", "txn-token")]);
        clean(&mut parts, Sender::Mesh).unwrap();
        assert!(parts.headers.is_empty());
    }
}

#[test]
fn a_response_nomination_cannot_remove_what_matters() {
    let mut parts = response(&[
        ("connection", "content-length, etag, \"odd"),
        ("content-length", "5"),
        ("etag", "1"),
    ]);
    inbound_response(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["content-length"]);
}

#[test]
fn a_coded_response_carries_no_length() {
    let mut parts = response(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
    inbound_response(&mut parts).unwrap();
    assert!(parts.headers.is_empty());
    let mut parts = response(&[("content-length", "5"), ("content-length", "5")]);
    assert_eq!(inbound_response(&mut parts).unwrap_err(), HygieneError::LengthAmbiguous);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let mut parts = request(&[
        ("connection", "close, TE, x-mine, keep-alive"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers;q=1"),
        ("te", "Trailers"),
        ("x-mine", "1"),
        ("x-kept", "1"),
        ("proxy-authorization", "x"),
        ("proxy-connection", "keep-alive"),
        ("http2-settings", "x"),
        ("upgrade", "h2c"),
    ]);
    let clean = outbound_request(&mut parts).unwrap();
    assert_eq!(clean.hop, HopByHop { upgrade: None, te_trailers: true, close: true });
    assert_eq!(names(&parts.headers), ["host", "te", "x-kept"]);
    assert_eq!(parts.headers[TE], "trailers");
}

#[test]
fn an_upgrade_needs_both_fields_and_http11() {
    let upgrade = |lines: &[(&str, &str)], version| {
        let mut parts = request(lines);
        parts.version = version;
        let clean = outbound_request(&mut parts).unwrap();
        assert!(!parts.headers.contains_key(UPGRADE));
        clean.hop.upgrade
    };
    let asked = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert_eq!(upgrade(&asked, Version::HTTP_11).unwrap(), "websocket");
    assert_eq!(upgrade(&asked, Version::HTTP_10), None);
    assert_eq!(upgrade(&[("upgrade", "websocket")], Version::HTTP_11), None);
    let h2c =
        [("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")];
    assert_eq!(upgrade(&h2c, Version::HTTP_11), None);
    let two = [("connection", "upgrade"), ("upgrade", "websocket, h2c")];
    assert_eq!(upgrade(&two, Version::HTTP_11), None);

    let mut headers = HeaderMap::new();
    restore_upgrade(&mut headers, HeaderValue::from_static("websocket"));
    assert_eq!(
        (&headers[CONNECTION], &headers[UPGRADE]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn the_gateway_replaces_what_was_said_about_the_client() {
    let mut parts = request(&[
        ("x-forwarded-for", "1.1.1.1"),
        ("x_forwarded_for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("true-client-ip", "1.1.1.1"),
        ("cf-connecting-ip", "1.1.1.1"),
        ("x-client-ip", "1.1.1.1"),
        ("x-envoy-external-address", "1.1.1.1"),
    ]);
    gateway_request(&mut parts).unwrap();
    assert_eq!(names(&parts.headers), ["host"]);
    let client = forwarded_for("::ffff:203.0.113.7".parse().unwrap());
    set_forwarded(&mut parts.headers, client, "https");
    assert_eq!(parts.headers["x-forwarded-for"], "203.0.113.7");
    assert_eq!(parts.headers["x-forwarded-proto"], "https");
}

#[test]
fn cookies_are_one_line_before_policy() {
    let mut parts = request(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    inbound_request(&mut parts, Sender::Mesh).unwrap();
    let cookies: Vec<_> = parts.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let grpc = |value: &str| is_grpc(&map(&[("content-type", value)]));
    assert!(
        ["application/grpc", "application/grpc+proto", "Application/GRPC; x"].into_iter().all(grpc)
    );
    assert!(
        !["application/grpc-web", "application/json", "", "text/application/grpc"]
            .into_iter()
            .any(grpc)
    );
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn our_values_have_one_reading() {
    assert_eq!(encode_value("alice@example.com"), "alice@example.com");
    assert_eq!(encode_value("a b%,;\"\u{e9}\n"), "a%20b%25%2C%3B%22%C3%A9%0A");
    assert_eq!(encode_list(["a,b", "c"]), "a%2Cb,c");
    assert_eq!(encode_scope(["orders.read", "x y"]), "orders.read x%20y");
}

proptest! {
    /// Whatever is sent, nothing reserved, hop-by-hop or overriding is left by any direction.
    #[test]
    fn nothing_reserved_survives(lines in proptest::collection::vec(line(), 0..12)) {
        let lines: Vec<_> = lines.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        for sender in [Sender::Mesh, Sender::Unauthenticated] {
            let mut parts = request(&lines);
            if inbound_request(&mut parts, sender).is_ok() {
                prop_assert!(only_harmless(&parts.headers), "{:?}", parts.headers);
            }
            let mut parts = response(&lines);
            if outbound_response(&mut parts, sender).is_ok() {
                parts.headers.remove(DECISION);
                let left = names::notable(&parts.headers);
                let bad = |c: Class| c == Class::Reserved || c == Class::HopByHop;
                prop_assert!(left.iter().all(|(name, class)| *name == TE || !bad(*class)));
            }
        }
        let mut parts = request(&lines);
        if gateway_request(&mut parts).is_ok() {
            prop_assert!(only_harmless(&parts.headers));
            prop_assert!(names::notable(&parts.headers).iter().all(|(_, c)| *c != Class::Forwarded));
        }
        let mut trailers = map(&lines);
        prop_assert!(clean_trailers(&mut trailers, usize::MAX).is_ok());
        prop_assert!(only_harmless(&trailers));
    }

    /// Encoding writes nothing a reader could split at, and can be undone.
    #[test]
    fn encoded_values_decode_to_the_same_text(text in any::<String>()) {
        let value = encode_value(&text);
        let value = value.to_str().unwrap();
        prop_assert!(!value.contains([' ', ',', ';', '"']));
        let mut bytes = Vec::new();
        let mut rest = value.bytes();
        while let Some(byte) = rest.next() {
            let hex: String = if byte == b'%' { rest.by_ref().take(2).map(char::from).collect() } else { format!("{byte:x}") };
            bytes.push(u8::from_str_radix(&hex, 16).unwrap());
        }
        prop_assert_eq!(bytes, text.into_bytes());
    }
}

const DECISION_ID: &str = "01jd2mx1q0a7b8c9d0e1f2g3h4";

fn line() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        "([Tt]xn[-_]TOKen|[Cc]ounterSIGN[-_][a-zA-Z]{1,4}|TE|Upgrade|x[-_]HTTP[-_]method|Keep[-_]alive)",
        "(countersign-(hops|certs|context|http1|decision)|x-forwarded-for|proxy-x|[a-z]{1,6})",
        Just("connection".to_owned()),
    ];
    let value = prop_oneof![
        "[a-z0-9, ;-]{0,26}",
        Just("countersign-user".to_owned()),
        Just(DECISION_ID.to_owned())
    ];
    (name, value)
}

/// No reserved, hop-by-hop or otherwise lying name is left but our own `TE: trailers`.
fn only_harmless(headers: &HeaderMap) -> bool {
    names::notable(headers).iter().all(|(name, class)| {
        *class == Class::Forwarded || (*name == TE && headers[TE] == "trailers")
    })
}

fn target(uri: &str, host: Option<&str>, version: Version) -> Result<Authority, HygieneError> {
    let mut parts = request(&[]);
    parts.uri = uri.parse().unwrap();
    parts.version = version;
    parts.headers.remove(HOST);
    if let Some(host) = host {
        parts.headers.insert(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
    }
    check_request(&parts)
}

fn request(lines: &[(&str, &str)]) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = "/".parse().unwrap();
    parts.headers = map(&[&[("host", "a")], lines].concat());
    parts
}

fn response(lines: &[(&str, &str)]) -> response::Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers = map(lines);
    parts
}

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn one(value: &str) -> Field {
    Field::One(HeaderValue::from_str(value).unwrap())
}
