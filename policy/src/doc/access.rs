//! `AccessPolicy`: who may do what, under which conditions.

use std::{collections::BTreeMap, sync::Arc};

use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{Place, Selector};
use crate::{
    input::Caller,
    path::{CanonicalPath, PathTemplate, Segment, percent_decoded},
    time::TimeAtom,
};

/// Rules for the workloads a selector picks. Direction is always inbound for now.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessPolicy {
    /// Namespace; in `countersign-system` a policy may select every namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// Which workloads.
    pub selector: Selector,
    /// Which ports; empty: all.
    pub ports: Vec<u16>,
    /// What is accessed.
    pub resource: Option<Resource>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a policy says is accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Such as `user`.
    pub kind: Arc<str>,
    /// `owner.fromPath`.
    pub owner: Option<OwnerFromPath>,
}

/// The owner is one segment of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerFromPath {
    /// The path it stands in.
    pub template: PathTemplate,
    /// Which `{param}` of the template.
    pub param: String,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in its policy.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// Allow or deny.
    pub effect: Effect,
    /// Which requests it speaks about.
    pub matcher: Match,
    /// Conditions, all of which must hold.
    pub require: Vec<Atom>,
    /// Deny only: it does not apply if any entry holds wholly.
    pub unless: Vec<Vec<Atom>>,
    /// Whether an allow needs a context.
    pub context: ContextNeed,
    /// What else must happen.
    pub obligations: Obligations,
    /// Shown to in-mesh callers.
    pub message: Option<Arc<str>>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Matching requests are refused, whatever else allows them.
    Deny,
    /// Matching requests are permitted unless denied.
    Allow,
}

/// Which requests. Keys are joined by AND; none at all is `any: true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Who calls; `None` (deny rules only): anybody.
    pub caller: Option<CallerMatch>,
    /// What is called; `None`: anything.
    pub protocol: Option<ProtocolMatch>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerMatch {
    /// One of these workloads.
    AnyOf(Vec<WorkloadId>),
    /// Any authenticated workload of the own trust domain.
    AnyInMesh,
    /// A caller without a mesh certificate (W114).
    Unauthenticated,
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolMatch {
    /// HTTP requests.
    Http(HttpMatch),
    /// gRPC calls.
    Grpc(GrpcMatch),
}

/// Keys are joined by AND; the entries of a list by OR; an empty list does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// Case-sensitive methods.
    pub methods: Vec<String>,
    /// Canonical hosts.
    pub hosts: Vec<String>,
    /// Paths.
    pub paths: Vec<PathPattern>,
    /// Headers; all must match.
    pub headers: Vec<HeaderMatch>,
}

/// One path alternative.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// The whole path.
    Exact(String),
    /// This path and everything below it.
    Prefix(String),
    /// A template with `{name}` segments and a final `**`.
    Template(PathTemplate),
}

/// One header condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Lower case, `_` written as `-`.
    pub name: String,
    /// How several values count.
    pub values: HeaderValues,
    /// Accepted values.
    pub any_of: Vec<String>,
}

/// How several values of one header count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderValues {
    /// Exactly one line without a comma; anything else is unknown.
    Single,
    /// One of the values is accepted.
    AnyValue,
    /// All of the values are accepted.
    EveryValue,
}

/// A gRPC service, and its methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMatch {
    /// Full service name.
    pub service: String,
    /// Methods; empty: all.
    pub methods: Vec<String>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Atom {
    /// A verified user passes every given test.
    User(UserAtom),
    /// There is no user.
    UserAbsent,
    /// The request came from these addresses.
    Source(SourceAtom),
    /// It is now, or was at entry, within these hours.
    Time(TimeAtom),
    /// A justification was given.
    Justification(JustificationAtom),
    /// The context token satisfies this.
    Token(TokenAtom),
}

impl Atom {
    /// Its key in documents, as in the atom id `require.time`.
    pub fn key(&self) -> &'static str {
        match self {
            Self::User(_) | Self::UserAbsent => "user",
            Self::Source(_) => "source",
            Self::Time(_) => "time",
            Self::Justification(_) => "justification",
            Self::Token(_) => "token",
        }
    }
}

/// Tests of the user; empty lists and `None` do not restrict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserAtom {
    /// Which identity provider vouches.
    pub provider: String,
    /// Accepted ids.
    pub ids: Vec<String>,
    /// In at least one of these.
    pub any_group: Vec<String>,
    /// In all of these.
    pub all_groups: Vec<String>,
    /// Claims and their accepted values.
    pub claims: BTreeMap<String, Vec<ClaimValue>>,
    /// Logged in at most so many seconds ago.
    pub max_auth_age_s: Option<u64>,
    /// The user's account owns the resource.
    pub is_resource_owner: bool,
}

/// An accepted value of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimValue {
    /// A string, or one entry of a string list.
    Text(String),
    /// An integer or a timestamp.
    Int(i64),
    /// A boolean.
    Bool(bool),
}

/// Where the request came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceAtom {
    /// Which address.
    pub at: SourceAt,
    /// Names of `cidrSets`.
    pub cidr_sets: Vec<String>,
    /// Accepted `ip_src` values (`peer`, `xff:1`, …); empty: any.
    pub sources: Vec<String>,
}

/// Which address of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceAt {
    /// The client at the gateway.
    Origin,
    /// The TCP peer of this proxy.
    Peer,
}

