//! Who the end user is: verifies the bearer token of a request against the configured identity
//! providers. Runs once per request at the gateway, after `capture`, before `mint`.
//! Invariant: an [`EndUser`] exists only for a token whose signature, issuer, audience, type and
//! times were all checked here. Pure: keys and the time are arguments; nothing is fetched.

use std::sync::Arc;

use countersign_ctxtoken::Subject;
use countersign_policy::Revocations;
use countersign_policy::doc::{CredentialSource, IdentityProvider, SenderRules};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

pub use super::identify_error::IdentifyError;
use super::proofs::dpop;
use super::provider_keys::{KeysSnapshot, Provider};
pub use super::user_binding::Binding;
use super::user_claims::{self, UserFacts, seconds};
use super::user_keys::{self, Lookup};
use super::user_token::{self, UnverifiedToken};
use crate::clock::Now;

/// How far the clock of a provider may differ from ours.
pub(super) const SKEW_S: u64 = 30;

/// A user named by a verified token. Made only in this file. Where the token is bound to its
/// sender, only [`prove`](super::proofs::prove) says whether this request may use it.
#[derive(Clone, Debug)]
#[must_use]
pub struct EndUser {
    provider: Arc<Provider>,
    facts: UserFacts,
    life: Life,
    binding: Binding,
}

/// When a token may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Life {
    begins_at: u64,
    /// When it was issued, where it says so.
    issued_at: Option<u64>,
    expires_at: u64,
}

impl EndUser {
    /// Our name of the provider that vouches for the user: `rctx.idp`.
    pub fn provider(&self) -> &str {
        &self.provider.name
    }

    /// The id as the provider wrote it.
    pub fn id(&self) -> &str {
        &self.facts.id
    }

    /// `sub` of the context token: `user:<id>` or `user:<prefix>/<id>`.
    pub fn subject(&self) -> &Subject {
        &self.facts.subject
    }

    /// The account resource paths speak of.
    pub fn account(&self) -> Option<&str> {
        self.facts.account.as_deref()
    }

    /// The groups the provider document keeps.
    pub fn groups(&self) -> &[String] {
        &self.facts.groups
    }

    /// When the user logged in, in seconds since 1970.
    pub fn auth_time(&self) -> Option<u64> {
        self.facts.auth_time
    }

    /// The authentication context class.
    pub fn acr(&self) -> Option<&str> {
        self.facts.acr.as_deref()
    }

    /// The authentication methods.
    pub fn amr(&self) -> &[String] {
        &self.facts.amr
    }

    /// The OAuth client the user came through.
    pub fn client_id(&self) -> Option<&str> {
        self.facts.client_id.as_deref()
    }

    /// The scopes the credential grants, or else the provider document; `None` if neither says.
    /// Then nothing is granted: an unknown grant is never "everything".
    pub fn granted_scopes(&self) -> Option<&[String]> {
        self.facts.scopes.as_deref()
    }

    /// Further declared claims, each of its declared type.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.facts.claims
    }

    /// What must be shown with the token.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// What its provider's document says about such proofs.
    pub fn sender_rules(&self) -> &SenderRules {
        &self.provider.spec.sender
    }

    /// When the credential ends, in seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.life.expires_at
    }

    /// Whether a revocation names the user and this credential is older than it allows. One that
    /// does not say when it was issued is older than anything.
    pub fn is_revoked(&self, revocations: &Revocations, now: Now) -> bool {
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
        let issued_ms = self.life.issued_at.map_or(i64::MIN, ms);
        let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
        revocations.user(Some(self.provider()), self.id(), issued_ms, now_ms)
    }

    /// Whether a token verified earlier, with this `verifier` and `keys`, still identifies this
    /// user when it comes from `source` now.
    pub(super) fn check_again(
        &self,
        source: &CredentialSource,
        verifier: &UserVerifier,
        now: Now,
    ) -> Option<Result<(), IdentifyError>> {
        let known = verifier.providers.iter().any(|provider| Arc::ptr_eq(provider, &self.provider));
        let listed = self.provider.spec.from.contains(source);
        (known && listed).then(|| self.life.check(now))
    }
}

/// Verifies user tokens of a fixed set of providers.
#[derive(Clone, Debug, Default)]
pub struct UserVerifier {
    providers: Vec<Arc<Provider>>,
}

impl UserVerifier {
    /// A verifier for the providers one gateway lists.
    pub fn new(providers: impl IntoIterator<Item = Arc<Provider>>) -> UserVerifier {
        UserVerifier { providers: providers.into_iter().collect() }
    }

