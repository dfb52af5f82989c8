//! Signing keys of the development issuer and their rotation. Pure but for key generation: the
//! time is an argument.
//! Invariant: a key is published for one whole rotation interval before it signs, and stays
//! published until the last token it signed has ended, so that no verifier that refreshes in time
//! ever meets an unknown key.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How the issuer signs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2,048 bits.
    Rs256,
}

enum KeyPair {
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
}

/// One key of the issuer.
struct Key {
    id: String,
    pair: KeyPair,
    jwk: Value,
    /// When the last token it signed ends, in seconds since 1970.
    needed_until: u64,
}

impl Key {
    fn generate(algorithm: Algorithm) -> anyhow::Result<Key> {
        let mut id = [0_u8; 9];
        aws_lc_rs::rand::fill(&mut id)?;
        let id = URL_SAFE_NO_PAD.encode(id);
        let (pair, mut jwk) = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
                let jwk = ec_jwk(pair.public_key().as_ref())?;
                (KeyPair::Es256(pair), jwk)
            }
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
                let jwk = rsa_jwk(&pair)?;
                (KeyPair::Rs256(Box::new(pair)), jwk)
            }
        };
        jwk["kid"] = json!(id);
        jwk["use"] = json!("sig");
        Ok(Key { id, pair, jwk, needed_until: 0 })
    }

    fn alg(&self) -> &'static str {
        match self.pair {
            KeyPair::Es256(_) => "ES256",
            KeyPair::Rs256(_) => "RS256",
        }
    }

    fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let random = SystemRandom::new();
        Ok(match &self.pair {
            KeyPair::Es256(pair) => pair.sign(&random, message)?.as_ref().to_vec(),
            KeyPair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                signature
            }
        })
    }
}

fn ec_jwk(point: &[u8]) -> anyhow::Result<Value> {
    let coordinates = point.strip_prefix(&[4]).filter(|xy| xy.len() == 64);
    let Some((x, y)) = coordinates.and_then(|xy| xy.split_at_checked(32)) else {
        anyhow::bail!("the public key is not an uncompressed P-256 point");
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    Ok(json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}))
}

fn rsa_jwk(pair: &RsaKeyPair) -> anyhow::Result<Value> {
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(der.as_ref())?;
    let PublicKey::RSA(rsa) = info.parsed()? else {
        anyhow::bail!("the public key is not an RSA key");
    };
    // DER writes a zero byte before a leading one bit, JWK must not have it.
    let integer = |der: &[u8]| URL_SAFE_NO_PAD.encode(der.strip_prefix(&[0]).unwrap_or(der));
    let (n, e) = (integer(rsa.modulus), integer(rsa.exponent));
    Ok(json!({"kty": "RSA", "alg": "RS256", "n": n, "e": e}))
}

/// The keys of the issuer: the one that signs, the one that comes next, and those whose tokens
/// still live.
pub struct KeyRing {
    algorithm: Algorithm,
    rotate_s: u64,
    rotates_at: u64,
    current: Key,
    next: Key,
    retired: Vec<Key>,
}

impl KeyRing {
    /// Two fresh keys: one to sign with, one to be known in advance.
    ///
    /// # Errors
    /// When no key can be generated.
    pub fn new(algorithm: Algorithm, rotate_s: u64, now_s: u64) -> anyhow::Result<KeyRing> {
        Ok(KeyRing {
            algorithm,
            rotate_s,
            rotates_at: now_s.saturating_add(rotate_s),
            current: Key::generate(algorithm)?,
            next: Key::generate(algorithm)?,
            retired: Vec::new(),
        })
    }

    /// Rotates if it is time, and forgets keys nobody needs any more. Returns the id of the key
    /// that signs from now on, if it changed.
    ///
    /// # Errors
    /// When no key can be generated; the ring is then unchanged.
    pub fn advance(&mut self, now_s: u64) -> anyhow::Result<Option<&str>> {
        self.retired.retain(|key| key.needed_until >= now_s);
        if now_s < self.rotates_at {
            return Ok(None);
        }
        let fresh = Key::generate(self.algorithm)?;
        let used = std::mem::replace(&mut self.current, std::mem::replace(&mut self.next, fresh));
        if used.needed_until >= now_s {
            self.retired.push(used);
        }
        self.rotates_at = now_s.saturating_add(self.rotate_s);
        Ok(Some(&self.current.id))
    }

    /// The published set.
    pub fn jwks(&self) -> Value {
        let keys = [&self.current, &self.next].into_iter().chain(&self.retired);
        json!({"keys": keys.map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// A compact JWS over `claims` that is needed until `expires_at`, plus a minute for clocks
    /// that differ.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&mut self, typ: &str, claims: &Value, expires_at: u64) -> anyhow::Result<String> {
        let key = &mut self.current;
        key.needed_until = key.needed_until.max(expires_at.saturating_add(60));
        let header = json!({"alg": key.alg(), "typ": typ, "kid": key.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
