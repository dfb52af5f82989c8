//! The tokens the client sends through the Envoy pair: ES256, signed before any measurement,
//! each with its own `jti`, with the claims a context token of ours carries.
//!
//! Envoy's `jwt_authn` keeps no cache of verified tokens unless told to, and is not told to; the
//! pool is larger than any cache it could have, so each request costs one verification.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
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

/// Signed tokens, handed out in order.
pub(crate) struct TokenPool {
    bearer: Vec<HeaderValue>,
    next: Cell<usize>,
    jwks: String,
}

impl TokenPool {
    /// Makes a key and signs the whole pool.
    pub(crate) fn sign() -> Result<TokenPool> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow!("could not make a signing key"))?;
        let rng = SystemRandom::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let bearer = (0..POOL_SIZE)
            .map(|serial| {
                let token = sign(&key, &rng, &claims(now, serial))?;
                Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(TokenPool { bearer, next: Cell::new(0), jwks: jwks(key.public_key().as_ref())? })
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

fn sign(key: &EcdsaKeyPair, rng: &SystemRandom, claims: &serde_json::Value) -> Result<String> {
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID});
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature =
        key.sign(rng, token.as_bytes()).map_err(|_| anyhow!("could not sign a token"))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// `point` is the uncompressed form: 4, x, y.
fn jwks(point: &[u8]) -> Result<String> {
    let Some((x, y)) = point.get(1..).and_then(|xy| xy.split_at_checked(32)) else {
        return Err(anyhow!("the public key is not a P-256 point"));
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": x, "y": y});
    Ok(json!({"keys": [key]}).to_string())
}
