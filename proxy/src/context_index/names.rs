//! The names of a request: a handle of ours, the trace it belongs to, its token.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use http::{HeaderName, HeaderValue};

use super::SHARDS;

/// The field a trace id stands in.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Names one open inbound request to its own app. 16 random bytes, useless in any other pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle([u8; 16]);

/// Only handles that were drawn here get into a table, so that they spread by themselves: half of
/// one is its hash.
impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [_, _, _, _, _, _, _, _, half @ ..] = self.0;
        state.write_u64(u64::from_ne_bytes(half));
    }
}

/// What a table of handles is built with.
pub(super) type ByHandle = BuildHasherDefault<AsItIs>;

/// Takes one number for its own hash.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Handle {
    /// A handle from fresh randomness.
    pub fn new(random: [u8; 16]) -> Handle {
        Handle(random)
    }

    /// The text of the `Countersign-Context` header: 22 characters of base64url.
    pub fn text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the header's text.
    pub fn parse(text: &str) -> Option<Handle> {
        if text.len() != 22 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Handle(bytes.try_into().ok()?))
    }

    pub(super) fn shard(self) -> usize {
        usize::from(self.0[0]) % SHARDS
    }
}

/// The trace id of a W3C `traceparent` header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(pub(super) u128);

impl TraceId {
    /// Reads version 00 to fe of W3C Trace Context §3.2; anything else is no trace id.
    pub fn parse(traceparent: &str) -> Option<TraceId> {
        let mut parts = traceparent.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let flags = parts.next()?;
        let hex = |text: &str, len: usize| {
            text.len() == len
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !hex(version, 2)
            || version == "ff"
            || !hex(trace, 32)
            || !hex(parent, 16)
            || !hex(flags, 2)
        {
            return None;
        }
        if version == "00" && parts.next().is_some() {
            return None;
        }
        let id = u128::from_str_radix(trace, 16).ok()?;
        (id != 0 && parent.bytes().any(|b| b != b'0')).then_some(TraceId(id))
    }

    /// A trace id from fresh randomness.
    pub fn new(random: [u8; 16]) -> TraceId {
        TraceId(u128::from_be_bytes(random).max(1))
    }

    /// A `traceparent` header for this trace, not sampled, with the given parent id.
    pub fn traceparent(self, parent: [u8; 8]) -> String {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, &self.0.to_be_bytes());
        text.push('-');
        push_hex(&mut text, &u64::from_be_bytes(parent).max(1).to_be_bytes());
        text.push_str("-00");
        text
    }

    pub(super) fn shard(self) -> usize {
        usize::try_from(self.0 % (SHARDS as u128)).unwrap_or(0)
    }
}

/// Lower-case digits, without the machinery of `format!`: it runs for every request.
fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 0xf] {
            let letter = digit >= 10;
            text.push(char::from(if letter { b'a' + digit - 10 } else { b'0' + digit }));
        }
    }
}

/// A token by its SHA-256, so that the table holds no second copy of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenName([u8; 32]);

impl TokenName {
    pub(super) fn of(token: &HeaderValue) -> TokenName {
        TokenName(sha256(token))
    }

    pub(super) fn shard(self) -> usize {
        usize::from(self.0[0]) % SHARDS
    }
}

pub(super) fn sha256(token: &HeaderValue) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}
