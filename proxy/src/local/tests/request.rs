use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

const SOUND: &[(&str, &str)] = &[
    ("host", "127.0.0.1:15004"),
    ("countersign-local", "1"),
    ("content-type", "application/json"),
];

fn asked(method: Method, target: &str, headers: &HeaderMap) -> Result<LocalCall, Why> {
    admit(&method, &target.parse().unwrap(), headers).map_err(|error| error.why)
}

#[test]
fn each_call_is_a_post_of_json_for_a_loopback_host() {
    for (path, which) in [
        ("/v1/defer", LocalCall::Defer),
        ("/v1/resume", LocalCall::Resume),
        ("/v1/begin", LocalCall::Begin),
        ("/v1/end", LocalCall::End),
    ] {
        assert_eq!(asked(Method::POST, path, &headers(SOUND)), Ok(which));
    }
    for host in ["localhost", "LOCALHOST:15004", "[::1]:15004", "127.9.9.9", "[::ffff:127.0.0.1]"] {
        let mut good = headers(SOUND);
        good.insert(HOST, HeaderValue::from_str(host).unwrap());
        assert_eq!(asked(Method::POST, "/v1/end", &good), Ok(LocalCall::End), "{host}");
    }
    assert_eq!(asked(Method::POST, "/v1/receipt", &headers(SOUND)), Err(Why::NoSuchCall));
    assert_eq!(asked(Method::POST, "/v1/end?x", &headers(SOUND)), Err(Why::NoSuchCall));
}

#[test]
fn attack_names_a_host_that_is_not_loopback() {
    let hosts = [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "localhost@evil.example",
        "evil@127.0.0.1",
        "0x7f.1",
        "",
    ];
    for host in hosts {
        let mut bad = headers(SOUND);
        bad.insert(HOST, HeaderValue::from_str(host).unwrap());
        assert_eq!(asked(Method::POST, "/v1/end", &bad), Err(Why::HostForeign), "{host:?}");
    }
    let without: Vec<_> = SOUND.iter().copied().filter(|(name, _)| *name != "host").collect();
    assert_eq!(asked(Method::POST, "/v1/end", &headers(&without)), Err(Why::HostForeign));
    let mut twice = headers(SOUND);
    twice.append(HOST, HeaderValue::from_static("evil.example"));
    assert_eq!(asked(Method::POST, "/v1/end", &twice), Err(Why::HostForeign));
    let absolute = asked(Method::POST, "http://evil.example/v1/end", &headers(SOUND));
    assert_eq!(absolute, Err(Why::HostForeign));
}

#[test]
fn attack_sends_what_a_form_or_a_link_can_send() {
    for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::HEAD, Method::DELETE] {
        assert_eq!(asked(method, "/v1/begin", &headers(SOUND)), Err(Why::NotPost));
    }
    let without = |name: &str| {
        let fields: Vec<_> = SOUND.iter().copied().filter(|(own, _)| *own != name).collect();
        headers(&fields)
    };
    let unmarked = without("countersign-local");
    assert_eq!(asked(Method::POST, "/v1/begin", &unmarked), Err(Why::HeaderMissing));
    for value in ["0", "true", "1, 1", " 1", ""] {
        let mut other = unmarked.clone();
        other.insert(LOCAL, HeaderValue::from_str(value).unwrap());
        assert_eq!(asked(Method::POST, "/v1/begin", &other), Err(Why::HeaderMissing), "{value:?}");
    }
    let plain = without("content-type");
    assert_eq!(asked(Method::POST, "/v1/begin", &plain), Err(Why::NotJson));
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "text/json", "application/jsonp"]
    {
        let mut form = plain.clone();
        form.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        assert_eq!(asked(Method::POST, "/v1/begin", &form), Err(Why::NotJson), "{kind}");
    }
}

#[test]
fn a_digest_is_read_in_both_forms() {
    let hex = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let body = |digest: &str| format!(r#"{{"grant":"a.b.c","digest":"{digest}"}}"#);
    let one = resume(body(hex).as_bytes()).unwrap();
    assert_eq!(one.digest, "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg");
    assert!(resume(body(&one.digest).as_bytes()).unwrap() == one);
    for bad in ["", "abc", &hex[1..], &format!("{}g", &hex[1..]), &format!("{}=", &one.digest[1..])]
    {
        assert_eq!(
            resume(body(bad).as_bytes()).err().map(|e| e.why),
            Some(Why::Malformed),
            "{bad}"
        );
    }
}

#[test]
fn members_are_read_strictly() {
    let digest = "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg";
    let consumer = "spiffe://prod.example.com/ns/shop/sa/reports";
    let sound =
        format!(r#"{{"consumer":"{consumer}","ttl":60,"scope":"a b","digest":"{digest}"}}"#);
    let read = defer(sound.as_bytes()).unwrap();
    assert_eq!((read.ttl_s, read.scope.as_deref().map(<[_]>::len)), (Some(60), Some(2)));
    let bodies = [
        sound.replace("\"ttl\":60", "\"ttl\":\"1h\""),
        sound.replace("\"ttl\":60", "\"ttl\":-1"),
        sound.replace("a b", "a  b"),
        sound.replace("spiffe://", "http://"),
        sound.replace("\"ttl\":60,", "\"token\":\"x\","),
        sound.replace("\"ttl\":60,", "\"ttl\":60,\"ttl\":61,"),
        format!("[{sound}]"),
        format!("{sound}{sound}"),
        String::new(),
    ];
    for body in bodies {
        assert_eq!(defer(body.as_bytes()).unwrap_err().why, Why::Malformed, "{body}");
    }
    let job = br#"{"scope":"a","just":{"kind":"ticket","ref":"SUP-1"},"as":"user:alice"}"#;
    assert_eq!(begin(job).unwrap().on_behalf.as_deref(), Some("user:alice"));
    for body in
        [r#"{"scope":"a","as":"svc:spiffe://x/y"}"#, r#"{"scope":"a","origin":"user"}"#, "{}"]
    {
        assert_eq!(begin(body.as_bytes()).unwrap_err().why, Why::Malformed, "{body}");
    }
    assert!(end(br#"{"context":"AAAAAAAAAAAAAAAAAAAAAA"}"#).is_ok());
    assert_eq!(end(br#"{"context":"short"}"#).err().map(|e| e.why), Some(Why::Malformed));
}

#[test]
fn errors_do_not_repeat_what_was_sent() {
    let error = resume(br#"{"grant":"eyJsecret","other":1}"#).err().unwrap();
    assert!(!error.body().to_string().contains("secret"));
    for why in Why::ALL {
        assert!(
            why.error("x").status().is_client_error() || why.error("x").status().is_server_error()
        );
        assert!(!why.hint().is_empty());
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (defer(&body), resume(&body).is_ok(), begin(&body), end(&body).is_ok());
    }

    #[test]
    fn only_loopback_hosts_pass(host in "[ -~]{0,24}") {
        let mut asked = headers(SOUND);
        if let Ok(value) = HeaderValue::from_str(&host) {
            asked.insert(HOST, value);
            let passes = admit(&Method::POST, &"/v1/end".parse().unwrap(), &asked).is_ok();
            let bare = host.to_ascii_lowercase();
            let named = bare.starts_with("localhost") || bare.starts_with("127.") || bare.starts_with('[');
            prop_assert!(!passes || named, "{host}");
        }
    }
}
