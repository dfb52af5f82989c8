//! Verification: the only constructor of [`Verified`].
//!
//! The steps and their order are those of the profile: size and characters, strict parsing,
//! cheap refusals, key, signature, claims, issuer constraints. A step sees only what the steps
//! before it let through, and no claim is believed before the signature was checked; the three
//! that are read earlier (`iss`, `aud`, `exp`) can only refuse, and `iss` only names an entry of
//! our own list. Binding to a connection is [`check_presenter`](crate::check_presenter) and
//! [`check_custody`](crate::check_custody), on every request, cached or not.

use std::{ops::Deref, sync::Arc};

use aws_lc_rs::digest;
use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::{
    Algorithm, ChainKey, ChainValidator, ClaimProblem, Issuer, IssuerSet, KeyName, KeyProblem,
    Limits, Message, RequestContext, UnixTime, VerifyError, VerifyingKey,
    claims::{self, Near},
    hashing::{HashedHeader, HashedPart},
    json,
    jws::{self, Header, Parts},
};

/// Everything verification depends on besides the token.
pub struct VerifyWith<'a> {
    /// Who may sign what.
    pub issuers: &'a IssuerSet,
    /// Validates `x5c` chains.
    pub chains: &'a dyn ChainValidator,
    /// Our trust domain: the only `aud` accepted.
    pub trust_domain: &'a TrustDomain,
    /// The time of this request.
    pub now: UnixTime,
    /// How far clocks may differ, in seconds.
    pub skew_s: u64,
    /// Sizes and lifetimes.
    pub limits: &'a Limits,
}

/// A value whose token was verified. Made here only; there is no other way to one.
#[derive(Debug)]
#[must_use]
pub struct Verified<T> {
    value: T,
    token_sha256: [u8; 32],
}

impl<T> Verified<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// SHA-256 of the token string: what hop records refer to and logs show a prefix of. Never a
    /// key for replay control, because an ECDSA signature has two forms.
    pub fn token_sha256(&self) -> &[u8; 32] {
        &self.token_sha256
    }
}

impl Verified<RequestContext> {
    /// Keeps what it takes to read the token again, without what it says.
    pub fn fold(&self) -> Folded {
        Folded { token_sha256: self.token_sha256, trust_domain: self.value.aud.clone() }
    }
}

/// What is left of a verified token whose claims were let go of: a hash and a name.
/// Made only of a [`Verified`].
#[derive(Debug, Clone)]
pub struct Folded {
    token_sha256: [u8; 32],
    trust_domain: TrustDomain,
}

