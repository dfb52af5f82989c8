//! The tokens the client sends through pairs that do not mint: signed before any measurement, each
//! with its own `jti`, with the claims a context token of ours carries.
//!
//! Envoy's `jwt_authn` keeps no cache of verified tokens unless told to, and is not told to; the
//! pool is larger than any cache it could have, so each request costs one verification.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::json;

use crate::pki::{GATEWAY_ID, ORDERS_ID, TRUST_DOMAIN};

/// How many tokens a pool holds before it starts over.
const POOL_SIZE: usize = 50_000;
/// Long enough for any run.
const LIFE: Duration = Duration::from_secs(6 * 3600);
const KEY_ID: &str = "bench-1";

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// P-256.
    Es256,
    /// Ed25519, which Envoy knows as `EdDSA`.
    Ed25519,
}

impl Algorithm {
    /// As in the names of figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Es256 => "es256",
            Algorithm::Ed25519 => "ed25519",
        }
    }

    fn in_header(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::Ed25519 => "EdDSA",
        }
    }
}

/// A key and nothing around it.
pub(crate) enum Key {
    Es256(EcdsaKeyPair, SystemRandom),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// A new one.
    pub(crate) fn generate(algorithm: Algorithm) -> Result<Key> {
        let made = match algorithm {
            Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                .map(|pair| Key::Es256(pair, SystemRandom::new())),
            Algorithm::Ed25519 => Ed25519KeyPair::generate().map(Key::Ed25519),
        };
        made.map_err(|_| anyhow!("could not make a signing key"))
    }

    /// Signs.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(match self {
            Key::Es256(pair, rng) => {
                let signature = pair.sign(rng, message);
                signature.map_err(|_| anyhow!("could not sign"))?.as_ref().to_vec()
            }
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    /// What verifies.
    pub(crate) fn public(&self) -> Result<ParsedPublicKey> {
        match self {
            Key::Es256(pair, _) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref())
            }
            Key::Ed25519(pair) => ParsedPublicKey::new(&ED25519, pair.public_key().as_ref()),
        }
        .map_err(|_| anyhow!("the public key is not read"))
    }

    /// `algorithm`'s JWK.
    fn jwk(&self) -> Result<serde_json::Value> {
        Ok(match self {
            Key::Es256(pair, _) => {
                // The uncompressed form: 4, x, y.
                let point = pair.public_key().as_ref();
                let xy = point.get(1..).and_then(|xy| xy.split_at_checked(32));
                let (x, y) = xy.context("the public key is not a P-256 point")?;
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
                    "x": x, "y": y})
            }
            Key::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": KEY_ID,
                    "x": x})
            }
        })
    }
}

/// Signed tokens, handed out in order.
pub(crate) struct TokenPool {
    bearer: Vec<HeaderValue>,
    next: Cell<usize>,
    jwks: String,
}

impl TokenPool {
    /// Makes a key and signs the whole pool.
    pub(crate) fn sign(algorithm: Algorithm) -> Result<TokenPool> {
        let key = Key::generate(algorithm)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let bearer = (0..POOL_SIZE)
            .map(|serial| {
                let token = sign(&key, algorithm, &claims(now, serial))?;
                Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
            })
            .collect::<Result<Vec<_>>>()?;
        let jwks = json!({"keys": [key.jwk()?]}).to_string();
        Ok(TokenPool { bearer, next: Cell::new(0), jwks })
    }

    /// The `Authorization` value of the next request.
    pub(crate) fn next(&self) -> &HeaderValue {
        let index = self.next.get();
        self.next.set((index + 1) % self.bearer.len());
        &self.bearer[index]
    }

    /// The public key as a JWK set.
    pub(crate) fn jwks(&self) -> &str {
        &self.jwks
    }

    /// How long one token is, in bytes.
    pub(crate) fn token_bytes(&self) -> usize {
        self.bearer[0].len() - "Bearer ".len()
    }
}

fn claims(now: u64, serial: usize) -> serde_json::Value {
    json!({
        "iss": GATEWAY_ID, "aud": TRUST_DOMAIN, "iat": now, "exp": now + LIFE.as_secs(),
        "txn": format!("01a1f9e6-9359-7e8d-bfc5-{serial:012x}"), "jti": format!("{serial:022x}"),
        "sub": "anon", "scope": "orders.read", "req_wl": GATEWAY_ID,
        "rctx": {"v": 1, "origin": "user", "to": ORDERS_ID, "req_ip": "127.0.0.1",
            "ip_src": "peer"},
        "tctx": {"m": "GET", "p": "/v1/users/{user}/orders"},
    })
}

fn sign(key: &Key, algorithm: Algorithm, claims: &serde_json::Value) -> Result<String> {
    let header = json!({"alg": algorithm.in_header(), "typ": "JWT", "kid": KEY_ID});
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_verifies_what_it_signed_and_nothing_else() {
        for algorithm in [Algorithm::Es256, Algorithm::Ed25519] {
            let key = Key::generate(algorithm).unwrap();
            let (public, signature) = (key.public().unwrap(), key.sign(b"a").unwrap());
            assert!(public.verify_sig(b"a", &signature).is_ok());
            assert!(public.verify_sig(b"b", &signature).is_err());
        }
    }
}
