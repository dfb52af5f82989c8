//! How values of our own headers are written: every reader splits them the same way.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A header value of ours: bytes outside `0x21..=0x7E` and `% , ; "` percent-encoded.
pub fn encode_value(text: &str) -> HeaderValue {
    if text.bytes().all(is_plain)
        && let Ok(value) = HeaderValue::from_str(text)
    {
        return value;
    }
    encode_joined(std::iter::once(text), "")
}

/// A list value of ours: encoded items, separated by commas.
pub fn encode_list<'a>(items: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    encode_joined(items, ",")
}

/// Scope names of ours: encoded items, separated by single spaces.
pub fn encode_scope<'a>(items: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    encode_joined(items, " ")
}

/// What `X-Forwarded-For` says of this client.
pub fn forwarded_for(client: IpAddr) -> HeaderValue {
    encode_value(&client.to_canonical().to_string())
}

/// Sets the forwarded fields of a request from outside, after the sender's were removed; `client` is
/// of [`forwarded_for`].
pub fn set_forwarded(headers: &mut HeaderMap, client: HeaderValue, scheme: &'static str) {
    headers.insert(X_FORWARDED_FOR, client);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
}

/// Whether the message is gRPC by its `Content-Type`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    let Some((start, rest)) =
        headers.get(CONTENT_TYPE).and_then(|v| v.as_bytes().split_at_checked(PREFIX.len()))
    else {
        return false;
    };
    start.eq_ignore_ascii_case(PREFIX) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

pub(crate) fn percent_encode(out: &mut String, text: &[u8]) {
    for byte in text {
        if is_plain(*byte) {
            out.push(char::from(*byte));
        } else {
            escape(out, *byte);
        }
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'%' | b',' | b';' | b'"')
}

fn encode_joined<'a>(items: impl IntoIterator<Item = &'a str>, separator: &str) -> HeaderValue {
    let mut out = String::new();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        percent_encode(&mut out, item.as_bytes());
    }
    #[expect(clippy::expect_used, reason = "only 0x20..=0x7E was written, property-tested")]
    HeaderValue::try_from(out).expect("encoded text is visible ASCII")
}

fn escape(out: &mut String, byte: u8) {
    // Writing to a `String` cannot fail.
    let _ = write!(out, "%{byte:02X}");
}
