//! JWK sets of issuers. One unusable key makes the whole set suspect, so loading refuses all of it
//! and the caller keeps what it had: a set that shrank by accident must not lock anybody out
//! half-way.

use std::{borrow::Cow, fmt, sync::Arc};

use countersign_workload_id::WorkloadId;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::{
    Algorithm, JwksError, KeyProblem, PublishedKey, UnixTime, Upkeep, VerifyingKey,
    json::{self, Text},
    jws,
};

/// Longest key set, in bytes.
const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Keys in one set. The same number bounds arrays in general.
const JWKS_KEYS_MAX: usize = 64;
/// The only `use` of a key that signs context tokens.
pub(crate) const USE: &str = "csign-ctx";
/// Members of a key that belong to its owner alone.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The public keys of an issuer, as its JWK set or a file gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<NamedKey>,
    sequence: u64,
    refresh_hint_s: Option<u64>,
    usable_until: Option<UnixTime>,
    /// Of the sets it was made of, one per place they are fetched from; empty for a file.
    upkeeps: Vec<Arc<Upkeep>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedKey {
    kid: String,
    key: VerifyingKey,
    not_before: Option<UnixTime>,
    expires: Option<UnixTime>,
    issuer: Option<String>,
    upkeep: Option<Arc<Upkeep>>,
}

impl NamedKey {
    /// By its own times, and by when its set was last confirmed.
    fn is_valid(&self, now: UnixTime, skew_s: u64) -> bool {
        let begun = self.not_before.is_none_or(|start| start <= now.plus(skew_s));
        let ended = self.expires.is_some_and(|end| end.plus(skew_s) <= now);
        begun && !ended && self.upkeep.as_ref().is_none_or(|upkeep| upkeep.is_usable(now))
    }
}

impl KeySet {
    /// Reads a JWK set. Refused as a whole: a key without `kid`, a `kid` twice, private members,
    /// another `use`, another curve, more than 64 keys, more than 256 KiB.
    ///
    /// ```
    /// use countersign_ctxtoken::KeySet;
    ///
    /// let set = br#"{"csign_sequence":7,"keys":[{"kty":"EC","crv":"P-256","kid":"-cpTiXlS4UDu-JSb",
    ///     "alg":"ES256","use":"csign-ctx",
    ///     "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    ///     "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    /// assert_eq!(KeySet::from_jwks_json(set).unwrap().sequence(), 7);
    /// ```
    pub fn from_jwks_json(jwks: &[u8]) -> Result<Self, JwksError> {
        if jwks.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLarge { limit: JWKS_BYTES_MAX });
        }
        let text = json::check(jwks).map_err(|what| match what {
            json::ARRAY => JwksError::TooManyKeys { limit: JWKS_KEYS_MAX },
            other => JwksError::Malformed(other),
        })?;
        let wire: SetWire<'_> = serde_json::from_str(text)
            .map_err(|_| JwksError::Malformed("a member of the wrong type"))?;
        let wires = wire.keys.ok_or(JwksError::Malformed("no member `keys`"))?;
        let mut keys: Vec<NamedKey> = Vec::with_capacity(wires.len());
        for (index, wire) in wires.into_iter().enumerate() {
            let key = wire.read().map_err(|problem| JwksError::BadKey { index, problem })?;
            if keys.iter().any(|other| other.kid == key.kid) {
                return Err(JwksError::BadKey { index, problem: "its `kid` was used before" });
            }
            keys.push(key);
        }
        Ok(Self {
            keys,
            sequence: wire.sequence.unwrap_or(0),
            refresh_hint_s: wire.refresh_hint,
            usable_until: None,
            upkeeps: Vec::new(),
        })
    }

    /// The same set, fetched from one place and usable as long as `upkeep` says.
    #[must_use]
    pub fn kept_by(mut self, upkeep: &Arc<Upkeep>) -> Self {
        for key in &mut self.keys {
            key.upkeep = Some(Arc::clone(upkeep));
        }
        self.upkeeps = vec![Arc::clone(upkeep)];
        self
    }

    /// What several replicas of one issuer publish, together. Each key stays usable as long as
    /// its own replica confirms it.
    pub fn union(sets: impl IntoIterator<Item = KeySet>) -> Self {
        let mut all = KeySet::default();
        for set in sets {
            all.keys.extend(set.keys);
            all.upkeeps.extend(set.upkeeps);
            all.sequence = all.sequence.max(set.sequence);
        }
        all
    }

    /// Whether both hold the same keys with the same times, whoever confirms them.
    pub fn has_same_keys(&self, other: &KeySet) -> bool {
        let told = |key: &NamedKey| (key.kid.clone(), key.not_before, key.expires);
        self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(a, b)| told(a) == told(b) && a.key == b.key)
    }

    /// The keys, to be published again.
    pub fn published(&self) -> impl Iterator<Item = PublishedKey> + '_ {
        self.keys.iter().map(|named| PublishedKey {
            key: named.key.clone(),
            not_before: named.not_before,
            expires: named.expires,
        })
    }

    /// The same set, unusable from `end` on: how a set that is fetched goes stale.
    #[must_use]
    pub fn usable_until(mut self, end: UnixTime) -> Self {
        self.usable_until = Some(end);
        self
    }

    /// `csign_sequence`, 0 if absent: a set with a lower one than we hold is older.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// `csign_refresh_hint`, in seconds.
    pub fn refresh_hint_s(&self) -> Option<u64> {
        self.refresh_hint_s
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key has this name.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid == kid)
    }

    /// Drops keys that say they belong to another issuer.
    pub(crate) fn keep_keys_of(&mut self, issuer: &WorkloadId) {
        self.keys.retain(|key| key.issuer.as_deref().is_none_or(|iss| iss == issuer.as_str()));
    }

    /// Whether the set may still be used.
    pub fn is_usable(&self, now: UnixTime) -> bool {
        let confirmed = self.upkeeps.is_empty() || self.upkeeps.iter().any(|u| u.is_usable(now));
        confirmed && self.usable_until.is_none_or(|end| now < end)
    }

    /// The key of a name, if it is valid now.
    pub(crate) fn find(
        &self,
        kid: &str,
        now: UnixTime,
        skew_s: u64,
    ) -> Result<&VerifyingKey, KeyProblem> {
        let mut named = self.keys.iter().filter(|key| key.kid == kid).peekable();
        if named.peek().is_none() {
            // Whoever made this name up costs a fetch at most, and not here.
            self.upkeeps.iter().for_each(|upkeep| upkeep.want());
            return Err(KeyProblem::NoSuchKid);
        }
        let valid = named.find(|key| key.is_valid(now, skew_s));
        valid.map(|named| &named.key).ok_or(KeyProblem::NotValidNow)
    }
}