    /// Identifies the user of a request and, when the token names a key nobody knows, asks for
    /// the provider's keys to be fetched again. This request is refused at once either way.
    /// [`UserCache::identify`](super::user_cache::UserCache::identify) does the same and remembers.
    ///
    /// # Errors
    /// See [`verify_bearer`].
    pub fn identify(
        &self,
        headers: &HeaderMap,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<Option<EndUser>, IdentifyError> {
        match self.credential(headers)? {
            Some((token, source)) => self.verify(token, source, keys, now).map(Some),
            None => Ok(None),
        }
    }

    /// Verifies a token that came as such, not in a header of a request: by the provider that
    /// issued it. What it is bound to is the caller's to look at.
    ///
    /// # Errors
    /// See [`verify_bearer`].
    pub fn verify_subject(
        &self,
        token: &str,
        only_id_token: bool,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<EndUser, IdentifyError> {
        let parsed = user_token::parse(token)?;
        let typ = parsed.typ.as_deref().unwrap_or("JWT");
        if only_id_token && !typ.eq_ignore_ascii_case("JWT") {
            return Err(IdentifyError::TypeWrong);
        }
        let issuer = parsed.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let mut known = self.providers.iter().filter(|provider| provider.spec.issuer == issuer);
        let source = known.find_map(|provider| provider.spec.from.first());
        self.verify(token, source.ok_or(IdentifyError::IssuerUnknown)?, keys, now)
    }

    /// What each provider's document says about proofs of possession.
    pub(super) fn sender_rules(&self) -> impl Iterator<Item = &SenderRules> {
        self.providers.iter().map(|provider| &provider.spec.sender)
    }

    /// Whether tokens with this `iss` are for the providers to verify.
    pub(super) fn knows_issuer(&self, issuer: &str) -> bool {
        self.providers.iter().any(|provider| provider.spec.issuer == issuer)
    }

    /// Removes every user credential from a request that goes on: what identifies a user here
    /// is nobody else's business. Other schemes in the same header stay.
    pub fn remove_credentials(&self, headers: &mut HeaderMap) {
        for source in self.providers.iter().flat_map(|provider| &provider.spec.from) {
            let fields = headers.get_all(source.header.as_str());
            if fields.iter().any(|field| source.scheme.is_none() || is_of_scheme(field, source)) {
                headers.remove(source.header.as_str());
            }
        }
        headers.remove(dpop::FIELD);
    }

    /// The one credential of a request and the place it came from.
    pub(super) fn credential<'h>(
        &self,
        headers: &'h HeaderMap,
    ) -> Result<Option<(&'h str, &CredentialSource)>, IdentifyError> {
        credential(headers, &self.providers)
    }

    /// Verifies a credential; asks for new keys where that may help the next request.
    pub(super) fn verify(
        &self,
        token: &str,
        source: &CredentialSource,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<EndUser, IdentifyError> {
        let outcome = verify_token(token, source, &self.providers, keys, now);
        if let Err(IdentifyError::KeyUnknown { provider }) = &outcome {
            keys.ask_for_new_keys(provider);
        }
        outcome
    }
}

/// The user of the request's one bearer token; `None` when it carries no bearer token.
///
/// # Errors
/// When there is more than one credential, or the token is not one of `providers`' or not current.
pub fn verify_bearer(
    headers: &HeaderMap,
    providers: &[Arc<Provider>],
    keys: &KeysSnapshot,
    now: Now,
) -> Result<Option<EndUser>, IdentifyError> {
    match credential(headers, providers)? {
        Some((token, source)) => verify_token(token, source, providers, keys, now).map(Some),
        None => Ok(None),
    }
}

/// The one credential of the request, from the places the provider documents list.
fn credential<'h, 'p>(
    headers: &'h HeaderMap,
    providers: &'p [Arc<Provider>],
) -> Result<Option<(&'h str, &'p CredentialSource)>, IdentifyError> {
    let mut found: Option<(&'h str, &'p CredentialSource)> = None;
    for source in providers.iter().flat_map(|provider| &provider.spec.from) {
        if found.is_some_and(|(_, earlier)| earlier == source) {
            continue;
        }
        if let Some(token) = credential_at(headers, source)? {
            if found.is_some() {
                return Err(IdentifyError::Malformed("the request carries two credentials"));
            }
            found = Some((token, source));
        }
    }
    Ok(found)
}

/// The credential at one place. RFC 9110 §11.1: the scheme is compared without case.
pub(super) fn credential_at<'h>(
    headers: &'h HeaderMap,
    source: &CredentialSource,
) -> Result<Option<&'h str>, IdentifyError> {
    let mut fields = headers.get_all(source.header.as_str()).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(IdentifyError::Malformed("the request carries two credentials"));
    }
    let unreadable = |_| IdentifyError::Malformed("the credential is not ASCII text");
    let value = field.to_str().map_err(unreadable)?;
    let token = match &source.scheme {
        None => value,
        Some(expected) => {
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            if !scheme.eq_ignore_ascii_case(expected) {
                return Ok(None);
            }
            token
        }
    };
    match token.trim_matches(' ') {
        "" => Err(IdentifyError::Malformed("the credential is empty")),
        token => Ok(Some(token)),
    }
}

fn is_of_scheme(field: &HeaderValue, source: &CredentialSource) -> bool {
    let scheme = field.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
    source.scheme.as_ref().is_some_and(|expected| scheme.eq_ignore_ascii_case(expected.as_bytes()))
}

