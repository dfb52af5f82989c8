//! DPoP proofs (RFC 9449 §4.3): one JWS, made for one request with one token.
//! Invariant: the key in the proof's header is looked at only as the one the token is bound to; a
//! proof by any other key is refused before its signature is checked. Pure: nothing is remembered
//! here, and the time is an argument.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_config::limits::DPOP_PROOF_BYTES_MAX;
use countersign_policy::doc::{ProofRules, UserAlgorithm};
use http::HeaderMap;
use serde_json::{Map, Value};

use super::super::identify::{IdentifyError, SKEW_S};
use super::super::user_claims::seconds;
use super::super::{user_keys, user_token};
use super::{ProofError, Shown};
use crate::clock::Now;

/// The field a proof stands in.
pub const FIELD: &str = "dpop";
/// Longest `jti`; RFC 9449 §4.2 asks for 96 bits of randomness at least.
const ID_BYTES_MAX: usize = 256;

/// A proof that fits its request and token. Whether it was used before is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// `jti`.
    pub id: Arc<str>,
    /// `iat`, seconds since 1970.
    pub made_at: u64,
    /// `nonce`.
    pub nonce: Option<String>,
}

/// Reads the one proof of a request and checks all that needs no memory.
pub(super) fn check(
    shown: &Shown<'_>,
    key: [u8; 32],
    token_sha256: &[u8; 32],
    rules: &ProofRules,
    now: Now,
) -> Result<Proof, ProofError> {
    let text = field(shown.headers)?;
    let (header, proof) = user_token::take_apart(text).map_err(malformed)?;
    if proof.typ.as_deref() != Some("dpop+jwt") {
        return Err(ProofError::Malformed("its `typ` is not `dpop+jwt`"));
    }
    let algorithm = user_keys::algorithm(&proof.alg)
        .filter(|algorithm| rules.algorithms.contains(algorithm))
        .ok_or(ProofError::AlgorithmNotPermitted)?;
    let Some(Value::Object(jwk)) = header.get("jwk") else {
        return Err(ProofError::Malformed("its header carries no `jwk`"));
    };
    if thumbprint(jwk)? != key {
        return Err(ProofError::KeyWrong);
    }
    check_signature(jwk, algorithm, &proof)?;
    check_claims(&proof.claims, shown, token_sha256, rules, now)
}

/// The one proof of the request.
fn field(headers: &HeaderMap) -> Result<&str, ProofError> {
    let mut fields = headers.get_all(FIELD).iter();
    let field = fields.next().ok_or(ProofError::Missing)?;
    if fields.next().is_some() {
        return Err(ProofError::Repeated);
    }
    if field.len() > DPOP_PROOF_BYTES_MAX {
        return Err(ProofError::Malformed("it is too large"));
    }
    field.to_str().map_err(|_| ProofError::Malformed("it is not ASCII text"))
}

fn malformed(error: IdentifyError) -> ProofError {
    match error {
        IdentifyError::Malformed(what) => ProofError::Malformed(what),
        _ => ProofError::Malformed("it is not a compact JWS"),
    }
}

/// SHA-256 of the key's required members in their order (RFC 7638 §3).
pub(super) fn thumbprint(jwk: &Map<String, Value>) -> Result<[u8; 32], ProofError> {
    if user_keys::PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
        return Err(ProofError::Malformed("its header carries a private key"));
    }
    let names: &[&str] = match jwk.get("kty").and_then(Value::as_str) {
        Some("EC") => &["crv", "kty", "x", "y"],
        Some("OKP") => &["crv", "kty", "x"],
        Some("RSA") => &["e", "kty", "n"],
        _ => return Err(ProofError::Malformed("its key is of an unknown type")),
    };
    let mut canonical = String::from("{");
    for name in names {
        let value = jwk.get(*name).and_then(Value::as_str).filter(|value| is_plain(value));
        let value = value.ok_or(ProofError::Malformed("a member of its key is no plain text"))?;
        let comma = if canonical.len() > 1 { "," } else { "" };
        canonical.push_str(&format!("{comma}\"{name}\":\"{value}\""));
    }
    canonical.push('}');
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, canonical.as_bytes()).as_ref());
    Ok(hash)
}

/// Letters that JSON writes as they are.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn check_signature(
    jwk: &Map<String, Value>,
    algorithm: UserAlgorithm,
    proof: &user_token::UnverifiedToken<'_>,
) -> Result<(), ProofError> {
    let stated = jwk.get("alg").map(|alg| alg.as_str().and_then(user_keys::algorithm));
    if stated.is_some_and(|stated| stated != Some(algorithm)) {
        return Err(ProofError::AlgorithmNotPermitted);
    }
    let key = user_keys::parse_key(jwk, algorithm)
        .map_err(|_| ProofError::Malformed("its key cannot be used"))?
        .ok_or(ProofError::AlgorithmNotPermitted)?;
    key.verify_sig(proof.signed, &proof.signature).map_err(|_| ProofError::SignatureInvalid)
}

pub(super) fn check_claims(
    claims: &Map<String, Value>,
    shown: &Shown<'_>,
    token_sha256: &[u8; 32],
    rules: &ProofRules,
    now: Now,
) -> Result<Proof, ProofError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("htm").ok_or(ProofError::Malformed("it has no `htm`"))? != shown.target.method {
        return Err(ProofError::MethodWrong);
    }
    if !shown.target.is_at(text("htu").ok_or(ProofError::Malformed("it has no `htu`"))?) {
        return Err(ProofError::UrlWrong);
    }
    let of_token = text("ath").ok_or(ProofError::TokenWrong)?;
    if of_token != URL_SAFE_NO_PAD.encode(token_sha256) {
        return Err(ProofError::TokenWrong);
    }
    let made_at = claims.get("iat").and_then(seconds);
    let made_at = made_at.ok_or(ProofError::Malformed("it has no `iat`"))?;
    let age = now.secs().saturating_sub(made_at);
    if age > rules.max_age_s {
        return Err(ProofError::TooOld { by_s: age });
    }
    let ahead = made_at.saturating_sub(now.secs());
    if ahead > SKEW_S {
        return Err(ProofError::FromTheFuture { by_s: ahead });
    }
    let id = text("jti").filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()));
    let id = id.ok_or(ProofError::Malformed("it has no `jti`, or one that is too long"))?;
    let nonce = match claims.get("nonce") {
        None => None,
        Some(Value::String(nonce)) => Some(nonce.clone()),
        Some(_) => return Err(ProofError::Malformed("its `nonce` is no text")),
    };
    Ok(Proof { id: id.into(), made_at, nonce })
}

/// As for a token bound to whatever key the proof itself carries, for tests and fuzzing.
///
/// # Errors
/// As for any proof.
pub fn check_by_its_own_key(
    shown: &Shown<'_>,
    token_sha256: &[u8; 32],
    rules: &ProofRules,
    now: Now,
) -> Result<Proof, ProofError> {
    check(shown, own_key(shown)?, token_sha256, rules, now)
}

/// The thumbprint of the key a proof carries.
///
/// # Errors
/// As for any proof.
pub fn own_key(shown: &Shown<'_>) -> Result<[u8; 32], ProofError> {
    let (header, _) = user_token::take_apart(field(shown.headers)?).map_err(malformed)?;
    match header.get("jwk") {
        Some(Value::Object(jwk)) => thumbprint(jwk),
        _ => Err(ProofError::Malformed("its header carries no `jwk`")),
    }
}
