//! Who may present tokens where, on top of custody. Unset: any mTLS peer of our own trust domain.
//! A peer without identity or of a foreign domain never may; the caller has no `WorkloadId` for
//! the first, and the second is refused here.

use countersign_workload_id::{IdPattern, TrustDomain, WorkloadId};

use crate::{PatternError, VerifyError};

/// One allowed combination of peer and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presenter {
    /// The peers.
    pub peer: IdPattern,
    /// The paths they may present tokens on.
    pub to: PathPattern,
}

/// The presenter list of a trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presenters(Option<Vec<Presenter>>);

impl Presenters {
    /// No list: any mTLS peer of our own trust domain, on any path.
    pub fn any() -> Self {
        Self(None)
    }

    /// Only these combinations; an empty list allows nobody.
    pub fn only(list: Vec<Presenter>) -> Self {
        Self(Some(list))
    }
}

/// Step 10, on every request. `path` is the canonical path, without query.
pub fn check_presenter(
    presenters: &Presenters,
    trust_domain: &TrustDomain,
    peer: &WorkloadId,
    path: &str,
) -> Result<(), VerifyError> {
    let listed = match &presenters.0 {
        None => true,
        Some(list) => list.iter().any(|entry| entry.peer.matches(peer) && entry.to.matches(path)),
    };
    if listed && peer.trust_domain() == trust_domain {
        return Ok(());
    }
    Err(VerifyError::PresenterRefused)
}

/// A set of canonical paths: literal segments, `*` for one segment, `**` at the end for the rest
/// (also for nothing: `/v1/orders/**` covers `/v1/orders`).
///
/// ```
/// use countersign_ctxtoken::PathPattern;
///
/// let orders = PathPattern::parse("/v1/orders/**").unwrap();
/// assert!(orders.matches("/v1/orders") && orders.matches("/v1/orders/7/items"));
/// assert!(!orders.matches("/v1/orders-admin"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<PathSegment>,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathSegment {
    Any,
    Literal(String),
}

impl PathPattern {
    /// Reads a pattern as configuration writes it; it starts with `/`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let misplaced =
            PatternError::WildcardPlace { example: "`/v1/*/items` and `/v1/orders/**`" };
        let path = text.strip_prefix('/').ok_or(PatternError::NotAPath)?;
        let (path, open) = match path.strip_suffix("**") {
            Some("") => return Ok(Self { segments: Vec::new(), open: true }),
            Some(before) => (before.strip_suffix('/').ok_or(misplaced.clone())?, true),
            None => (path, false),
        };
        let segment = |text: &str| match text {
            "*" => Ok(PathSegment::Any),
            _ if text.contains('*') => Err(misplaced.clone()),
            _ => Ok(PathSegment::Literal(text.to_owned())),
        };
        let segments = path.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }

    /// Whether `path` is one of the paths this pattern stands for.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut given = path.split('/');
        for wanted in &self.segments {
            match (wanted, given.next()) {
                (PathSegment::Any, Some(got)) if !got.is_empty() => {}
                (PathSegment::Literal(text), Some(got)) if text == got => {}
                _ => return false,
            }
        }
        self.open || given.next().is_none()
    }
}
