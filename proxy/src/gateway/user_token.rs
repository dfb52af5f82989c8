//! The compact form of a user token, taken apart and nothing more: sizes, alphabet, strict JSON,
//! header members. What comes out is still unverified; only `identify` looks at it.
//! Invariant: a header that asks for anything we do not do (`crit`, compression, encryption) is
//! refused here, and keys named or carried in the header (`jwk jku x5c x5u`) of a token are never read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::identify::IdentifyError;
use super::strict_json;
use super::user_keys::KEY_ID_BYTES_MAX;

/// Longest user token. Access tokens of the large providers stay below 4 KiB.
pub(crate) const USER_TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest decoded header.
const HEADER_BYTES_MAX: usize = 2 * 1024;

/// A user token taken apart. Nothing in it is proven.
pub(crate) struct UnverifiedToken<'a> {
    /// JOSE `alg`, as sent.
    pub(crate) alg: String,
    /// JOSE `typ`, as sent.
    pub(crate) typ: Option<String>,
    /// JOSE `kid`, as sent.
    pub(crate) kid: Option<String>,
    /// Whether the header has no member but `alg`, `kid` and `typ`.
    pub(crate) plain_header: bool,
    /// The claims.
    pub(crate) claims: Map<String, Value>,
    /// What the signature covers.
    pub(crate) signed: &'a [u8],
    /// The signature.
    pub(crate) signature: Vec<u8>,
}

/// Takes a compact JWS apart.
pub(crate) fn parse(token: &str) -> Result<UnverifiedToken<'_>, IdentifyError> {
    take_apart(token).map(|(_, token)| token)
}

/// Takes a compact JWS apart and keeps its whole header: a DPoP proof brings its key along.
pub(super) fn take_apart(
    token: &str,
) -> Result<(Map<String, Value>, UnverifiedToken<'_>), IdentifyError> {
    if token.len() > USER_TOKEN_BYTES_MAX {
        return Err(IdentifyError::Malformed("the token is too large"));
    }
    let Some((signed, signature)) = token.rsplit_once('.') else {
        return Err(IdentifyError::Malformed("the token is not a compact JWS"));
    };
    let Some((header, payload)) = signed.split_once('.') else {
        return Err(IdentifyError::Malformed("the token is not a compact JWS"));
    };
    // A third dot would land in `payload`, whose alphabet has none.
    let header = decode(header)?;
    if header.len() > HEADER_BYTES_MAX {
        return Err(IdentifyError::Malformed("the header of the token is too large"));
    }
    let header = object(&header)?;
    for name in ["crit", "b64", "zip", "enc"] {
        if header.contains_key(name) {
            return Err(IdentifyError::Malformed("the header of the token asks for an extension"));
        }
    }
    let kid = text(&header, "kid")?;
    if kid.as_ref().is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX) {
        return Err(IdentifyError::Malformed("the key id of the token is too long"));
    }
    let token = UnverifiedToken {
        alg: text(&header, "alg")?.ok_or(IdentifyError::Malformed("the token names no `alg`"))?,
        typ: text(&header, "typ")?,
        kid,
        plain_header: header.keys().all(|name| ["alg", "kid", "typ"].contains(&name.as_str())),
        claims: object(&decode(payload)?)?,
        signed: signed.as_bytes(),
        signature: decode(signature)?,
    };
    Ok((header, token))
}

fn decode(part: &str) -> Result<Vec<u8>, IdentifyError> {
    let bad = |_| IdentifyError::Malformed("a part of the token is not strict base64url");
    URL_SAFE_NO_PAD.decode(part).map_err(bad)
}

fn object(json: &[u8]) -> Result<Map<String, Value>, IdentifyError> {
    let bad = |_| IdentifyError::Malformed("a part of the token is not strict JSON");
    strict_json::object(json).map_err(bad)
}

fn text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, IdentifyError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value.clone())),
        Some(_) => Err(IdentifyError::Malformed("a header member of the token is not text")),
    }
}
