//! JWT-SVIDs (the SPIFFE specification of that name) as proof of a caller outside the mesh.
//!
//! Invariants: the keys are those of the trust domain the subject names, and no other's; a header
//! with any member but `alg`, `kid` and `typ` is refused, so that no other kind of token, a context
//! token above all, ever passes for a JWT-SVID. Pure: bundles and the time are arguments.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use countersign_certs_client::JwtBundle;
use countersign_workload_id::{TrustDomain, WorkloadId};
use serde_json::{Map, Value};

use super::claims::{Life, check_audience, text};
use super::error::CallerError;
use crate::clock::Now;
use crate::gateway::strict_json;
use crate::gateway::user_keys::{member, point};
use crate::gateway::user_token::UnverifiedToken;

/// The algorithms of a JWT-SVID (J-3). HMAC, `none` and EdDSA do not exist in this type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
}

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
];

/// The shortest modulus of an RSA key.
const RSA_BYTES_MIN: usize = 2048 / 8;

/// The algorithm of this name, compared by bytes.
fn algorithm(jose: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(name, _)| *name == jose).map(|(_, algorithm)| *algorithm)
}

/// The token keys of one trust domain, ready to verify with.
pub struct SvidKeys {
    keys: Vec<(String, Algorithm, ParsedPublicKey)>,
}

impl fmt::Debug for SvidKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(kid, alg, _)| (kid, alg))).finish()
    }
}

impl SvidKeys {
    /// Parses the keys of a bundle once. A key that cannot be used (another curve, a short RSA
    /// key) is left out: the others must go on to work.
    pub fn of(bundle: &JwtBundle) -> SvidKeys {
        let set = strict_json::object(bundle.jwks()).unwrap_or_default();
        let mut keys = Vec::new();
        for jwk in set.get("keys").and_then(Value::as_array).into_iter().flatten() {
            let Some(jwk) = jwk.as_object() else { continue };
            let Some(kid) = jwk.get("kid").and_then(Value::as_str) else { continue };
            let stated = jwk.get("alg").and_then(Value::as_str);
            let fitting =
                ALGORITHMS.iter().filter(|(name, _)| stated.is_none_or(|own| own == *name));
            for (_, algorithm) in fitting {
                let key = parse_key(jwk, *algorithm);
                keys.extend(key.map(|key| (kid.to_owned(), *algorithm, key)));
            }
        }
        SvidKeys { keys }
    }

    fn find(
        &self,
        kid: &str,
        algorithm: Algorithm,
        whose: &TrustDomain,
    ) -> Result<&ParsedPublicKey, CallerError> {
        let mut named = self.keys.iter().filter(|(own, _, _)| own == kid).peekable();
        if named.peek().is_none() {
            let kid: String = kid.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            return Err(CallerError::KeyUnknown { kid, whose: format!("trust domain {whose}") });
        }
        let fitting = named.find(|(_, own, _)| *own == algorithm).map(|(_, _, key)| key);
        fitting.ok_or(CallerError::AlgorithmNotPermitted)
    }
}

/// The key of `jwk` for `algorithm`; `None` when type or curve do not fit, or the key is unusable.
fn parse_key(jwk: &Map<String, Value>, algorithm: Algorithm) -> Option<ParsedPublicKey> {
    let kty = jwk.get("kty").and_then(Value::as_str)?;
    let crv = jwk.get("crv").and_then(Value::as_str).unwrap_or_default();
    let rsa = |parameters: &'static RsaParameters| {
        let (n, e) = (member(jwk, "n").ok()?, member(jwk, "e").ok()?);
        // Parsing takes any length, verification does not; what can verify nothing is no key.
        if n.iter().skip_while(|byte| **byte == 0).count() < RSA_BYTES_MIN {
            return None;
        }
        RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters).ok()
    };
    match (algorithm, kty, crv) {
        (Algorithm::Es256, "EC", "P-256") => {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point(jwk, 32).ok()?).ok()
        }
        (Algorithm::Es384, "EC", "P-384") => {
            ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point(jwk, 48).ok()?).ok()
        }
        (Algorithm::Es512, "EC", "P-521") => {
            ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point(jwk, 66).ok()?).ok()
        }
        (Algorithm::Rs256, "RSA", _) => rsa(&RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::Rs384, "RSA", _) => rsa(&RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::Rs512, "RSA", _) => rsa(&RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::Ps256, "RSA", _) => rsa(&RSA_PSS_2048_8192_SHA256),
        (Algorithm::Ps384, "RSA", _) => rsa(&RSA_PSS_2048_8192_SHA384),
        (Algorithm::Ps512, "RSA", _) => rsa(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

/// Which JWT-SVIDs count.
#[derive(Clone, Debug)]
pub struct JwtSvids {
    /// The `aud` value that is ours.
    pub audience: String,
    /// The keys of each trust domain that may call; `None`: it may, but there are none yet.
    pub keys: BTreeMap<TrustDomain, Option<Arc<SvidKeys>>>,
    /// What a caller may be granted.
    pub grants: Vec<String>,
}

/// Whether the claims are those of a JWT-SVID: only a hint to what is to be verified.
pub(super) fn looks_like(claims: &Map<String, Value>) -> bool {
    claims.get("sub").and_then(Value::as_str).is_some_and(|sub| sub.starts_with("spiffe://"))
}

/// Verifies a JWT-SVID: who it names, and when it counts.
pub(super) fn verify(
    token: &UnverifiedToken<'_>,
    rules: &JwtSvids,
    now: Now,
) -> Result<(WorkloadId, Life), CallerError> {
    let typ_known = matches!(token.typ.as_deref(), None | Some("JWT" | "JOSE"));
    if !token.plain_header || !typ_known {
        return Err(CallerError::HeaderForbidden);
    }
    let algorithm = algorithm(&token.alg).ok_or(CallerError::AlgorithmNotPermitted)?;
    let kid = token.kid.as_deref().filter(|kid| !kid.is_empty());
    let kid = kid.ok_or(CallerError::Malformed("the JWT-SVID names no key (`kid`)"))?;
    let subject = text(&token.claims, "sub")?;
    let id = WorkloadId::parse(subject)
        .map_err(|_| CallerError::SubjectInvalid("the subject of the token is no SPIFFE ID"))?;
    let domain = id.trust_domain();
    let keys = rules.keys.get(domain).ok_or(CallerError::SubjectInvalid(
        "the subject is of a trust domain that may not call here (`jwtSvid.trustDomains`)",
    ))?;
    let Some(keys) = keys else {
        let what = format!(
            "no JWT bundle of {domain}: neither the source of our own identity nor `federation` \
             brought one; ask the authority whether it serves one, or write `jwtSvid.bundle`"
        );
        return Err(CallerError::Unverifiable(what));
    };
    keys.find(kid, algorithm, domain)?
        .verify_sig(token.signed, &token.signature)
        .map_err(|_| CallerError::SignatureInvalid)?;
    let life = Life::read(&token.claims)?;
    life.check(now)?;
    check_audience(&token.claims, &rules.audience)?;
    Ok((id, life))
}
