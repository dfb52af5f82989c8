//! What both kinds of caller tokens have in common: times and audience.
//! Pure: the time is an argument.

use serde_json::{Map, Value};

use super::error::CallerError;
use crate::clock::Now;
use crate::gateway::user_claims::seconds;

/// How far the clock of an issuer may differ from ours.
const SKEW_S: u64 = 30;

/// When a token may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Life {
    begins_at: u64,
    /// When it was issued, where it says so.
    pub(super) issued_at: Option<u64>,
    /// When it ends.
    pub(super) expires_at: u64,
}

impl Life {
    /// Reads `exp`, which must be there, `iat` and `nbf`.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Life, CallerError> {
        let time = |name: &'static str| match claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(CallerError::ClaimInvalid(name)),
        };
        let expires_at = time("exp")?.ok_or(CallerError::ClaimInvalid("exp"))?;
        let issued_at = time("iat")?;
        let begins_at = time("nbf")?.max(issued_at).unwrap_or_default();
        Ok(Life { begins_at, issued_at, expires_at })
    }

    /// Whether it is now.
    pub(super) fn check(self, now: Now) -> Result<(), CallerError> {
        let now = now.secs();
        if self.expires_at.saturating_add(SKEW_S) <= now {
            return Err(CallerError::Expired { by_s: now.saturating_sub(self.expires_at) });
        }
        if self.begins_at > now.saturating_add(SKEW_S) {
            return Err(CallerError::NotYetValid { ahead_s: self.begins_at.saturating_sub(now) });
        }
        Ok(())
    }
}

/// `aud` is one text or a list of texts; one of them must be ours.
pub(super) fn check_audience(claims: &Map<String, Value>, ours: &str) -> Result<(), CallerError> {
    let is_ours = |value: &Value| value.as_str() == Some(ours);
    let found = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if found { Ok(()) } else { Err(CallerError::AudienceWrong { ours: ours.to_owned() }) }
}

/// A claim that is a text.
pub(super) fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a str, CallerError> {
    let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or(CallerError::ClaimInvalid(name))
}
