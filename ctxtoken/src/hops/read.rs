//! The field value into records. Size first, then the list's own grammar, then each record as a
//! compact JWS of this one type: every member known, none twice, none of another type.

use std::{borrow::Cow, fmt};

use countersign_workload_id::WorkloadId;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use super::{HopList, Record, SEPARATOR, TYP};
use crate::{
    Algorithm, Limits, UnixTime, VerifyError, claims,
    json::{self, INTEGER_MAX, Text},
    jws,
};

impl HopList {
    /// Reads one `Countersign-Hops` field value. A second field of that name is the caller's to
    /// refuse.
    pub fn parse(field: &[u8], limits: &Limits) -> Result<Self, VerifyError> {
        Self::parse_near(field, limits, &[])
    }

    /// As [`parse`](Self::parse), but shares the IDs in `near` where a record names one of them,
    /// which spares checking and copying it.
    pub fn parse_near(
        field: &[u8],
        limits: &Limits,
        near: &[&WorkloadId],
    ) -> Result<Self, VerifyError> {
        let limit = limits.hops_bytes_max;
        if field.len() > limit {
            return Err(VerifyError::HopsTooLarge { bytes: field.len(), limit });
        }
        let field = str::from_utf8(field).map_err(|_| malformed(FOREIGN_CHARACTER))?;
        let mut list = Self { text: String::with_capacity(field.len()), records: Vec::new() };
        // RFC 9651: spaces around the list; spaces and tabs around commas; no comma at the end.
        for member in field.trim_matches(' ').split(',') {
            if list.records.len() >= limits.hops_max {
                return Err(malformed("too many records"));
            }
            list.read_member(member.trim_matches([' ', '\t']), limits, near)?;
        }
        Ok(list)
    }

    fn read_member(
        &mut self,
        member: &str,
        limits: &Limits,
        near: &[&WorkloadId],
    ) -> Result<(), VerifyError> {
        check_token(member)?;
        if !self.records.is_empty() {
            self.text.push_str(SEPARATOR);
        }
        let start = self.text.len();
        self.text.push_str(member);
        let record = read_record(member, start, limits, (near, self.records.last()))?;
        self.records.push(record);
        Ok(())
    }
}

/// A bare Token (RFC 9651 §3.3.4) that can be a compact JWS. Anything else, with a parameter or
/// not, is another type.
fn check_token(member: &str) -> Result<(), VerifyError> {
    let begins = member.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match begins && member.bytes().all(sound) {
        true => Ok(()),
        false => Err(malformed(FOREIGN_CHARACTER)),
    }
}

fn read_record(
    text: &str,
    start: usize,
    limits: &Limits,
    (near, before): (&[&WorkloadId], Option<&Record>),
) -> Result<Record, VerifyError> {
    let mut parts = text.split('.').map(str::as_bytes);
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("a record without three parts between two dots"));
    };
    let (algorithm, thumbprint) = read_header(&decode(header)?, limits)?;
    let signature_bytes = decode(signature)?;
    let payload_bytes = decode(payload)?;
    let payload_text = json::check(&payload_bytes).map_err(VerifyError::HopsMalformed)?;
    let wire: PayloadWire<'_> = serde_json::from_str(payload_text)
        .map_err(|_| malformed("a record with a member that is unknown or of the wrong type"))?;
    Ok(Record {
        text: start..start + text.len(),
        signed: header.len() + 1 + payload.len(),
        signature: signature_bytes,
        algorithm,
        thumbprint,
        sub: workload(wire.sub, near, before)?,
        aud: workload(wire.aud, near, None)?,
        iat: UnixTime(integer(wire.iat)?),
        n: integer(wire.n)?,
        tth: hash(wire.tth.as_deref().ok_or(malformed(MISSING))?)?,
        prev: wire.prev.as_deref().map(hash).transpose()?,
        scope: wire.scope.as_deref().map(scope).transpose()?,
    })
}

