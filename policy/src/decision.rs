//! The answer to one request: allow or deny, by which rule, until when, and what must be done.
//!
//! A [`Decision`] holds no attribute value and is made without allocating.

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc};

use crate::{
    doc::{AuditLevel, ContextNeed, Effect, Place, shown::ClaimFilter},
    path::{CanonicalPath, PathTemplate},
};

/// The answer.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Allow or deny.
    pub outcome: Outcome,
    /// The rule that decided; on a denial for want of an allow, the closest one.
    pub rule: Option<RuleRef>,
    /// When an allow ends for streams and live connections, Unix milliseconds.
    pub valid_until: Option<i64>,
    /// How it is recorded.
    pub audit: AuditLevel,
    /// On a denial, the text for in-mesh callers.
    pub message: Option<Arc<str>>,
    /// What the deciding rule says about the context; [`ContextNeed::Required`] on a denial.
    pub context: ContextNeed,
    /// What the deciding rule shows the app of the claims; `None`: everything.
    pub claims: Option<Arc<ClaimFilter>>,
    /// The token may be used by this rule only once.
    pub once: bool,
    /// What is accessed, as the deciding policy says.
    pub resource: Option<ResourceRef>,
    /// The path pattern of the deciding rule that matched.
    pub route: Option<Arc<str>>,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Permitted.
    Allow,
    /// Refused.
    Deny(DenyReason),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// A deny rule matched.
    DenyRule,
    /// No allow rule matched.
    NoMatch,
    /// An allow rule failed only on facts that could not be known.
    Unknown,
    /// An allow rule failed only because no context token came with the request.
    TokenMissing,
    /// An allow rule failed only because a signed parameter is not the request's.
    ParameterMismatch,
}

impl DenyReason {
    /// Stable name, used in audit records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DenyRule => "deny_rule",
            Self::NoMatch => "no_match",
            Self::Unknown => "unknown",
            Self::TokenMissing => "token_missing",
            Self::ParameterMismatch => "parameter_mismatch",
        }
    }
}

impl Decision {
    /// Whether the request is permitted.
    pub fn is_allow(&self) -> bool {
        self.outcome == Outcome::Allow
    }

    /// Who owns what is accessed, read from the path that was decided on.
    pub fn resource_owner<'p>(&self, path: &'p CanonicalPath) -> Option<Cow<'p, str>> {
        self.resource.as_ref().and_then(|resource| resource.owner(path))
    }
}

/// A rule, shared with the compiled policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef(pub(crate) Arc<RuleName>);

/// Names and place of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleName {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the rule.
    pub rule: String,
    /// Allow or deny.
    pub effect: Effect,
    /// Where it is written.
    pub place: Place,
    pub(crate) id: String,
}

impl RuleName {
    /// `namespace/policy/rule`.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Deref for RuleRef {
    type Target = RuleName;
    fn deref(&self) -> &RuleName {
        &self.0
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What is accessed, without its values.
#[derive(Clone, Debug)]
pub struct ResourceRef(pub(crate) Arc<ResourceName>);

#[derive(Debug)]
pub(crate) struct ResourceName {
    pub(crate) kind: Arc<str>,
    pub(crate) owner: Option<(PathTemplate, String)>,
}

impl ResourceRef {
    /// Such as `user`.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The owner named in this path, percent-decoded.
    pub fn owner<'p>(&self, path: &'p CanonicalPath) -> Option<Cow<'p, str>> {
        let (template, param) = self.0.owner.as_ref()?;
        template.capture(param, path)
    }
}
