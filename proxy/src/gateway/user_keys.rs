//! Public keys of an identity provider: the loader of a JWK set. Keys are parsed once, when a set
//! is loaded, each for one algorithm. `none` and the HMAC family do not exist in `UserAlgorithm`,
//! so a public key can never be taken for a shared secret.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_policy::doc::UserAlgorithm;
use serde_json::{Map, Value};

use super::strict_json;

/// Most keys in a set.
const KEYS_MAX: usize = countersign_config::limits::JWKS_KEYS_MAX;
/// Longest key id that is looked up.
pub(crate) const KEY_ID_BYTES_MAX: usize = 256;

/// Members of a JWK that only its owner may know.
pub(super) const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "k"];

/// The algorithm named by a JOSE `alg` value, compared by bytes.
pub(super) fn algorithm(jose: &str) -> Option<UserAlgorithm> {
    Some(match jose {
        "Ed25519" | "EdDSA" => UserAlgorithm::Ed25519,
        "ES256" => UserAlgorithm::ES256,
        "ES384" => UserAlgorithm::ES384,
        "PS256" => UserAlgorithm::PS256,
        "PS384" => UserAlgorithm::PS384,
        "PS512" => UserAlgorithm::PS512,
        "RS256" => UserAlgorithm::RS256,
        "RS384" => UserAlgorithm::RS384,
        "RS512" => UserAlgorithm::RS512,
        _ => return None,
    })
}

fn rsa_parameters(algorithm: UserAlgorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        UserAlgorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        UserAlgorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        UserAlgorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        UserAlgorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        UserAlgorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        UserAlgorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        UserAlgorithm::Ed25519 | UserAlgorithm::ES256 | UserAlgorithm::ES384 => return None,
    })
}

/// Why a JWK set was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeySetError {
    /// Two keys answer to the same id and algorithm.
    #[error("two keys have the key id `{0}`")]
    DuplicateKeyId(String),
    /// No entry is a signature key this provider may use.
    #[error("no entry is a usable signature key of the provider's algorithms")]
    Empty,
    /// Not a JWK set.
    #[error("not a JWK set: {0}")]
    Malformed(String),
    /// The set contains private or secret key material.
    #[error("an entry contains a private key: it is compromised")]
    PrivateKey,
    /// More than the limit.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

/// The usable keys of one provider.
pub struct UserKeySet {
    keys: Vec<UserKey>,
    /// SHA-256 of the document they were read from.
    source_sha256: digest::Digest,
}

struct UserKey {
    id: Option<String>,
    algorithm: UserAlgorithm,
    key: ParsedPublicKey,
}

impl fmt::Debug for UserKeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

/// The outcome of looking for a key.
pub(crate) enum Lookup<'a> {
    /// The key to verify with.
    Found(&'a ParsedPublicKey),
    /// The key id is known, but not for this algorithm.
    OtherAlgorithm,
    /// Nobody knows the key id, or none was given and it is not clear which key is meant.
    Unknown,
}

impl UserKeySet {
    /// Reads a JWK set and keeps the signature keys that fit `algorithms`.
    ///
    /// Entries for encryption, of other types or for other algorithms are skipped. A JWK without
    /// `alg` serves every permitted algorithm that fits its type and curve.
    ///
    /// # Errors
    /// When the set is malformed, ambiguous, too large, contains private keys, or has no usable key.
    pub fn from_jwks_json(
        json: &[u8],
        algorithms: &[UserAlgorithm],
    ) -> Result<UserKeySet, KeySetError> {
        let document =
            strict_json::object(json).map_err(|error| KeySetError::Malformed(error.to_string()))?;
        let Some(Value::Array(entries)) = document.get("keys") else {
            return Err(KeySetError::Malformed("`keys` is not a list".into()));
        };
        if entries.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let source_sha256 = digest::digest(&digest::SHA256, json);
        let mut set = UserKeySet { keys: Vec::new(), source_sha256 };
        for entry in entries {
            let Value::Object(jwk) = entry else {
                return Err(KeySetError::Malformed("an entry is not an object".into()));
            };
            set.add(jwk, algorithms)?;
        }
        if set.keys.is_empty() { Err(KeySetError::Empty) } else { Ok(set) }
    }

    /// Whether both were read from the same bytes.
    pub(super) fn same_source(&self, other: &UserKeySet) -> bool {
        self.source_sha256.as_ref() == other.source_sha256.as_ref()
    }

