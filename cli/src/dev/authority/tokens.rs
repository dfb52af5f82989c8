//! JWT-SVIDs of the development authority: it makes them, publishes its keys, and checks them.
//!
//! A token says no more than the standard asks: whose it is, for whom, from when to when.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_certs_client::source::workload_api::wire::JwtBundlesResponse;
use countersign_workload_id::{TrustDomain, WorkloadId};
use serde_json::{Map, Value, json};

use crate::dev::issuer::{Algorithm, KeyRing};

/// Life of a token.
const TTL_S: u64 = 300;
/// The keys are as old as the authority: it makes new ones when it starts.
const ROTATE_S: u64 = 365 * 24 * 3600;

/// The token keys of one authority.
pub(super) struct Tokens {
    trust_domain: TrustDomain,
    keys: Mutex<KeyRing>,
}

impl Tokens {
    /// Makes the keys.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn new(trust_domain: TrustDomain, now: u64) -> anyhow::Result<Tokens> {
        let keys = Mutex::new(KeyRing::new(Algorithm::Es256, ROTATE_S, now)?);
        Ok(Tokens { trust_domain, keys })
    }

    /// A token of this workload for these audiences.
    ///
    /// # Errors
    /// When nobody is named, or the key cannot sign.
    pub(super) fn issue(
        &self,
        id: &WorkloadId,
        audience: &[String],
        now: u64,
    ) -> anyhow::Result<String> {
        ensure!(audience.iter().any(|name| !name.is_empty()), "no audience is named");
        let exp = now.saturating_add(TTL_S);
        let claims = json!({"sub": id.as_str(), "aud": audience, "iat": now, "exp": exp});
        self.keys().sign("JWT", &claims, exp)
    }

    /// What the Workload API says of the keys: a JWK set by trust domain.
    pub(super) fn bundles(&self) -> JwtBundlesResponse {
        let jwks = self.jwks().to_string().into_bytes();
        JwtBundlesResponse { bundles: HashMap::from([(self.trust_domain.id(), jwks)]) }
    }

    /// Whose token this is, and its claims.
    ///
    /// # Errors
    /// The first rule of JWT-SVIDs that does not hold.
    pub(super) fn check(
        &self,
        token: &str,
        audience: &str,
        now: u64,
    ) -> anyhow::Result<(WorkloadId, Map<String, Value>)> {
        let (signed, signature) = token.rsplit_once('.').context("not a compact JWS")?;
        let (header, claims) = signed.split_once('.').context("not a compact JWS")?;
        let header = decode(header).context("the header")?;
        if header.get("alg").and_then(Value::as_str) != Some("ES256") {
            bail!("the algorithm is not ES256");
        }
        let kid = header.get("kid").and_then(Value::as_str).context("the header has no kid")?;
        let signature = URL_SAFE_NO_PAD.decode(signature).context("the signature")?;
        let point = self.point(kid)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &signature)
            .ok()
            .context("the signature does not hold")?;
        let claims = decode(claims).context("the claims")?;
        let exp = claims.get("exp").and_then(Value::as_u64).context("no exp")?;
        ensure!(now < exp, "the token ended at {exp}");
        let named = |value: &Value| match value {
            Value::String(one) => one == audience,
            Value::Array(all) => all.iter().any(|one| one == audience),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        let is_named = claims.get("aud").is_some_and(named);
        ensure!(!audience.is_empty() && is_named, "the token is for somebody else");
        let id = claims.get("sub").and_then(Value::as_str).context("no sub")?;
        Ok((WorkloadId::parse(id).context("sub")?, claims))
    }

    /// The public key of this name, uncompressed.
    fn point(&self, kid: &str) -> anyhow::Result<Vec<u8>> {
        let jwks = self.jwks();
        let keys = jwks.get("keys").and_then(Value::as_array);
        let key = keys.into_iter().flatten().find(|key| key.get("kid").is_some_and(|id| id == kid));
        let key = key.with_context(|| format!("no key is called {kid}"))?;
        let mut point = vec![4];
        for name in ["x", "y"] {
            let text = key.get(name).and_then(Value::as_str).unwrap_or_default();
            point.extend(URL_SAFE_NO_PAD.decode(text)?);
        }
        Ok(point)
    }

    /// The keys with the `use` of a SPIFFE bundle.
    fn jwks(&self) -> Value {
        let mut jwks = self.keys().jwks();
        let keys = jwks.get_mut("keys").and_then(Value::as_array_mut);
        for key in keys.into_iter().flatten() {
            if let Some(members) = key.as_object_mut() {
                members.insert("use".to_owned(), json!("jwt-svid"));
            }
        }
        jwks
    }

    fn keys(&self) -> MutexGuard<'_, KeyRing> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(part: &str) -> anyhow::Result<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).context("not base64url")?;
    serde_json::from_slice(&bytes).context("not a JSON object")
}

/// The answer to `ValidateJWTSVID`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ValidateJwtSvidResponse {
    /// Whose token it is.
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// Its claims.
    #[prost(message, optional, tag = "2")]
    pub(super) claims: Option<Struct>,
}

/// `google.protobuf.Struct`: a JSON object.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Struct {
    /// Its members.
    #[prost(map = "string, message", tag = "1")]
    pub(super) fields: HashMap<String, AnyValue>,
}

/// `google.protobuf.Value`: a JSON value.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnyValue {
    /// Which one.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(super) kind: Option<Kind>,
}

/// The kinds of JSON values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    /// `null`, always 0.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A string.
    #[prost(string, tag = "3")]
    Text(String),
    /// `true` or `false`.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// An object.
    #[prost(message, tag = "5")]
    Object(Struct),
    /// An array.
    #[prost(message, tag = "6")]
    List(ListValue),
}

/// `google.protobuf.ListValue`: a JSON array.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListValue {
    /// Its items.
    #[prost(message, repeated, tag = "1")]
    pub(super) values: Vec<AnyValue>,
}

impl From<Map<String, Value>> for Struct {
    fn from(members: Map<String, Value>) -> Struct {
        let fields = members.into_iter().map(|(name, value)| (name, value.into()));
        Struct { fields: fields.collect() }
    }
}

impl From<Value> for AnyValue {
    fn from(value: Value) -> AnyValue {
        let kind = match value {
            Value::Null => Kind::Null(0),
            Value::Bool(value) => Kind::Bool(value),
            Value::Number(value) => Kind::Number(value.as_f64().unwrap_or_default()),
            Value::String(value) => Kind::Text(value),
            Value::Array(values) => {
                Kind::List(ListValue { values: values.into_iter().map(AnyValue::from).collect() })
            }
            Value::Object(members) => Kind::Object(members.into()),
        };
        AnyValue { kind: Some(kind) }
    }
}
