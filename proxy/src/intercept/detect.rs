//! What the first bytes of a connection are. Pure and monotone: an answer other than `NeedMore`
//! never changes when bytes are appended, so fragmentation cannot change it.

/// The client preface of HTTP/2, RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a plaintext connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// More bytes are needed.
    NeedMore,
    /// Not HTTP/2; the HTTP/1 parser has the last word.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// HTTP/1 or HTTP/2, from the first bytes of a connection that is declared to be HTTP.
pub fn http_version(bytes: &[u8]) -> Version {
    let shared = bytes.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
    if shared == PREFACE.len() {
        Version::Http2
    } else if shared == bytes.len() {
        Version::NeedMore
    } else {
        Version::Http1
    }
}

/// Whether the first byte can start a TLS record of a handshake (RFC 8446 §5.1).
pub fn is_tls(first: u8) -> bool {
    first == 0x16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_of_the_preface_ends_as_http2() {
        for cut in 0..PREFACE.len() {
            assert_eq!(http_version(&PREFACE[..cut]), Version::NeedMore, "{cut}");
        }
        assert_eq!(http_version(PREFACE), Version::Http2);
        assert_eq!(http_version(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"), Version::Http2);
    }

    #[test]
    fn http1_methods_that_share_a_prefix_are_http1() {
        for head in [&b"POST / HTTP/1.1"[..], b"PUT ", b"PRI / HTTP/1.1", b"GET ", b"\r\n"] {
            assert_eq!(http_version(head), Version::Http1);
        }
        assert_eq!(http_version(b"P"), Version::NeedMore);
    }
}