/// One key outside a set; `kid` and `use` may be absent.
pub(crate) fn single_key(jwk: &[u8]) -> Result<VerifyingKey, JwksError> {
    let text = json::check(jwk).map_err(JwksError::Malformed)?;
    let wire: KeyWire<'_> = serde_json::from_str(text)
        .map_err(|_| JwksError::Malformed("a member of the wrong type"))?;
    wire.public_key().map_err(JwksError::Malformed)
}

#[derive(Default)]
struct SetWire<'a> {
    keys: Option<Vec<KeyWire<'a>>>,
    sequence: Option<u64>,
    refresh_hint: Option<u64>,
}

#[derive(Default)]
struct KeyWire<'a> {
    kty: Option<Cow<'a, str>>,
    crv: Option<Cow<'a, str>>,
    x: Option<Cow<'a, str>>,
    y: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
    alg: Option<Cow<'a, str>>,
    usage: Option<Cow<'a, str>>,
    iss: Option<Cow<'a, str>>,
    nbf: Option<u64>,
    exp: Option<u64>,
    has_private_member: bool,
}

impl KeyWire<'_> {
    fn read(self) -> Result<NamedKey, &'static str> {
        if self.usage.as_deref() != Some(USE) {
            return Err("its `use` is not `csign-ctx`");
        }
        let key = self.public_key()?;
        let kid = self.kid.as_deref().ok_or("it has no `kid`")?;
        if !jws::is_kid(kid) {
            return Err("its `kid` is not 16 characters of base64url");
        }
        Ok(NamedKey {
            kid: kid.to_owned(),
            key,
            not_before: self.nbf.map(UnixTime),
            expires: self.exp.map(UnixTime),
            issuer: self.iss.map(Cow::into_owned),
            upkeep: None,
        })
    }

    fn public_key(&self) -> Result<VerifyingKey, &'static str> {
        if self.has_private_member {
            return Err("it holds private members; publish the public half only");
        }
        let algorithm = self.algorithm()?;
        let x = coordinate(self.x.as_deref())?;
        let key = match (algorithm, self.y.as_deref()) {
            (Algorithm::Es256, y) => VerifyingKey::p256(&[x, coordinate(y)?].concat()),
            (Algorithm::Ed25519, None) => VerifyingKey::ed25519(&x),
            (Algorithm::Ed25519, Some(_)) => return Err("an Ed25519 key has no `y`"),
        };
        key.map_err(|_| "its coordinates are not a point of its curve")
    }

    /// The algorithm, stated by `alg` and fitting the curve.
    fn algorithm(&self) -> Result<Algorithm, &'static str> {
        let of_curve = match (self.kty.as_deref(), self.crv.as_deref()) {
            (Some("EC"), Some("P-256")) => Algorithm::Es256,
            (Some("OKP"), Some("Ed25519")) => Algorithm::Ed25519,
            _ => return Err("only EC/P-256 and OKP/Ed25519 are supported"),
        };
        match self.alg.as_deref().map(Algorithm::from_name) {
            Some(Some(alg)) if alg == of_curve => Ok(alg),
            Some(_) => Err("its `alg` does not fit its curve"),
            None => Err("it has no `alg`"),
        }
    }
}

/// 32 bytes, base64url.
fn coordinate(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    text.and_then(|text| jws::decode(text.as_bytes()))
        .filter(|bytes| bytes.len() == 32)
        .ok_or("a coordinate is not 32 bytes in base64url")
}

impl<'de: 'a, 'a> Deserialize<'de> for SetWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SetVisitor)
    }
}

struct SetVisitor;

impl<'de> Visitor<'de> for SetVisitor {
    type Value = SetWire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SetWire<'de>, A::Error> {
        let mut wire = SetWire::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            match &*name {
                "keys" => wire.keys = Some(map.next_value()?),
                "csign_sequence" => wire.sequence = Some(map.next_value()?),
                "csign_refresh_hint" => wire.refresh_hint = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(wire)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for KeyWire<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = KeyWire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JWK")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyWire<'de>, A::Error> {
        let mut wire = KeyWire::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            let text = match &*name {
                "kty" => &mut wire.kty,
                "crv" => &mut wire.crv,
                "x" => &mut wire.x,
                "y" => &mut wire.y,
                "kid" => &mut wire.kid,
                "alg" => &mut wire.alg,
                "use" => &mut wire.usage,
                "iss" => &mut wire.iss,
                "nbf" => {
                    wire.nbf = Some(map.next_value()?);
                    continue;
                }
                "exp" => {
                    wire.exp = Some(map.next_value()?);
                    continue;
                }
                other => {
                    wire.has_private_member |= PRIVATE_MEMBERS.contains(&other);
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *text = Some(map.next_value::<Text<'de>>()?.0);
        }
        Ok(wire)
    }
}