fn verify_token(
    token: &str,
    source: &CredentialSource,
    providers: &[Arc<Provider>],
    keys: &KeysSnapshot,
    now: Now,
) -> Result<EndUser, IdentifyError> {
    let token = user_token::parse(token)?;
    let provider = issuing_provider(&token.claims, source, providers)?;
    check_type(&token, &provider.spec)?;
    check_signature(&token, provider, keys, now)?;
    let life = Life::read(&token.claims)?;
    life.check(now)?;
    check_audience(&token.claims, &provider.spec)?;
    user_claims::check_required(&token.claims, &provider.spec)?;
    let binding = Binding::read(&token.claims)?;
    let facts = user_claims::read(&token.claims, &provider.spec)?;
    Ok(EndUser { provider: provider.clone(), facts, life, binding })
}

/// The provider whose tokens carry this `iss` and come from this place. Where two documents share
/// an issuer, the one that lists the token's audience is meant.
fn issuing_provider<'a>(
    claims: &Map<String, Value>,
    source: &CredentialSource,
    providers: &'a [Arc<Provider>],
) -> Result<&'a Arc<Provider>, IdentifyError> {
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let issues = |provider: &&Arc<Provider>| {
        provider.spec.issuer == issuer && provider.spec.from.contains(source)
    };
    let addressed = |provider: &&Arc<Provider>| check_audience(claims, &provider.spec).is_ok();
    let mut candidates = providers.iter().filter(issues);
    let first = candidates.clone().next().ok_or(IdentifyError::IssuerUnknown)?;
    Ok(candidates.find(addressed).unwrap_or(first))
}

/// `typ` is a media type: compared without case, `application/` may be left out (RFC 7515 §4.1.9).
fn check_type(
    token: &UnverifiedToken<'_>,
    provider: &IdentityProvider,
) -> Result<(), IdentifyError> {
    let bare = |typ: &str| match typ.get(..12) {
        Some(prefix) if prefix.eq_ignore_ascii_case("application/") => {
            typ.get(12..).unwrap_or_default().to_ascii_lowercase()
        }
        _ => typ.to_ascii_lowercase(),
    };
    let seen = bare(token.typ.as_deref().unwrap_or("JWT"));
    let listed = provider.token_types.iter().any(|typ| bare(typ) == seen);
    if listed { Ok(()) } else { Err(IdentifyError::TypeWrong) }
}

fn check_signature(
    token: &UnverifiedToken<'_>,
    provider: &Provider,
    keys: &KeysSnapshot,
    now: Now,
) -> Result<(), IdentifyError> {
    let algorithm = user_keys::algorithm(&token.alg)
        .filter(|algorithm| provider.spec.algorithms.contains(algorithm))
        .ok_or(IdentifyError::AlgorithmNotPermitted)?;
    let name = || Arc::from(provider.name.as_str());
    let set = keys
        .current(&provider.name, now)
        .ok_or_else(|| IdentifyError::KeysUnavailable { provider: name() })?;
    let key = match set.find(token.kid.as_deref(), algorithm) {
        Lookup::Found(key) => key,
        Lookup::OtherAlgorithm => return Err(IdentifyError::AlgorithmNotPermitted),
        Lookup::Unknown => return Err(IdentifyError::KeyUnknown { provider: name() }),
    };
    key.verify_sig(token.signed, &token.signature).map_err(|_| IdentifyError::SignatureInvalid)
}

impl Life {
    /// Reads `exp`, which must be there, and the later of `nbf` and `iat`.
    fn read(claims: &Map<String, Value>) -> Result<Life, IdentifyError> {
        let invalid = |name: &str| IdentifyError::ClaimInvalid { claim: name.to_owned() };
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or_else(|| invalid(name)),
        };
        let expires_at = time("exp")?.ok_or_else(|| invalid("exp"))?;
        let issued_at = time("iat")?;
        let begins_at = time("nbf")?.max(issued_at).unwrap_or_default();
        Ok(Life { begins_at, issued_at, expires_at })
    }

    fn check(self, now: Now) -> Result<(), IdentifyError> {
        let now = now.secs();
        if self.expires_at.saturating_add(SKEW_S) <= now {
            return Err(IdentifyError::Expired { by_secs: now.saturating_sub(self.expires_at) });
        }
        if self.begins_at > now.saturating_add(SKEW_S) {
            let ahead_secs = self.begins_at.saturating_sub(now);
            return Err(IdentifyError::NotYetValid { ahead_secs });
        }
        Ok(())
    }
}

/// `aud` is one text or a list of texts; one of them must be ours.
fn check_audience(
    claims: &Map<String, Value>,
    provider: &IdentityProvider,
) -> Result<(), IdentifyError> {
    let ours = |value: &Value| {
        value.as_str().is_some_and(|value| provider.audiences.iter().any(|own| own == value))
    };
    let found = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if found { Ok(()) } else { Err(IdentifyError::AudienceWrong) }
}
