//! JWT bundles: which keys may vouch for the JWT-SVIDs of which trust domain.
//!
//! Invariants: keys are only ever looked up by trust domain, as X.509 authorities are, and the two
//! kinds are two types: an X.509 authority never checks a token, a token key never a certificate.
//! A document is taken whole or refused whole.

use std::{collections::BTreeMap, fmt, sync::Arc};

use countersign_config::limits::{JWT_BUNDLE_BYTES_MAX, JWT_BUNDLE_KEYS_MAX};
use countersign_workload_id::TrustDomain;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What a public key may say of itself; everything else is left out.
const MEMBERS: [&str; 8] = ["kty", "kid", "alg", "crv", "x", "y", "n", "e"];
/// Members of a key that belong to its owner alone.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a JWT bundle was refused. A refused bundle changes nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JwtBundleError {
    /// A key in it breaks a rule.
    #[error("key {position} of the JWT bundle {problem}")]
    BadKey {
        /// Counted from 1.
        position: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a JWK set.
    #[error("the JWT bundle is not a JWK set: {0}")]
    Malformed(String),
    /// More than anybody needs.
    #[error("the JWT bundle is too large: {0}")]
    TooLarge(String),
}

/// Which rules a JWK set follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JwksForm {
    /// The Workload API: a plain JWK set that holds token keys only, so `use` may be absent.
    WorkloadApi,
    /// A SPIFFE bundle: token keys say `use: jwt-svid`, all others are something else.
    SpiffeBundle,
}

/// The token keys of one trust domain.
#[derive(Clone, Eq, PartialEq)]
pub struct JwtBundle {
    jwks: Arc<[u8]>,
    kids: Vec<String>,
}

impl JwtBundle {
    /// Reads a JWK set. Keys of other or unknown `kty` and `use` are skipped; a set without keys
    /// is one that trusts nobody.
    ///
    /// # Errors
    /// When it is no JWK set, is too large, or a token key in it has no `kid`, one that was used
    /// before, or shows its private half.
    pub fn parse(text: &[u8], form: JwksForm) -> Result<JwtBundle, JwtBundleError> {
        if text.len() > JWT_BUNDLE_BYTES_MAX {
            return Err(JwtBundleError::TooLarge(format!("{} bytes", text.len())));
        }
        let set: SetWire = serde_json::from_slice(text)
            .map_err(|error| JwtBundleError::Malformed(error.to_string()))?;
        if set.keys.len() > JWT_BUNDLE_KEYS_MAX {
            return Err(JwtBundleError::TooLarge(format!("{} keys", set.keys.len())));
        }
        let (mut keys, mut kids) = (Vec::new(), Vec::new());
        for (index, key) in set.keys.into_iter().enumerate() {
            if !signs_tokens(&key, form) {
                continue;
            }
            let bad =
                |problem| JwtBundleError::BadKey { position: index.saturating_add(1), problem };
            if PRIVATE_MEMBERS.iter().any(|member| key.contains_key(*member)) {
                return Err(bad("shows its private half"));
            }
            let kid = key.get("kid").and_then(Value::as_str).unwrap_or_default();
            if kid.is_empty() {
                return Err(bad("has no kid"));
            }
            if kids.iter().any(|other| other == kid) {
                return Err(bad("has a kid that was used before"));
            }
            kids.push(kid.to_owned());
            let public: Map<String, Value> =
                key.into_iter().filter(|(name, _)| MEMBERS.contains(&name.as_str())).collect();
            keys.push(public);
        }
        let jwks = json!({ "keys": keys }).to_string().into_bytes();
        Ok(JwtBundle { jwks: jwks.into(), kids })
    }

    /// The keys as a JWK set of public members only, without `use`.
    pub fn jwks(&self) -> &[u8] {
        &self.jwks
    }

    /// The names of the keys, in the order of the document.
    pub fn kids(&self) -> &[String] {
        &self.kids
    }
}

impl fmt::Debug for JwtBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtBundle({} keys)", self.kids.len())
    }
}

fn signs_tokens(key: &Map<String, Value>, form: JwksForm) -> bool {
    let member = |name: &str| key.get(name).and_then(Value::as_str);
    let known = matches!(member("kty"), Some("EC" | "RSA"));
    let used = match (key.get("use"), form) {
        (None, JwksForm::WorkloadApi) => true,
        (None, JwksForm::SpiffeBundle) => false,
        (Some(_), JwksForm::SpiffeBundle | JwksForm::WorkloadApi) => {
            member("use") == Some("jwt-svid")
        }
    };
    known && used
}

#[derive(Deserialize)]
struct SetWire {
    keys: Vec<Map<String, Value>>,
}

/// One JWT bundle per trust domain, never merged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JwtBundles {
    by_domain: BTreeMap<TrustDomain, JwtBundle>,
}

impl JwtBundles {
    /// Sets the bundle of one domain; an earlier one is replaced, not merged.
    pub fn insert(&mut self, domain: TrustDomain, bundle: JwtBundle) {
        self.by_domain.insert(domain, bundle);
    }

    /// The keys of one domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&JwtBundle> {
        self.by_domain.get(domain)
    }

    /// The domains in order.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.by_domain.keys()
    }

    /// Whether no domain is trusted.
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }
}

impl FromIterator<(TrustDomain, JwtBundle)> for JwtBundles {
    fn from_iter<I: IntoIterator<Item = (TrustDomain, JwtBundle)>>(items: I) -> JwtBundles {
        JwtBundles { by_domain: items.into_iter().collect() }
    }
}
