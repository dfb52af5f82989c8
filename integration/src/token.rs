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

/// The first thing in a text that looks like a JWS or its header. `eyJ` alone occurs in random text
/// too, so a header's length or its dot is asked for as well.
pub fn jws_in(text: &str) -> Option<&str> {
    let in_header = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    text.match_indices("eyJ").find_map(|(at, _)| {
        let rest = text.get(at..)?;
        let length = rest.bytes().take_while(|byte| in_header(byte)).count();
        let is_header = length > 44 || length >= 16 && rest.as_bytes().get(length) == Some(&b'.');
        is_header.then(|| rest.get(..rest.len().min(60)).unwrap_or(rest))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_and_random_letters_are_not() {
        let tokens = Tokens::of(&Authority::new("lab.test"), "edge", "gateway");
        let token = tokens.mint("spiffe://lab.test/ns/shop/sa/orders");
        let (header, _) = token.split_once('.').unwrap();
        for text in [&token, header] {
            assert!(jws_in(&format!("{{\"text\":\"{text}\"}}")).is_some(), "{text}");
        }
        for random in
            ["eyJ", "x-eyJ8Q2mRk3vT7yZp1aLw", "eyJ8Q2mRk3vT7yZp1aLwN5sXc0bVhGfDjKuIeOqYtWr="]
        {
            assert_eq!(jws_in(random), None, "{random}");
        }
    }
}