/// Why the user wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JustificationAtom {
    /// Accepted kinds; empty: any.
    pub any_kind: Vec<String>,
    /// A validator accepted it.
    pub checked: bool,
    /// Seconds since it was checked or given.
    pub max_age_s: Option<u64>,
}

/// What the context token must say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenAtom {
    /// `scopes.anyOf`.
    pub any_scope: Vec<String>,
    /// `scopes.allOf`.
    pub all_scopes: Vec<String>,
    /// Issued at most so many seconds ago.
    pub max_age_s: Option<u64>,
    /// Accepted origins; empty: any.
    pub origins: Vec<String>,
}

/// Whether an allow rule needs a context token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContextNeed {
    /// Without one the rule does not allow.
    Required,
    /// With or without.
    Optional,
    /// With or without, and it is hidden from the app.
    None,
}

/// What must happen besides deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obligations {
    /// How the decision is recorded.
    pub audit: AuditLevel,
    /// Streams end after so many seconds.
    pub max_stream_age_s: u64,
}

/// `obligations.audit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditLevel {
    /// Permitted requests are counted, denials recorded.
    Counted,
    /// One record each.
    Normal,
    /// On stable storage before forwarding.
    Full,
}

impl PathPattern {
    /// Whether a path matches, byte for byte: how allow rules compare.
    pub fn matches_exactly(&self, path: &CanonicalPath) -> bool {
        match self {
            Self::Exact(exact) => exact == path.path(),
            Self::Prefix(prefix) => match path.path().strip_prefix(prefix.trim_end_matches('/')) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
            Self::Template(template) => template.matches(path),
        }
    }

    /// Whether a path matches as deny rules compare: escapes resolved, letter case and one
    /// trailing slash ignored. The compiled index does the same without allocating.
    pub fn matches_widely(&self, path: &CanonicalPath) -> bool {
        fn segments(path: &str) -> Vec<Vec<u8>> {
            let trimmed = path.strip_suffix('/').unwrap_or(path);
            trimmed.split('/').skip(1).map(folded).collect()
        }
        fn folded(segment: &str) -> Vec<u8> {
            percent_decoded(segment).map(|byte| byte.to_ascii_lowercase()).collect()
        }
        if !path.path().starts_with('/') {
            return false;
        }
        let given = segments(path.path());
        let (wanted, open): (Vec<Option<Vec<u8>>>, bool) = match self {
            Self::Exact(exact) => (segments(exact).into_iter().map(Some).collect(), false),
            Self::Prefix(prefix) => (segments(prefix).into_iter().map(Some).collect(), true),
            Self::Template(template) => {
                let mut wanted: Vec<Option<Vec<u8>>> = template
                    .segments()
                    .iter()
                    .map(|segment| match segment {
                        Segment::Literal(text) => Some(folded(text)),
                        Segment::Param(_) => None,
                    })
                    .collect();
                if wanted.last().is_some_and(|last| last.as_ref().is_some_and(Vec::is_empty)) {
                    wanted.pop();
                }
                (wanted, template.is_open())
            }
        };
        let long_enough =
            if open { given.len() >= wanted.len() } else { given.len() == wanted.len() };
        long_enough
            && wanted.iter().zip(&given).all(|(wanted, given)| match wanted {
                Some(literal) => literal == given,
                None => !given.is_empty(),
            })
    }

    /// For people, metrics and `http.route`.
    pub fn route(&self) -> Arc<str> {
        match self {
            Self::Exact(exact) => exact.as_str().into(),
            Self::Prefix(prefix) => format!("{}/**", prefix.trim_end_matches('/')).into(),
            Self::Template(template) => template.text(),
        }
    }
}

impl HttpMatch {
    /// Whether method, host and path match, byte for byte. Headers are not looked at.
    pub fn matches_exactly(&self, method: &str, host: &str, path: &CanonicalPath) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|own| own == method))
            && (self.hosts.is_empty() || self.hosts.iter().any(|own| own == host))
            && (self.paths.is_empty() || self.paths.iter().any(|own| own.matches_exactly(path)))
    }
}

impl CallerMatch {
    /// Whether a caller is one of these.
    pub fn admits(&self, caller: Caller<'_>, own_domain: &TrustDomain) -> bool {
        match (self, caller) {
            (Self::AnyOf(ids), Caller::Mesh(id)) => ids.contains(id),
            (Self::AnyInMesh, Caller::Mesh(id)) => id.trust_domain() == own_domain,
            (Self::Unauthenticated, Caller::Unauthenticated(_)) => true,
            (Self::AnyOf(_) | Self::AnyInMesh, Caller::Unauthenticated(_))
            | (Self::Unauthenticated, Caller::Mesh(_)) => false,
        }
    }
}

impl GrpcMatch {
    /// Whether a path calls one of these methods, compared as the effect demands.
    pub fn covers(&self, path: &CanonicalPath, effect: Effect) -> bool {
        let pattern = |method: &str| format!("/{}/{method}", self.service);
        let matches = |pattern: PathPattern| match effect {
            Effect::Allow => pattern.matches_exactly(path),
            Effect::Deny => pattern.matches_widely(path),
        };
        if !self.methods.is_empty() {
            return self.methods.iter().any(|m| matches(PathPattern::Exact(pattern(m))));
        }
        match effect {
            Effect::Deny => matches(PathPattern::Prefix(format!("/{}", self.service))),
            Effect::Allow => PathTemplate::parse(&pattern("{method}"))
                .is_ok_and(|template| matches(PathPattern::Template(template))),
        }
    }
}