impl Folded {
    /// The claims again, out of the very bytes that were verified; `None` for any others. As with
    /// a token that was verified once, times, presenter and custody are checked anew by whoever
    /// relies on it.
    pub fn unfold(&self, token: &[u8]) -> Option<Verified<RequestContext>> {
        if sha256(token) != self.token_sha256 {
            return None;
        }
        let payload = token.split(|&byte| byte == b'.').nth(1).and_then(jws::decode)?;
        let payload = str::from_utf8(&payload).ok()?;
        let value = claims::parse(payload, Near::domain(&self.trust_domain)).ok()?;
        Some(Verified { value, token_sha256: self.token_sha256 })
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Verifies a token by steps 2 and 4 to 9 of the profile. A [`TokenCache`](crate::TokenCache)
/// adds step 3.
pub fn verify(
    token: &[u8],
    with: &VerifyWith<'_>,
) -> Result<Verified<RequestContext>, VerifyError> {
    let parts = jws::split(token, None, with.limits)?;
    let named = name_key(&parts, with)?;
    verify_parts(&parts, named, with, &mut Reader::default()).map(|(verified, _)| verified)
}

/// What one token leaves to the next: room for its payload, and the IDs it named.
#[derive(Default)]
pub(crate) struct Reader {
    payload: Vec<u8>,
    ids: Vec<WorkloadId>,
}

impl Reader {
    /// IDs it remembers: the gateways and first holders that tokens speak of lately.
    const IDS_MAX: usize = 8;

    /// Forgets the IDs.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
    }

    /// Takes note of the IDs of a token that verified.
    fn learn(&mut self, value: &RequestContext) {
        for id in [&value.iss, &value.req_wl, &value.rctx.to] {
            if !self.ids.contains(id) {
                self.ids.truncate(Self::IDS_MAX - 1);
                self.ids.insert(0, id.clone());
            }
        }
    }
}

/// What a header says about its key: as it was sent, or as it is known from an earlier token with
/// the same header.
pub(crate) enum Named {
    AsSent(Header),
    KnownChain(Arc<KnownChain>),
}

/// The chain of a header that a valid token of a listed issuer came with.
pub(crate) struct KnownChain {
    /// The header, encoded, without its dot.
    pub(crate) header: Box<[u8]>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: ChainKey,
    hashed: HashedHeader,
}

/// Step 4 for the header.
pub(crate) fn name_key(parts: &Parts<'_>, with: &VerifyWith<'_>) -> Result<Named, VerifyError> {
    jws::header(&jws::decode_part(parts.header)?, with.limits).map(Named::AsSent)
}

/// Steps 4 (payload) to 9. Also hands out the certificate chain that was used, for a cache.
pub(crate) fn verify_parts(
    parts: &Parts<'_>,
    named: Named,
    with: &VerifyWith<'_>,
    reader: &mut Reader,
) -> Result<(Verified<RequestContext>, Option<Arc<KnownChain>>), VerifyError> {
    jws::decode_part_into(parts.payload, &mut reader.payload)?;
    let signature = jws::decode_signature(parts.signature)?;
    let (payload, peek) = json::peek(&reader.payload).map_err(VerifyError::TokenMalformed)?;
    if let Some(exp) = peek.exp {
        check_not_ended(UnixTime(exp), with)?;
    }
    if peek.aud.as_ref().is_some_and(|aud| *aud != with.trust_domain.as_str()) {
        return Err(VerifyError::AudienceWrong);
    }
    let iss = peek.iss.as_deref().ok_or(missing("iss"))?;
    let issuer = with.issuers.get(iss).ok_or(VerifyError::IssuerNotAllowed)?;
    let key = find_key(named, parts, issuer, with)?;
    let hashed = key.hashed(parts);
    let signature = signature.ok_or(VerifyError::SignatureInvalid)?;
    if !key.verifying_key().verifies_hashed(&Message::new(parts.signed, &hashed), &signature) {
        return Err(VerifyError::SignatureInvalid);
    }
    let near = Near { domain: with.trust_domain, ids: &reader.ids };
    let value = claims::parse(payload, near)?;
    check_claims(&value, &key, with)?;
    check_constraints(&value, issuer)?;
    reader.learn(&value);
    let token_sha256 = hashed.token(parts.signature);
    Ok((Verified { value, token_sha256 }, key.into_chain()))
}

/// The key a token is verified with, and whose it is.
enum Key<'a> {
    OfChain(Arc<KnownChain>),
    OfSet(&'a VerifyingKey),
}

impl Key<'_> {
    fn verifying_key(&self) -> &VerifyingKey {
        match self {
            Self::OfChain(chain) => &chain.key.key,
            Self::OfSet(key) => key,
        }
    }

    fn hashed(&self, parts: &Parts<'_>) -> HashedPart {
        match self {
            Self::OfChain(chain) => chain.hashed.with_payload(parts.payload),
            Self::OfSet(_) => HashedHeader::of(parts.header).with_payload(parts.payload),
        }
    }

    fn into_chain(self) -> Option<Arc<KnownChain>> {
        match self {
            Self::OfChain(chain) => Some(chain),
            Self::OfSet(_) => None,
        }
    }
}

/// Step 6.
fn find_key<'a>(
    named: Named,
    parts: &Parts<'_>,
    issuer: &'a Issuer,
    with: &VerifyWith<'_>,
) -> Result<Key<'a>, VerifyError> {
    let (algorithm, key) = match named {
        Named::AsSent(Header { algorithm, key: KeyName::Kid(kid) }) => {
            (algorithm, Key::OfSet(key_of_set(&kid, issuer, with)?))
        }
        Named::AsSent(Header { algorithm, key: KeyName::X5c(chain) }) => {
            check_form(issuer.keys.allows_x5c())?;
            let key = key_of_chain(&chain, with)?;
            let hashed = HashedHeader::of(parts.header);
            let header = parts.header.into();
            (algorithm, Key::OfChain(Arc::new(KnownChain { header, algorithm, key, hashed })))
        }
        Named::KnownChain(known) => {
            check_form(issuer.keys.allows_x5c())?;
            (known.algorithm, Key::OfChain(known))
        }
    };
    let of_key = key.verifying_key().algorithm();
    if of_key != algorithm {
        let problem = KeyProblem::AlgorithmMismatch { header: algorithm, key: of_key };
        return Err(VerifyError::KeyUnknown(problem));
    }
    Ok(key)
}

fn key_of_set<'a>(
    kid: &str,
    issuer: &'a Issuer,
    with: &VerifyWith<'_>,
) -> Result<&'a VerifyingKey, VerifyError> {
    check_form(issuer.keys.allows_kid())?;
    let set = issuer.jwks.as_ref().filter(|set| set.is_usable(with.now));
    let set = set.ok_or(VerifyError::KeysUnavailable)?;
    set.find(kid, with.now, with.skew_s).map_err(VerifyError::KeyUnknown)
}

