//! The statement a workload signs about itself to ask for a context: who it is, for one token
//! service, with the key of its own certificate.
//!
//! Invariant: it counts only on a connection that the same key opened, so a copy of it is worth
//! nothing. Pure; its `typ` and `aud` make it unusable as a context token.

use countersign_workload_id::WorkloadId;
use serde::Deserialize;

use crate::{Limits, SignError, TokenSigner, UnixTime, VerifyError, VerifyingKey, json, jws};

/// Longest life, seconds.
const LIFE_S_MAX: u64 = 300;
/// Life of what [`sign_statement`] makes, seconds.
const LIFE_S: u64 = 60;
/// Media type of the header.
const TYP: &str = "JWT";

/// Why a self-signed statement does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// No compact JWS of this form.
    #[error("not a self-signed statement: {0}")]
    Malformed(&'static str),
    /// The signature is not that of the key of the connection.
    #[error("not signed with the key of the connection")]
    Signature,
    /// `iss` or `sub` is not the workload on the connection.
    #[error("`{0}` is not the workload on the connection")]
    NotTheRequester(&'static str),
    /// `aud` is not this service.
    #[error("`aud` is not this service")]
    Audience,
    /// It has ended, or has not begun, or lives too long.
    #[error("{0}")]
    Time(&'static str),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    exp: u64,
    nbf: Option<u64>,
}

/// Makes the statement of workload `me` for the token service `service`.
///
/// # Errors
/// [`SignError`].
pub fn sign_statement(
    me: &WorkloadId,
    service: &WorkloadId,
    now: UnixTime,
    signer: &dyn TokenSigner,
) -> Result<String, SignError> {
    let header = format!(r#"{{"alg":"{}","typ":"{TYP}"}}"#, signer.algorithm().name());
    let claims = serde_json::json!({
        "iss": me.as_str(), "sub": me.as_str(), "aud": service.as_str(),
        "iat": now.0, "exp": now.plus(LIFE_S).0,
    });
    let mut text = jws::encode(header.as_bytes());
    text.push('.');
    jws::encode_into(claims.to_string().as_bytes(), &mut text);
    let signature = signer.sign(text.as_bytes())?;
    text.push('.');
    jws::encode_into(&signature, &mut text);
    Ok(text)
}

/// Whether `text` is the statement of `requester`, who proved `key` on this connection, for `me`.
///
/// # Errors
/// [`StatementError`].
pub fn check_statement(
    text: &[u8],
    (requester, key): (&WorkloadId, &VerifyingKey),
    me: &WorkloadId,
    now: UnixTime,
    skew_s: u64,
    limits: &Limits,
) -> Result<(), StatementError> {
    let malformed = |_: VerifyError| StatementError::Malformed("not a compact JWS");
    let parts = jws::split(text, None, limits).map_err(malformed)?;
    let header = jws::decode_part(parts.header).map_err(malformed)?;
    let header = json::check(&header).map_err(StatementError::Malformed)?;
    let header: Header = serde_json::from_str(header)
        .map_err(|_| StatementError::Malformed("a header other than `alg` and `typ`"))?;
    if header.typ != TYP {
        return Err(StatementError::Malformed("a `typ` of another kind of token"));
    }
    if header.alg != key.algorithm().name() {
        return Err(StatementError::Malformed("an `alg` that is not the key's"));
    }
    let signature = jws::decode_part(parts.signature).map_err(malformed)?;
    if !key.verifies(parts.signed, &signature) {
        return Err(StatementError::Signature);
    }
    let payload = jws::decode_part(parts.payload).map_err(malformed)?;
    let payload = json::check(&payload).map_err(StatementError::Malformed)?;
    let claims: Claims = serde_json::from_str(payload)
        .map_err(|_| StatementError::Malformed("a claim is missing or of the wrong type"))?;
    for (name, value) in [("iss", &claims.iss), ("sub", &claims.sub)] {
        if value != requester.as_str() {
            return Err(StatementError::NotTheRequester(name));
        }
    }
    if claims.aud != me.as_str() {
        return Err(StatementError::Audience);
    }
    check_times(&claims, now, skew_s)
}

fn check_times(claims: &Claims, now: UnixTime, skew_s: u64) -> Result<(), StatementError> {
    let (iat, exp) = (UnixTime(claims.iat), UnixTime(claims.exp));
    if exp.plus(skew_s) <= now {
        return Err(StatementError::Time("it has ended"));
    }
    let begins = iat.max(UnixTime(claims.nbf.unwrap_or_default()));
    if begins > now.plus(skew_s) {
        return Err(StatementError::Time("it begins in the future"));
    }
    if exp <= iat || exp.since(iat) > LIFE_S_MAX {
        return Err(StatementError::Time("it lives longer than 300 s"));
    }
    Ok(())
}
