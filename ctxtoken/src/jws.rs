//! The compact form: three base64url parts and a header of exactly three members.
//! Size first, then characters, then dots, and only then is anything decoded; each step can only
//! refuse. There is one spelling of every byte string: no padding, no trailing bits.

use std::{borrow::Cow, fmt};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use crate::{
    Algorithm, Limits, VerifyError,
    json::{self, Text},
};

/// Media type of a context token, as minted.
pub(crate) const TYP: &str = "txntoken+jwt";
/// The same media type written in full, accepted too.
const TYP_FULL: &str = "application/txntoken+jwt";

/// Certificates an `x5c` member may hold: a leaf and up to two intermediates.
pub(crate) const CHAIN_MAX: usize = 3;

/// Characters of a `kid`: base64url of 12 bytes.
const KID_CHARS: usize = 16;

/// Characters of a signature: base64url of 64 bytes.
const SIGNATURE_CHARS: usize = 86;

/// A token cut at its dots, nothing decoded.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) signature: &'a [u8],
    /// Header and payload with the dot between them: what is signed.
    pub(crate) signed: &'a [u8],
}

/// Cuts a token into its parts. What of it is `known`, the header of a token that was accepted, needs
/// no second look.
pub(crate) fn split<'a>(
    token: &'a [u8],
    known: Option<&[u8]>,
    limits: &Limits,
) -> Result<Parts<'a>, VerifyError> {
    let limit = limits.token_bytes_max;
    if token.len() > limit {
        return Err(VerifyError::TokenTooLarge { bytes: token.len(), limit });
    }
    let begins = |known: &&[u8]| token.strip_prefix(*known).is_some_and(|it| it.starts_with(b"."));
    let known = known.filter(begins).map_or(0, <[u8]>::len);
    let unknown = token.get(known..).unwrap_or_default();
    check_characters(unknown)?;
    let is_dot = |byte: &u8| *byte == b'.';
    let parts = || {
        let dot = known + unknown.iter().position(is_dot)?;
        let (header, rest) = (token.get(..dot)?, token.get(dot + 1..)?);
        let dot = rest.iter().rposition(is_dot)?;
        let (payload, signature) = (rest.get(..dot)?, rest.get(dot + 1..)?);
        (!payload.contains(&b'.')).then_some((header, payload, signature))
    };
    let (header, payload, signature) =
        parts().ok_or(malformed("not three parts between two dots"))?;
    if header.is_empty() || payload.is_empty() || signature.is_empty() {
        return Err(malformed("an empty part"));
    }
    let signed = token.get(..header.len() + 1 + payload.len()).unwrap_or_default();
    Ok(Parts { header, payload, signature, signed })
}

/// Only base64url and dots. Without an early exit, so that the compiler checks many bytes at once:
/// every request with a token passes here.
fn check_characters(token: &[u8]) -> Result<(), VerifyError> {
    let in_alphabet = |b: u8| {
        (b | 0x20).wrapping_sub(b'a') < 26
            || b.wrapping_sub(b'0') < 10
            || matches!(b, b'_' | b'-' | b'.')
    };
    if token.iter().fold(true, |sound, &b| sound & in_alphabet(b)) {
        return Ok(());
    }
    if token.contains(&b',') {
        return Err(VerifyError::TokenDuplicated);
    }
    Err(malformed(FOREIGN_CHARACTER))
}

const FOREIGN_CHARACTER: &str = "a character outside base64url and dots";

/// Strict base64url; `None` for padding, trailing bits or another alphabet.
pub(crate) fn decode(part: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// [`decode`] as a verification step.
pub(crate) fn decode_part(part: &[u8]) -> Result<Vec<u8>, VerifyError> {
    decode(part).ok_or(malformed("a part that is not strict base64url"))
}

/// [`decode_part`] into a buffer that is used again and again, whose content it replaces.
pub(crate) fn decode_part_into(part: &[u8], bytes: &mut Vec<u8>) -> Result<(), VerifyError> {
    bytes.clear();
    let decoded = URL_SAFE_NO_PAD.decode_vec(part, bytes);
    decoded.map_err(|_| malformed("a part that is not strict base64url"))
}

/// What 43 characters stand for.
pub(crate) fn decode_hash(part: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 33];
    let length = URL_SAFE_NO_PAD.decode_slice(part, &mut bytes).ok()?;
    bytes.get(..length)?.try_into().ok()
}

/// Whether 22 characters stand for 16 bytes.
pub(crate) fn decodes_to_16(part: &[u8]) -> bool {
    URL_SAFE_NO_PAD.decode_slice(part, &mut [0; 18]) == Ok(16)
}