/// Only our own trust domain's chains sign context, whatever else the validator knows.
fn key_of_chain(chain: &[Vec<u8>], with: &VerifyWith<'_>) -> Result<ChainKey, VerifyError> {
    let refused = |why| VerifyError::KeyUnknown(KeyProblem::ChainInvalid(why));
    let key = with.chains.validate(chain, with.now).map_err(refused)?;
    if key.id.trust_domain() != with.trust_domain {
        return Err(refused("a certificate of another trust domain".to_owned()));
    }
    Ok(key)
}

fn check_form(allowed: bool) -> Result<(), VerifyError> {
    if allowed { Ok(()) } else { Err(VerifyError::KeyUnknown(KeyProblem::FormNotAllowed)) }
}

/// Step 8, what depends on the key and on time.
fn check_claims(
    value: &RequestContext,
    key: &Key<'_>,
    with: &VerifyWith<'_>,
) -> Result<(), VerifyError> {
    // For a key of a set, `iss` chose the set.
    if let Key::OfChain(chain) = key {
        if chain.key.id != value.iss {
            return Err(claim("iss", ClaimProblem::NotKeyOwner));
        }
        if value.exp > chain.key.not_after {
            let by_secs = value.exp.since(chain.key.not_after);
            return Err(claim("exp", ClaimProblem::OutlivesSigner { by_secs }));
        }
    }
    if value.aud != *with.trust_domain {
        return Err(VerifyError::AudienceWrong);
    }
    check_times(value, with)?;
    if value.exp <= value.iat {
        return Err(claim("exp", ClaimProblem::Contradiction));
    }
    let secs = value.exp.since(value.iat);
    if secs > with.limits.ttl_s_max {
        return Err(claim("exp", ClaimProblem::LifeTooLong { secs }));
    }
    Ok(())
}

/// Step 8, what changes while a token is cached.
pub(crate) fn check_times(
    value: &RequestContext,
    with: &VerifyWith<'_>,
) -> Result<(), VerifyError> {
    check_not_ended(value.exp, with)?;
    check_begun("iat", value.iat, with)?;
    value.nbf.map_or(Ok(()), |nbf| check_begun("nbf", nbf, with))
}

fn check_not_ended(exp: UnixTime, with: &VerifyWith<'_>) -> Result<(), VerifyError> {
    if exp.plus(with.skew_s) > with.now {
        return Ok(());
    }
    Err(VerifyError::TokenExpired { by_secs: with.now.since(exp) })
}

fn check_begun(
    name: &'static str,
    start: UnixTime,
    with: &VerifyWith<'_>,
) -> Result<(), VerifyError> {
    if start <= with.now.plus(with.skew_s) {
        return Ok(());
    }
    Err(claim(name, ClaimProblem::InFuture { by_secs: start.since(with.now) }))
}

/// Step 9.
pub(crate) fn check_constraints(
    value: &RequestContext,
    issuer: &Issuer,
) -> Result<(), VerifyError> {
    issuer
        .allow
        .check(
            value.rctx.origin,
            (&value.sub, value.act.as_ref()),
            &value.scope,
            value.iat,
            value.exp,
        )
        .map_err(VerifyError::ConstraintViolated)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn missing(name: &'static str) -> VerifyError {
    claim(name, ClaimProblem::Missing)
}

fn claim(claim: &'static str, problem: ClaimProblem) -> VerifyError {
    VerifyError::ClaimInvalid { claim, problem }
}

/// What a token says, with nothing verified: for tools that show tokens. Nothing in it may take
/// part in a decision.
pub struct Unverified {
    header: Header,
    header_json: String,
    payload_json: String,
}

impl Unverified {
    /// Takes a token apart by steps 2 and 4 of the profile: strict, but without any key.
    pub fn parse(token: &[u8], limits: &Limits) -> Result<Self, VerifyError> {
        let parts = jws::split(token, None, limits)?;
        let header_json = jws::decode_part(parts.header)?;
        let header = jws::header(&header_json, limits)?;
        let payload = jws::decode_part(parts.payload)?;
        jws::decode_part(parts.signature)?;
        let payload_json = json::check(&payload).map_err(VerifyError::TokenMalformed)?.to_owned();
        let header_json =
            json::check(&header_json).map_err(VerifyError::TokenMalformed)?.to_owned();
        Ok(Self { header, header_json, payload_json })
    }

    /// The header's `alg`.
    pub fn algorithm(&self) -> Algorithm {
        self.header.algorithm
    }

    /// The header's `kid` or `x5c`.
    pub fn key_name(&self) -> &KeyName {
        &self.header.key
    }

    /// The header as it was sent, strict JSON.
    pub fn header_json(&self) -> &str {
        &self.header_json
    }

    /// The payload as it was sent, strict JSON.
    pub fn payload_json(&self) -> &str {
        &self.payload_json
    }

    /// The claims, typed and by all rules that need no key and no time.
    pub fn claims(&self, trust_domain: &TrustDomain) -> Result<RequestContext, VerifyError> {
        claims::parse(&self.payload_json, Near::domain(trust_domain)).map_err(Into::into)
    }
}