    /// How many (key, algorithm) pairs are usable.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none; never true for a loaded set.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn find(&self, id: Option<&str>, algorithm: UserAlgorithm) -> Lookup<'_> {
        let named = |key: &&UserKey| id.is_none() || key.id.as_deref() == id;
        let mut fitting = self.keys.iter().filter(named).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Lookup::Found(&key.key),
            (None, _) if id.is_some() && self.keys.iter().any(|key| named(&key)) => {
                Lookup::OtherAlgorithm
            }
            _ => Lookup::Unknown,
        }
    }

    fn add(
        &mut self,
        jwk: &Map<String, Value>,
        permitted: &[UserAlgorithm],
    ) -> Result<(), KeySetError> {
        if PRIVATE_MEMBERS.iter().any(|name| jwk.contains_key(*name)) {
            return Err(KeySetError::PrivateKey);
        }
        if !is_for_signatures(jwk) {
            return Ok(());
        }
        let stated = match jwk.get("alg") {
            None => None,
            Some(alg) => match alg.as_str().and_then(algorithm) {
                Some(alg) => Some(alg),
                None => return Ok(()),
            },
        };
        let id = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
        for algorithm in permitted.iter().copied().filter(|alg| stated.is_none_or(|s| s == *alg)) {
            let Some(key) = parse_key(jwk, algorithm)? else { continue };
            if self.keys.iter().any(|k| id.is_some() && k.id == id && k.algorithm == algorithm) {
                return Err(KeySetError::DuplicateKeyId(id.unwrap_or_default()));
            }
            self.keys.push(UserKey { id: id.clone(), algorithm, key });
        }
        Ok(())
    }
}

fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let by_use = jwk.get("use").is_none_or(|value| value == "sig");
    let by_ops = match jwk.get("key_ops") {
        None => true,
        Some(Value::Array(ops)) => ops.iter().any(|op| op == "verify"),
        Some(_) => false,
    };
    let short_id = match jwk.get("kid") {
        None => true,
        Some(Value::String(id)) => id.len() <= KEY_ID_BYTES_MAX,
        Some(_) => false,
    };
    by_use && by_ops && short_id
}

/// The key of `jwk` for `algorithm`, or `None` when type or curve do not fit it.
pub(super) fn parse_key(
    jwk: &Map<String, Value>,
    algorithm: UserAlgorithm,
) -> Result<Option<ParsedPublicKey>, KeySetError> {
    let kty = jwk.get("kty").and_then(Value::as_str).unwrap_or_default();
    let crv = jwk.get("crv").and_then(Value::as_str).unwrap_or_default();
    let parsed = match (algorithm, kty, crv) {
        (UserAlgorithm::ES256, "EC", "P-256") => {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(jwk, 32)?)
        }
        (UserAlgorithm::ES384, "EC", "P-384") => {
            ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point(jwk, 48)?)
        }
        (UserAlgorithm::Ed25519, "OKP", "Ed25519") => {
            ParsedPublicKey::new(&ED25519, member(jwk, "x")?)
        }
        (_, "RSA", _) => {
            let Some(parameters) = rsa_parameters(algorithm) else { return Ok(None) };
            RsaPublicKeyComponents { n: member(jwk, "n")?, e: member(jwk, "e")? }
                .to_parsed_public_key(parameters)
        }
        _ => return Ok(None),
    };
    let rejected = |error| KeySetError::Malformed(format!("a key was refused: {error}"));
    parsed.map(Some).map_err(rejected)
}

/// An uncompressed curve point; that it lies on the curve is checked when the key is parsed.
pub(super) fn point(jwk: &Map<String, Value>, bytes: usize) -> Result<Vec<u8>, KeySetError> {
    let (x, y) = (member(jwk, "x")?, member(jwk, "y")?);
    if x.len() != bytes || y.len() != bytes {
        return Err(KeySetError::Malformed("a curve coordinate has the wrong length".into()));
    }
    let mut point = vec![4];
    point.extend(x);
    point.extend(y);
    Ok(point)
}

pub(super) fn member(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeySetError> {
    let text = jwk.get(name).and_then(Value::as_str);
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .ok_or_else(|| KeySetError::Malformed(format!("`{name}` of a key is not base64url text")))
}