/// A signature of the one length there is, without asking the heap. `None`: of another length, so
/// nobody's.
pub(crate) fn decode_signature(part: &[u8]) -> Result<Option<[u8; 64]>, VerifyError> {
    // What 86 characters may come to at most, before they are looked at.
    let mut bytes = [0; 66];
    if part.len() != SIGNATURE_CHARS {
        return decode_part(part).map(|_| None);
    }
    let decoded = URL_SAFE_NO_PAD.decode_slice(part, &mut bytes);
    let length = decoded.map_err(|_| malformed("a part that is not strict base64url"))?;
    Ok(bytes.get(..length).and_then(|bytes| bytes.try_into().ok()))
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// [`encode`] at the end of a text.
pub(crate) fn encode_into(bytes: &[u8], text: &mut String) {
    URL_SAFE_NO_PAD.encode_string(bytes, text);
}

/// Standard base64 with padding, as `x5c` has it.
pub(crate) fn encode_certificate(der: &[u8]) -> String {
    STANDARD.encode(der)
}

/// How a header names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyName {
    /// A key of the issuer's JWK set, 16 characters.
    Kid(String),
    /// The signer's certificate chain, DER, leaf first.
    X5c(Vec<Vec<u8>>),
}

/// A header that passed every check that needs no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: KeyName,
}

/// Reads the decoded header of a context token: exactly `alg`, `typ` and one of `kid` and `x5c`.
pub(crate) fn header(json: &[u8], limits: &Limits) -> Result<Header, VerifyError> {
    header_of_type(json, limits, &[TYP, TYP_FULL])
}

/// The same for a token of one of these types, compared by bytes.
pub(crate) fn header_of_type(
    json: &[u8],
    limits: &Limits,
    types: &[&str],
) -> Result<Header, VerifyError> {
    if json.len() > limits.header_bytes_max {
        return Err(malformed("a header over the size limit"));
    }
    let json = json::check(json).map_err(VerifyError::TokenMalformed)?;
    let wire: HeaderWire<'_> = serde_json::from_str(json)
        .map_err(|_| malformed("a header member that is unknown or of the wrong type"))?;
    match wire.typ.as_deref() {
        Some(typ) if types.contains(&typ) => {}
        Some(_) => return Err(malformed("a `typ` of another kind of token")),
        None => return Err(malformed("a header without `typ`")),
    }
    let alg = wire.alg.ok_or(malformed("a header without `alg`"))?;
    let algorithm =
        Algorithm::from_name(&alg).ok_or(malformed("an `alg` that this profile does not have"))?;
    let key = match (wire.kid, wire.x5c) {
        (Some(kid), None) => KeyName::Kid(check_kid(kid)?),
        (None, Some(chain)) => KeyName::X5c(decode_chain(&chain)?),
        _ => return Err(malformed("not exactly one of `kid` and `x5c`")),
    };
    Ok(Header { algorithm, key })
}

/// Whether a text can name a key: base64url of 12 bytes.
pub(crate) fn is_kid(kid: &str) -> bool {
    kid.len() == KID_CHARS && decode(kid.as_bytes()).is_some()
}

fn check_kid(kid: Cow<'_, str>) -> Result<String, VerifyError> {
    if is_kid(&kid) {
        return Ok(kid.into_owned());
    }
    Err(malformed("a `kid` that is not 16 characters of base64url"))
}

fn decode_chain(chain: &[Cow<'_, str>]) -> Result<Vec<Vec<u8>>, VerifyError> {
    if chain.is_empty() || chain.len() > CHAIN_MAX {
        return Err(malformed("an `x5c` without 1 to 3 certificates"));
    }
    let decode =
        |text: &Cow<'_, str>| STANDARD.decode(text.as_bytes()).ok().filter(|der| !der.is_empty());
    chain
        .iter()
        .map(|text| decode(text).ok_or(malformed("an `x5c` entry that is not strict base64")))
        .collect()
}

pub(crate) fn malformed(what: &'static str) -> VerifyError {
    VerifyError::TokenMalformed(what)
}

/// The members a header may have. Anything else (`crit`, `b64`, `zip`, `jwk`, `jku`, `x5u`, …)
/// is an error: an instruction we do not follow must not be ignored.
#[derive(Default)]
struct HeaderWire<'a> {
    alg: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
    x5c: Option<Vec<Cow<'a, str>>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for HeaderWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = HeaderWire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderWire<'de>, A::Error> {
        let mut wire = HeaderWire::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            match &*name {
                "alg" => wire.alg = Some(map.next_value::<Text<'de>>()?.0),
                "typ" => wire.typ = Some(map.next_value::<Text<'de>>()?.0),
                "kid" => wire.kid = Some(map.next_value::<Text<'de>>()?.0),
                "x5c" => wire.x5c = Some(map.next_value::<Chain<'de>>()?.0),
                _ => return Err(A::Error::custom("unknown member")),
            }
        }
        Ok(wire)
    }
}

/// The `x5c` array, which stops being read at one certificate too many.
struct Chain<'a>(Vec<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Chain<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = Chain<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut chain = Vec::new();
                while let Some(item) = items.next_element::<Text<'de>>()? {
                    chain.push(item.0);
                    if chain.len() > CHAIN_MAX {
                        break;
                    }
                }
                // What follows is skipped here and refused by the count.
                while items.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Chain(chain))
            }
        }

        deserializer.deserialize_seq(Items)
    }
}
