//! Context tokens made by hand, sound or not: the test holds the gateway's key.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_ctxtoken::{LocalSigner, TokenSigner as _};
use serde_json::{Value, json};

use crate::pki::{Authority, Leaf};

/// Signs whatever it is given with one workload's key.
pub struct Tokens {
    issuer: String,
    domain: String,
    leaf: Leaf,
    signer: LocalSigner,
}

impl Tokens {
    /// With the key of a leaf that names `issuer`.
    ///
    /// # Panics
    /// When the key is no P-256 key.
    pub fn new(domain: &str, issuer: &str, leaf: Leaf) -> Tokens {
        let signer = LocalSigner::from_pkcs8_der(&leaf.key).unwrap();
        Tokens { issuer: issuer.to_owned(), domain: domain.to_owned(), leaf, signer }
    }

    /// With a fresh leaf of `namespace/account`.
    pub fn of(ca: &Authority, namespace: &str, account: &str) -> Tokens {
        let leaf = ca.leaf(namespace, account);
        Tokens::new(ca.domain(), &ca.id(namespace, account), leaf)
    }

    /// The leaf behind the key.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The key's JWK for a key set.
    ///
    /// # Panics
    /// Never: the JWK is made here.
    pub fn jwk(&self) -> Value {
        serde_json::from_str(&self.signer.verifying_key().to_jwk()).unwrap()
    }

    /// The key's name.
    pub fn kid(&self) -> String {
        self.signer.verifying_key().kid()
    }

    /// The claims of a sound token for alice, handed to `to`.
    pub fn claims(&self, to: &str) -> Value {
        let now = now_s();
        json!({
            "iss": self.issuer, "aud": self.domain, "iat": now, "exp": now + 60,
            "txn": "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2", "jti": unique(), "sub": "user:alice",
            "scope": "orders.read", "req_wl": self.issuer,
            "rctx": {"v": 1, "origin": "user", "to": to, "idp": "corp", "acct": "alice"},
        })
    }

    /// A sound token for alice, handed to `to`.
    pub fn mint(&self, to: &str) -> String {
        self.sign(&self.claims(to))
    }

    /// A token that says this.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    /// A token with this header.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token of these very texts.
    ///
    /// # Panics
    /// When the signature cannot be made.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let signature = self.signer.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The header of a sound token.
    pub fn header(&self) -> Value {
        let chain: Vec<_> = self.leaf.chain.iter().map(|der| STANDARD.encode(der)).collect();
        json!({"alg": "ES256", "typ": "txntoken+jwt", "x5c": chain})
    }

    /// The header that names the key instead of its certificate.
    pub fn header_by_kid(&self) -> Value {
        json!({"alg": "ES256", "typ": "txntoken+jwt", "kid": self.kid()})
    }

    /// The bearer token of an end user, of the kind identity providers issue.
    pub fn user(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid()});
        self.sign_with(&header, claims)
    }
}

/// What a token says, unverified.
///
/// # Panics
/// When it is no token.
pub fn claims_of(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// The header of a token, unverified.
///
/// # Panics
/// When it is no token.
pub fn header_of(token: &str) -> Value {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice(&header).unwrap()
}

/// base64url without padding.
pub fn base64url(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A 16-byte token id nobody had before.
fn unique() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since the Unix epoch.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
