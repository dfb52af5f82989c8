//! Workloads outside the mesh that call through the gateway with a bearer token of their own:
//! a Kubernetes service account token, or a JWT-SVID.
//!
//! Such a token makes the *subject* of the context token `svc:<SPIFFE ID>`; it is a bearer
//! credential, so the connection stays without a mesh identity. Checked once, when the gateway
//! mints; behind the gateway only the context token counts.
//! Invariants: a [`ServiceCaller`] exists only for a token that was wholly verified here; the kind
//! of a token is chosen by what it states, and proven by the checks of that kind alone; where the
//! API server is to be asked and does not answer, the request is refused.

pub(super) mod cache;
mod claims;
mod error;
pub mod jwt_svid;
pub mod review;
pub mod rules;
pub mod service_account;
#[doc(hidden)]
pub mod unproven;

use std::sync::Arc;

use countersign_ctxtoken::Subject;
use countersign_policy::Revocations;
use countersign_policy::doc::{CredentialSource, UserAlgorithm};
use countersign_workload_id::{TrustDomain, WorkloadId};
use http::HeaderMap;
use serde_json::{Map, Value};

pub use self::cache::CallerCache;
use self::claims::Life;
pub use self::error::CallerError;
use self::jwt_svid::JwtSvids;
use self::review::{ReviewTarget, Reviewed};
use self::service_account::{Pod, Stated};
use crate::clock::Now;
use crate::gateway::accept::Connection;
use crate::gateway::identify::{IdentifyError, UserVerifier, credential_at};
use crate::gateway::provider_keys::KeysSnapshot;
use crate::gateway::rules::GatewayRules;
use crate::gateway::user_cache::sha256;
use crate::gateway::user_keys::{self, Lookup};
use crate::gateway::user_token::{self, UnverifiedToken};
use crate::refusal::Refused;
use crate::tls::peer::NoPeer;
use crate::worker::Worker;

/// Our name of the cluster, `rctx.idp`, and of the keys its tokens are signed with.
pub const CLUSTER: &str = "k8s";
/// Algorithms a cluster may sign its tokens with.
pub const CLUSTER_ALGORITHMS: [UserAlgorithm; 3] =
    [UserAlgorithm::RS256, UserAlgorithm::ES256, UserAlgorithm::ES384];
/// The longest subject a context token carries, with `svc:`.
const SUBJECT_BYTES_MAX: usize = 256;

/// What a caller's token is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallerKind {
    /// A service account token.
    ServiceAccount,
    /// A JWT-SVID.
    JwtSvid,
}

impl CallerKind {
    /// Why the connection has no mesh identity.
    pub fn no_peer(self) -> NoPeer {
        match self {
            CallerKind::ServiceAccount => NoPeer::ServiceAccountToken,
            CallerKind::JwtSvid => NoPeer::JwtSvid,
        }
    }
}

/// A workload proven by its token. Made only in this file.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServiceCaller {
    id: WorkloadId,
    kind: CallerKind,
    pod: Option<Pod>,
    life: Life,
    grants: Vec<String>,
}

impl ServiceCaller {
    /// Who it is.
    pub fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// What it proved itself with.
    pub fn kind(&self) -> CallerKind {
        self.kind
    }

    /// The pod its token is bound to.
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// `sub` of the context token.
    pub fn subject(&self) -> Subject {
        Subject::Service(self.id.clone())
    }

    /// `rctx.idp`: who vouches.
    pub fn idp(&self) -> Option<&'static str> {
        (self.kind == CallerKind::ServiceAccount).then_some(CLUSTER)
    }

    /// The scopes the gateway's document grants it.
    pub fn granted_scopes(&self) -> &[String] {
        &self.grants
    }

    /// Whether a revocation names the workload, and this token is older than it allows, or its pod.
    pub fn revoked(&self, revocations: &Revocations, now: Now) -> Option<&'static str> {
        let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
        let issued_ms = self.life.issued_at.map_or(i64::MIN, ms);
        let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
        if revocations.identity(&self.id, issued_ms, now_ms) {
            return Some("identity");
        }
        let pod = self.pod.as_ref().is_some_and(|pod| revocations.pod(&pod.uid, now_ms));
        pod.then_some("pod")
    }
}

/// Which service account tokens count.
#[derive(Clone, Debug)]
pub struct ServiceAccounts {
    /// The cluster's `iss`.
    pub issuer: String,
    /// The `aud` value that is ours.
    pub audience: String,
    /// Where to ask about a token; `None`: nowhere, its signature and a short life must do.
    pub review: Option<Arc<ReviewTarget>>,
    /// Whether signatures are checked here, with the keys named [`CLUSTER`].
    pub keys: bool,
    /// What a caller may be granted.
    pub grants: Vec<String>,
}

