//! The record a workload adds when it passes a token on. It signs with the key of the certificate
//! it showed on the very connection the token goes out on, and addresses the workload that proved
//! itself on the other end.

use std::fmt::Write as _;

use countersign_workload_id::WorkloadId;

use super::{HopList, SEPARATOR, TYP};
use crate::{
    HopError, TokenSigner, UnixTime, claims,
    jws::{encode, encode_into},
    limits::{HOPS_BYTES_MAX, HOPS_MAX},
    verify::sha256,
};

/// Room for the payload of an ordinary record, so that its text is allocated once.
const PAYLOAD_BYTES_TYPICAL: usize = 384;

/// What a new record says.
pub struct NewHop<'a> {
    /// Who passes the token on: this workload, by the certificate of the connection.
    pub sub: &'a WorkloadId,
    /// To whom: the ID the callee proved on the connection.
    pub aud: &'a WorkloadId,
    /// Now.
    pub iat: UnixTime,
    /// SHA-256 of the token string.
    pub token_sha256: &'a [u8; 32],
    /// What of the scope is passed on; `None` leaves it as it is.
    pub scope: Option<&'a [String]>,
}

/// The value of the field with one record more. `kid` is the SHA-256 of the signer's leaf
/// certificate.
///
/// Refused is what every receiver would refuse: a ninth record, a list over the limit, a record of
/// somebody the list has not arrived at, a scope that grows.
pub fn append(
    list: Option<&HopList>,
    hop: &NewHop<'_>,
    signer: &dyn TokenSigner,
    kid: &[u8; 32],
) -> Result<String, HopError> {
    let last = list.and_then(|list| list.records.last());
    if list.map_or(0, HopList::len) >= HOPS_MAX {
        return Err(HopError::TooMany { limit: HOPS_MAX });
    }
    if last.is_some_and(|last| last.aud != *hop.sub) {
        return Err(HopError::NotTheHolder);
    }
    check_scope(list, hop.scope)?;
    let prev = list.zip(last).map(|(list, last)| sha256(list.text_of(last).as_bytes()));
    let header =
        format!(r#"{{"alg":"{}","typ":"{TYP}","kid":"{}"}}"#, signer.algorithm(), encode(kid));
    let payload = payload(hop, list.map_or(0, HopList::len), prev.as_ref());
    let earlier = list.map_or("", HopList::text);
    let mut field = String::with_capacity(
        earlier.len() + SEPARATOR.len() + (header.len() + payload.len()) / 3 * 4 + 100,
    );
    field.push_str(earlier);
    if !earlier.is_empty() {
        field.push_str(SEPARATOR);
    }
    let start = field.len();
    encode_into(header.as_bytes(), &mut field);
    field.push('.');
    encode_into(payload.as_bytes(), &mut field);
    let signature = signer.sign(field.as_bytes().get(start..).unwrap_or_default())?;
    field.push('.');
    encode_into(&signature, &mut field);
    match field.len() {
        bytes if bytes > HOPS_BYTES_MAX => Err(HopError::TooLarge { bytes, limit: HOPS_BYTES_MAX }),
        _ => Ok(field),
    }
}

/// A scope may only shrink, and is written by the rules of the token's own.
fn check_scope(list: Option<&HopList>, scope: Option<&[String]>) -> Result<(), HopError> {
    let Some(scope) = scope else { return Ok(()) };
    claims::check_scope(scope).map_err(|_| HopError::ScopeInvalid)?;
    match list.and_then(HopList::scope) {
        Some(before) if !scope.iter().all(|name| before.contains(name)) => {
            Err(HopError::ScopeInvalid)
        }
        _ => Ok(()),
    }
}

/// Identities, hashes and scope names hold no character that JSON escapes.
fn payload(hop: &NewHop<'_>, n: usize, prev: Option<&[u8; 32]>) -> String {
    let NewHop { sub, aud, iat, token_sha256, scope } = hop;
    let mut payload = String::with_capacity(PAYLOAD_BYTES_TYPICAL);
    // A string takes everything.
    _ = write!(payload, r#"{{"sub":"{sub}","aud":"{aud}","iat":{iat},"n":{n},"tth":""#);
    encode_into(*token_sha256, &mut payload);
    payload.push('"');
    if let Some(prev) = prev {
        payload.push_str(r#","prev":""#);
        encode_into(prev, &mut payload);
        payload.push('"');
    }
    if let Some(scope) = scope {
        payload.push_str(r#","scope":""#);
        payload.push_str(&scope.join(" "));
        payload.push('"');
    }
    payload.push('}');
    payload
}
