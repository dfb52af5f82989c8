//! Service account tokens of a Kubernetes cluster as proof of a caller outside the mesh: which
//! claims they have, and which of them are refused before anybody is asked.
//!
//! Invariant: only a token that is bound to a pod, for our audience, of a life of at most a day
//! gets past here; where nobody is asked about it (discovery alone cannot see a deleted pod), of at
//! most ten minutes. Pure: the time is an argument.

use countersign_workload_id::{TrustDomain, WorkloadId};
use serde_json::{Map, Value};

use super::claims::{Life, check_audience, text};
use super::error::CallerError;
use crate::clock::Now;

/// The longest life, seconds: the API server extends tokens of its own to a year.
const LIFE_S_MAX: u64 = 24 * 3600;
/// The longest life of a token nobody is asked about, seconds: the shortest Kubernetes issues.
const LIFE_UNREVIEWED_S_MAX: u64 = 600;
/// The longest of the names in a token.
const NAME_BYTES_MAX: usize = 253;

/// The pod a token is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What a service account token states. Nothing of it is proven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::gateway) struct Stated {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub(super) username: String,
    /// The identity that follows from it.
    pub(super) id: WorkloadId,
    /// The pod.
    pub(super) pod: Pod,
    /// When it counts.
    pub(super) life: Life,
}

/// Reads the claims of a token; `reviewed` says that the API server will be asked about it.
pub(super) fn read(
    claims: &Map<String, Value>,
    audience: &str,
    domain: &TrustDomain,
    reviewed: bool,
    now: Now,
) -> Result<Stated, CallerError> {
    check_audience(claims, audience)?;
    let life = Life::read(claims)?;
    life.check(now)?;
    check_life(life, reviewed)?;
    let username = text(claims, "sub")?;
    let (namespace, account) = username
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or(CallerError::SubjectInvalid("the subject of the token is no service account"))?;
    let bound = claims.get("kubernetes.io").and_then(Value::as_object);
    let bound = bound.ok_or(CallerError::Unbound)?;
    let name = |object: &str, field: &str| name_in(bound, object, field);
    if bound.get("namespace").and_then(Value::as_str) != Some(namespace)
        || name("serviceaccount", "name").as_deref() != Some(account)
    {
        return Err(CallerError::ClaimInvalid("kubernetes.io"));
    }
    let pod = name("pod", "name").zip(name("pod", "uid")).ok_or(CallerError::Unbound)?;
    let pod = Pod { namespace: namespace.to_owned(), name: pod.0, uid: pod.1 };
    let id = WorkloadId::parse(&format!("spiffe://{domain}/ns/{namespace}/sa/{account}"));
    let id = id.map_err(|_| {
        CallerError::SubjectInvalid("the service account's name is none a SPIFFE ID can carry")
    })?;
    Ok(Stated { username: username.to_owned(), id, pod, life })
}

fn check_life(life: Life, reviewed: bool) -> Result<(), CallerError> {
    let issued_at = life.issued_at.ok_or(CallerError::ClaimInvalid("iat"))?;
    let life_s = life.expires_at.saturating_sub(issued_at);
    let (max_s, hint) = if reviewed {
        (LIFE_S_MAX, "project a token with a shorter `expirationSeconds`")
    } else {
        let hint = "without `tokenReview` nobody sees that its pod is gone; write \
                    `expirationSeconds: 600`, or add `tokenReview` to the gateway";
        (LIFE_UNREVIEWED_S_MAX, hint)
    };
    if life_s > max_s {
        return Err(CallerError::LifeTooLong { life_s, max_s, hint });
    }
    Ok(())
}

fn name_in(bound: &Map<String, Value>, object: &str, field: &str) -> Option<String> {
    let name = bound.get(object)?.as_object()?.get(field)?.as_str()?;
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then(|| name.to_owned())
}