/// Which callers a gateway takes.
#[derive(Clone, Debug)]
pub struct CallerRules {
    /// The mesh's trust domain, for identities made from service accounts.
    pub domain: TrustDomain,
    /// Service account tokens.
    pub service_account: Option<ServiceAccounts>,
    /// JWT-SVIDs.
    pub jwt_svid: Option<JwtSvids>,
}

/// What came of a token without asking anybody.
#[derive(Debug)]
pub(super) enum Verdict {
    Proven(ServiceCaller),
    /// All is in order as far as can be seen here; the API server must say so too.
    ToReview(Stated, Arc<ReviewTarget>),
}

/// Who calls with a token of its own; `None` when the request carries no token of these kinds.
///
/// # Errors
/// `caller_token_invalid`, `caller_token_expired`, `caller_unverifiable`; `user_token_malformed`
/// when the request carries another credential beside it.
pub async fn identify(
    conn: &Connection,
    gateway: &GatewayRules,
    headers: &HeaderMap,
    now: Now,
) -> Result<Option<Arc<ServiceCaller>>, Refused> {
    let Some(rules) = &gateway.callers else { return Ok(None) };
    // What is wrong with the field itself is for the stage of users to say.
    let Ok(Some(text)) = credential_at(headers, &bearer()) else { return Ok(None) };
    let worker = conn.worker();
    let keys = worker.shared.provider_keys.load();
    let key = sha256(text.as_bytes());
    let known = worker.callers.borrow_mut().get(&key, rules, keys.current(CLUSTER, now), now);
    let in_clear = conn.scheme() != "https";
    if let Some(outcome) = known {
        check_alone(&gateway.users, headers, text)?;
        return told(worker, if in_clear { Err(CallerError::Plaintext) } else { outcome });
    }
    if worker.callers.borrow_mut().is_other(&key, rules) {
        return Ok(None);
    }
    let Ok(token) = user_token::parse(text) else { return Ok(None) };
    let Some(kind) = rules.kind(&token.claims, &gateway.users) else {
        worker.callers.borrow_mut().keep_other(key, rules);
        return Ok(None);
    };
    check_alone(&gateway.users, headers, text)?;
    if in_clear {
        return told(worker, Err(CallerError::Plaintext));
    }
    let (outcome, reviewed) = match rules.verify(&token, kind, &keys, now) {
        Err(error) => (Err(error), false),
        Ok(Verdict::Proven(caller)) => (Ok(caller), false),
        Ok(Verdict::ToReview(stated, target)) => {
            let reviewed = worker.shared.reviews.review(&target, text, key).await;
            (reviewed.and_then(|reviewed| rules.confirm(stated, reviewed)), true)
        }
    };
    let outcome = outcome.map(Arc::new);
    // Later than `now`, which only makes the memory shorter.
    let entry =
        cache::Entry::new(outcome.clone(), rules, keys.current(CLUSTER, now), reviewed, now);
    worker.callers.borrow_mut().keep(key, entry);
    told(worker, outcome)
}

/// Counts what came of a token, and passes it on.
fn told(
    worker: &Worker,
    outcome: Result<Arc<ServiceCaller>, CallerError>,
) -> Result<Option<Arc<ServiceCaller>>, Refused> {
    worker.metrics.caller_token(outcome.as_ref().map_or_else(CallerError::sub, |_| "ok"));
    outcome.map(Some).map_err(|error| error.refused())
}

/// A request has one credential.
fn check_alone(users: &UserVerifier, headers: &HeaderMap, token: &str) -> Result<(), Refused> {
    match users.credential(headers) {
        Ok(None) => Ok(()),
        Ok(Some((other, _))) if other == token => Ok(()),
        Ok(Some(_)) => {
            let two = IdentifyError::Malformed("the request carries two credentials");
            Err(super::of_identify(&two))
        }
        Err(error) => Err(super::of_identify(&error)),
    }
}

/// Where callers put their token (J-9); gRPC's `authorization` metadata is the same field.
fn bearer() -> CredentialSource {
    CredentialSource { header: "authorization".to_owned(), scheme: Some("Bearer".to_owned()) }
}

