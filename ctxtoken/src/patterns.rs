//! Patterns of an issuer's entry: which subjects and scopes it may sign. A `*` stands at the end
//! and right behind a separator, so `orders.*` never covers `orders-admin` and `user:a*` is not a
//! pattern.

use std::fmt;

use countersign_workload_id::IdPattern;

use crate::{Subject, claims::is_scope_name};

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `*` elsewhere than at the end behind a separator.
    #[error("`*` is allowed only at the end and right behind a separator, as in {example}")]
    WildcardPlace {
        /// What is allowed.
        example: &'static str,
    },
    /// Not a path.
    #[error("a path starts with `/`")]
    NotAPath,
    /// Not a subject.
    #[error(
        "not a subject: write `user:*`, `user:corp/*`, `svc:*`, `svc:spiffe://…`, `anon` or a whole subject"
    )]
    NotASubject,
    /// Not a scope name.
    #[error("a scope name is printable ASCII without spaces and quotes")]
    NotAScope,
}

/// A set of subjects: `user:*`, `user:corp/*`, `svc:*`, `svc:<ID pattern>`,
/// `foreign:<trust domain>|*`, `anon`, or one whole subject.
///
/// ```
/// use countersign_ctxtoken::{SubPattern, Subject};
///
/// let users = SubPattern::parse("user:*").unwrap();
/// assert!(users.matches(&Subject::parse("user:alice").unwrap()));
/// assert!(!users.matches(&Subject::Anonymous));
/// assert!(SubPattern::parse("user:al*").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubPattern(SubKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum SubKind {
    AnyForeign { trust_domain: String },
    AnyService,
    AnyUser,
    Exact(Subject),
    Services(IdPattern),
    UsersOf { provider: String },
}

impl SubPattern {
    /// Reads a pattern as configuration writes it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let kind = match text {
            "user:*" => SubKind::AnyUser,
            "svc:*" => SubKind::AnyService,
            _ if !text.contains('*') => match text.strip_prefix("svc:") {
                Some(id) => SubKind::Services(id_pattern(id)?),
                None => SubKind::Exact(Subject::parse(text).ok_or(PatternError::NotASubject)?),
            },
            _ => Self::wildcard(text)?,
        };
        Ok(Self(kind))
    }

    fn wildcard(text: &str) -> Result<SubKind, PatternError> {
        let misplaced = PatternError::WildcardPlace {
            example: "`user:*`, `user:corp/*` and `svc:spiffe://td/ns/**`",
        };
        match text.split_once(':') {
            Some(("svc", id)) => id_pattern(id).map(SubKind::Services),
            Some(("user", name)) => match name.strip_suffix("/*") {
                Some(provider) if !provider.is_empty() && !provider.contains(['*', '/']) => {
                    Ok(SubKind::UsersOf { provider: provider.to_owned() })
                }
                _ => Err(misplaced),
            },
            Some(("foreign", rest)) => match rest.strip_suffix("|*") {
                Some(domain) if !domain.is_empty() && !domain.contains(['*', '|']) => {
                    Ok(SubKind::AnyForeign { trust_domain: domain.to_owned() })
                }
                _ => Err(misplaced),
            },
            _ => Err(misplaced),
        }
    }

    /// Whether `subject` is one of the subjects this pattern stands for.
    pub fn matches(&self, subject: &Subject) -> bool {
        match (&self.0, subject) {
            (SubKind::AnyUser, Subject::User(_)) | (SubKind::AnyService, Subject::Service(_)) => {
                true
            }
            (SubKind::UsersOf { provider }, Subject::User(name)) => {
                name.provider() == Some(provider.as_str())
            }
            (SubKind::Services(pattern), Subject::Service(id)) => pattern.matches(id),
            (SubKind::AnyForeign { trust_domain }, Subject::Foreign { trust_domain: td, .. }) => {
                td.as_str() == trust_domain
            }
            (SubKind::Exact(wanted), subject) => wanted == subject,
            _ => false,
        }
    }
}

fn id_pattern(text: &str) -> Result<IdPattern, PatternError> {
    IdPattern::parse(text).map_err(|_| PatternError::NotASubject)
}

/// A set of scope names: one name, `orders.*` (also behind `:` and `/`), or `*`.
///
/// ```
/// use countersign_ctxtoken::ScopePattern;
///
/// let orders = ScopePattern::parse("orders.*").unwrap();
/// assert!(orders.matches("orders.read"));
/// assert!(!orders.matches("orders") && !orders.matches("orders-admin.all"));
/// assert!(ScopePattern::parse("ord*").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopePattern(ScopeKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum ScopeKind {
    Any,
    Exact(String),
    /// Ends with its separator.
    Prefix(String),
}

impl ScopePattern {
    /// Reads a pattern as configuration writes it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self(ScopeKind::Any));
        }
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        if name.contains('*') || (is_prefix && !name.ends_with(['.', ':', '/'])) {
            return Err(PatternError::WildcardPlace { example: "`orders.*`" });
        }
        if !is_scope_name(name) || (is_prefix && name.len() < 2) {
            return Err(PatternError::NotAScope);
        }
        let name = name.to_owned();
        Ok(Self(if is_prefix { ScopeKind::Prefix(name) } else { ScopeKind::Exact(name) }))
    }

    /// Whether `scope` is one of the names this pattern stands for.
    pub fn matches(&self, scope: &str) -> bool {
        match &self.0 {
            ScopeKind::Any => true,
            ScopeKind::Exact(name) => scope == name,
            ScopeKind::Prefix(prefix) => {
                scope.len() > prefix.len() && scope.starts_with(prefix.as_str())
            }
        }
    }
}

impl fmt::Display for ScopePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ScopeKind::Any => f.write_str("*"),
            ScopeKind::Exact(name) => f.write_str(name),
            ScopeKind::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}
