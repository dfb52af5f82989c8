//! A context token in two fields, between two of our proxies over HTTP/2.
//!
//! The header of a token names its key, mostly by a certificate chain: two thirds of its bytes, no
//! secret, and the same for all tokens of one key. In a field of its own HPACK sends it once and
//! then as one byte; the rest, `.payload.signature`, stays out of every compression table.
//!
//! ```text
//! answer    Countersign-Token-Header: ?1                 "you may", by a proxy that met a whole token
//! request   Countersign-Token-Header: <header>
//!           Txn-Token: .<payload>.<signature>
//! ```
//!
//! Invariant: the two together are the token byte for byte, and nothing looks at either before they
//! are together again; a field without its other half is refused. Everybody else gets `Txn-Token`
//! whole.

use bytes::{BufMut as _, BytesMut};
use http::HeaderValue;

/// What says that tokens may come in two fields, as a Structured Field (RFC 9651).
pub const TAKES_PARTS: &str = "?1";

/// What stands between the parts of a token.
const DOT: u8 = b'.';

/// The header of a token and the rest; `None` if it has none. `last` is the header that was sent
/// last: the same bytes are not copied again.
pub fn split(
    token: &HeaderValue,
    last: Option<&HeaderValue>,
) -> Option<(HeaderValue, HeaderValue)> {
    let bytes = token.as_bytes();
    let rest_after = |header: &[u8]| bytes.strip_prefix(header).filter(|it| it.starts_with(b"."));
    let known = last.and_then(|last| Some((last.clone(), rest_after(last.as_bytes())?)));
    let (header, rest) = match known {
        Some(known) => known,
        None => {
            let dot = bytes.iter().position(|byte| *byte == DOT).filter(|dot| *dot > 0)?;
            let (header, rest) = bytes.split_at_checked(dot)?;
            (HeaderValue::from_bytes(header).ok()?, rest)
        }
    };
    let mut rest = HeaderValue::from_bytes(rest).ok()?;
    rest.set_sensitive(true);
    Some((header, rest))
}

/// The token of the two fields; `None` if the second is no rest of a token.
pub fn join(header: &HeaderValue, rest: &HeaderValue) -> Option<HeaderValue> {
    if header.is_empty() || header.as_bytes().contains(&DOT) || !rest.as_bytes().starts_with(b".") {
        return None;
    }
    let mut token = BytesMut::with_capacity(header.len() + rest.len());
    token.put_slice(header.as_bytes());
    token.put_slice(rest.as_bytes());
    let mut token = HeaderValue::from_maybe_shared(token.freeze()).ok()?;
    token.set_sensitive(true);
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn the_two_fields_together_are_the_token() {
        let token = value("aGVhZA.cGF5.c2ln");
        let (header, rest) = split(&token, None).expect("two parts");
        assert_eq!((&header, &rest), (&value("aGVhZA"), &value(".cGF5.c2ln")));
        assert!(rest.is_sensitive(), "payload and signature stay out of compression tables");
        assert!(!header.is_sensitive(), "the header is sent once");
        let joined = join(&header, &rest).expect("a token");
        assert_eq!(joined, token);
        assert!(joined.is_sensitive());
    }

    #[test]
    fn a_header_sent_before_is_taken_for_the_same_bytes_only() {
        let token = value("aGVhZA.cGF5.c2ln");
        for last in ["aGVhZA", "aGVh", "aGVhZB", "aGVhZA.cGF5", "b"] {
            let (header, rest) = split(&token, Some(&value(last))).expect("two parts");
            assert_eq!(
                join(&header, &rest),
                (last != "aGVhZA.cGF5").then(|| token.clone()),
                "{last}"
            );
        }
    }

    #[test]
    fn what_is_not_one_half_and_the_other_is_no_token() {
        for whole in ["", ".cGF5.c2ln", "aGVhZA"] {
            assert_eq!(split(&value(whole), None), None, "{whole}");
        }
        for (header, rest) in [
            ("", ".cGF5.c2ln"),
            ("aGVhZA", "cGF5.c2ln"),
            ("aGVhZA", ""),
            ("aGVhZA", "aGVhZA.cGF5.c2ln"),
            ("aGVhZA.cGF5", ".c2ln"),
            ("aGVhZA.", ".cGF5.c2ln"),
        ] {
            assert_eq!(join(&value(header), &value(rest)), None, "{header} {rest}");
        }
    }
}