impl CallerRules {
    /// Which checks a token is for, by what it states; `None`: it is a user's, or nobody's.
    pub(super) fn kind(
        &self,
        claims: &Map<String, Value>,
        users: &UserVerifier,
    ) -> Option<CallerKind> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        if self.service_account.as_ref().is_some_and(|own| issuer == Some(&own.issuer)) {
            return Some(CallerKind::ServiceAccount);
        }
        let of_users = issuer.is_some_and(|issuer| users.knows_issuer(issuer));
        let svid = self.jwt_svid.is_some() && !of_users && jwt_svid::looks_like(claims);
        svid.then_some(CallerKind::JwtSvid)
    }

    /// Checks a token as far as that is possible without asking anybody.
    pub(super) fn verify(
        &self,
        token: &UnverifiedToken<'_>,
        kind: CallerKind,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<Verdict, CallerError> {
        let unwanted = || CallerError::SubjectInvalid("such tokens are not taken here");
        match kind {
            CallerKind::JwtSvid => {
                let rules = self.jwt_svid.as_ref().ok_or_else(unwanted)?;
                let (id, life) = jwt_svid::verify(token, rules, now)?;
                let grants = rules.grants.clone();
                Ok(Verdict::Proven(proven(ServiceCaller { id, kind, pod: None, life, grants })?))
            }
            CallerKind::ServiceAccount => {
                let rules = self.service_account.as_ref().ok_or_else(unwanted)?;
                self.service_account_token(token, rules, keys, now)
            }
        }
    }

    fn service_account_token(
        &self,
        token: &UnverifiedToken<'_>,
        rules: &ServiceAccounts,
        keys: &KeysSnapshot,
        now: Now,
    ) -> Result<Verdict, CallerError> {
        if !matches!(token.typ.as_deref(), None | Some("JWT")) {
            return Err(CallerError::HeaderForbidden);
        }
        let algorithm = user_keys::algorithm(&token.alg)
            .filter(|algorithm| CLUSTER_ALGORITHMS.contains(algorithm))
            .ok_or(CallerError::AlgorithmNotPermitted)?;
        if rules.keys {
            check_signature(token, algorithm, keys, now)?;
        }
        let reviewed = rules.review.is_some();
        let stated =
            service_account::read(&token.claims, &rules.audience, &self.domain, reviewed, now)?;
        match (&rules.review, rules.keys) {
            (Some(target), _) => Ok(Verdict::ToReview(stated, Arc::clone(target))),
            (None, true) => Ok(Verdict::Proven(of_stated(stated, rules)?)),
            (None, false) => {
                let what = "nobody can tell whether the token is genuine";
                Err(CallerError::Unverifiable(what.to_owned()))
            }
        }
    }

    /// What the API server said, held against what the token stated.
    pub(super) fn confirm(
        &self,
        stated: Stated,
        reviewed: Reviewed,
    ) -> Result<ServiceCaller, CallerError> {
        let rules = self.service_account.as_ref();
        let rules = rules.ok_or(CallerError::SubjectInvalid("such tokens are not taken here"))?;
        match reviewed {
            Reviewed::Refused(why) => Err(CallerError::NotAuthenticated(why)),
            Reviewed::Authenticated { username, .. } if username != stated.username => {
                Err(CallerError::Contradicted("user name"))
            }
            Reviewed::Authenticated { pod_uid, .. } if pod_uid != stated.pod.uid => {
                Err(CallerError::Contradicted("pod"))
            }
            Reviewed::Authenticated { .. } => of_stated(stated, rules),
        }
    }
}

fn of_stated(stated: Stated, rules: &ServiceAccounts) -> Result<ServiceCaller, CallerError> {
    let Stated { id, pod, life, .. } = stated;
    let grants = rules.grants.clone();
    proven(ServiceCaller { id, kind: CallerKind::ServiceAccount, pod: Some(pod), life, grants })
}

/// A context token must be able to carry the subject.
fn proven(caller: ServiceCaller) -> Result<ServiceCaller, CallerError> {
    if "svc:".len() + caller.id.as_str().len() > SUBJECT_BYTES_MAX {
        return Err(CallerError::SubjectInvalid("the SPIFFE ID is too long for a context token"));
    }
    Ok(caller)
}

fn check_signature(
    token: &UnverifiedToken<'_>,
    algorithm: UserAlgorithm,
    keys: &KeysSnapshot,
    now: Now,
) -> Result<(), CallerError> {
    let set = keys.current(CLUSTER, now).ok_or_else(|| {
        let what = "the cluster's keys have not been fetched, or are too old (provider `k8s`)";
        CallerError::Unverifiable(what.to_owned())
    })?;
    let key = match set.find(token.kid.as_deref(), algorithm) {
        Lookup::Found(key) => key,
        Lookup::OtherAlgorithm => return Err(CallerError::AlgorithmNotPermitted),
        Lookup::Unknown => {
            keys.ask_for_new_keys(CLUSTER);
            let kid = token.kid.as_deref().unwrap_or_default();
            let kid = kid.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            return Err(CallerError::KeyUnknown { kid, whose: "the cluster".to_owned() });
        }
    };
    key.verify_sig(token.signed, &token.signature).map_err(|_| CallerError::SignatureInvalid)
}