fn read_header(json: &[u8], limits: &Limits) -> Result<(Algorithm, [u8; 32]), VerifyError> {
    if json.len() > limits.header_bytes_max {
        return Err(malformed("a record's header over the size limit"));
    }
    let json = json::check(json).map_err(VerifyError::HopsMalformed)?;
    let wire: HeaderWire<'_> = serde_json::from_str(json)
        .map_err(|_| malformed("a record's header with a member that is unknown or wrong"))?;
    let (Some(alg), Some(typ), Some(kid)) = (wire.alg, wire.typ, wire.kid) else {
        return Err(malformed("a record's header without `alg`, `typ` or `kid`"));
    };
    if typ != TYP {
        return Err(malformed("a `typ` of another kind of token"));
    }
    let algorithm =
        Algorithm::from_name(&alg).ok_or(malformed("an `alg` that this profile does not have"))?;
    Ok((algorithm, hash(&kid)?))
}

const FOREIGN_CHARACTER: &str = "not a list of bare tokens";
const MISSING: &str = "a record without a required member";

fn decode(part: &[u8]) -> Result<Vec<u8>, VerifyError> {
    let bytes = jws::decode(part).filter(|bytes| !bytes.is_empty());
    bytes.ok_or(malformed("a part of a record that is not strict base64url"))
}

/// 43 characters of base64url for 32 bytes.
fn hash(text: &str) -> Result<[u8; 32], VerifyError> {
    jws::decode_hash(text.as_bytes()).ok_or(malformed("a hash that is not base64url of 32 bytes"))
}

/// Nearly always whom the record before was made for, or somebody known.
fn workload(
    text: Option<Cow<'_, str>>,
    near: &[&WorkloadId],
    before: Option<&Record>,
) -> Result<WorkloadId, VerifyError> {
    let text = text.ok_or(malformed(MISSING))?;
    let mut known = before.map(|record| &record.aud).into_iter().chain(near.iter().copied());
    if let Some(known) = known.find(|known| known.as_str() == text) {
        return Ok(known.clone());
    }
    WorkloadId::parse(&text).map_err(|_| malformed("a record that names no workload"))
}

fn integer(number: Option<u64>) -> Result<u64, VerifyError> {
    match number.ok_or(malformed(MISSING))? {
        number if number <= INTEGER_MAX => Ok(number),
        _ => Err(malformed("a number over 2^53")),
    }
}

/// The names of a scope, by the rules of the token's own.
fn scope(text: &str) -> Result<Vec<String>, VerifyError> {
    let names: Vec<String> = text.split(' ').map(str::to_owned).collect();
    match claims::check_scope(&names) {
        Ok(()) => Ok(names),
        Err(_) => Err(malformed("a scope outside its limits")),
    }
}

fn malformed(what: &'static str) -> VerifyError {
    VerifyError::HopsMalformed(what)
}

#[derive(Default)]
struct HeaderWire<'a> {
    alg: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
}

#[derive(Default)]
struct PayloadWire<'a> {
    sub: Option<Cow<'a, str>>,
    aud: Option<Cow<'a, str>>,
    iat: Option<u64>,
    n: Option<u64>,
    tth: Option<Cow<'a, str>>,
    prev: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for HeaderWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for PayloadWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PayloadVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = HeaderWire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the header of a hop record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderWire<'de>, A::Error> {
        let mut wire = HeaderWire::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            let place = match &*name {
                "alg" => &mut wire.alg,
                "typ" => &mut wire.typ,
                "kid" => &mut wire.kid,
                _ => return Err(A::Error::custom("unknown member")),
            };
            *place = Some(map.next_value::<Text<'de>>()?.0);
        }
        Ok(wire)
    }
}

struct PayloadVisitor;

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = PayloadWire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the payload of a hop record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PayloadWire<'de>, A::Error> {
        let mut wire = PayloadWire::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            let text = match &*name {
                "sub" => &mut wire.sub,
                "aud" => &mut wire.aud,
                "tth" => &mut wire.tth,
                "prev" => &mut wire.prev,
                "scope" => &mut wire.scope,
                "iat" => {
                    wire.iat = Some(map.next_value()?);
                    continue;
                }
                "n" => {
                    wire.n = Some(map.next_value()?);
                    continue;
                }
                _ => return Err(A::Error::custom("unknown member")),
            };
            *text = Some(map.next_value::<Text<'de>>()?.0);
        }
        Ok(wire)
    }
}
