//! `AccessPolicy`: who may do what, under which conditions.

use std::{collections::BTreeMap, sync::Arc};

use countersign_workload_id::{IdPattern, WorkloadId};

use super::{Place, Selector, shown::ClaimFilter};
use crate::{path::PathTemplate, time::TimeAtom};

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
    /// What its permit shows the app in `Countersign-Claims`; `None`: everything.
    pub claims: Option<Arc<ClaimFilter>>,
    /// A token permits by this rule only once.
    pub once: bool,
    /// What else must happen.
    pub obligations: Obligations,
    /// Shown to in-mesh callers.
    pub message: Option<Arc<str>>,
}

impl Rule {
    /// Whether it looks into requests: it cannot be enforced on bytes that show none.
    pub fn reads_requests(&self) -> bool {
        let by_matcher = match &self.matcher.protocol {
            Some(ProtocolMatch::Http(_) | ProtocolMatch::Grpc(_)) => true,
            Some(ProtocolMatch::Tcp) | None => false,
        };
        let mut atoms = self.require.iter().chain(self.unless.iter().flatten());
        by_matcher || atoms.any(Atom::reads_request)
    }
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
    /// Opaque connections: `{any: true}`.
    Tcp,
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
    /// The client's device passes every given test.
    Device(DeviceAtom),
    /// The context token satisfies this.
    Token(TokenAtom),
    /// The way the request came satisfies this.
    Chain(ChainAtom),
    /// The parameters that were signed are those of the request.
    Params(ParamsAtom),
}

impl Atom {
    /// Whether it looks into the request itself, not only at who sent it and its context.
    pub fn reads_request(&self) -> bool {
        self.names_owner() || matches!(self, Self::Params(_))
    }

    /// Whether it compares something with the owner of the resource.
    pub fn names_owner(&self) -> bool {
        match self {
            Self::User(user) => user.is_resource_owner,
            Self::Justification(atom) => {
                let owner = FactTest::Equals(AttributeName::ResourceOwner);
                atom.facts.values().any(|test| *test == owner)
            }
            _ => false,
        }
    }

    /// Its key in documents, as in the atom id `require.time`.
    pub fn key(&self) -> &'static str {
        match self {
            Self::User(_) | Self::UserAbsent => "user",
            Self::Source(_) => "source",
            Self::Time(_) => "time",
            Self::Justification(_) => "justification",
            Self::Device(_) => "device",
            Self::Token(_) => "token",
            Self::Chain(_) => "chain",
            Self::Params(_) => "params",
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

impl std::fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
        }
    }
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
    /// What its validator must have said.
    pub facts: BTreeMap<String, FactTest>,
}

/// A test of one fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FactTest {
    /// It is one of these.
    AnyOf(Vec<ClaimValue>),
    /// It is what this request says elsewhere.
    Equals(AttributeName),
}

closed_names! {
    /// Attributes that a fact may be compared with.
    AttributeName {
        /// The owner of the resource.
        ResourceOwner = "resource.owner",
        /// The user's id.
        UserId = "user.id",
        /// The user's account.
        UserAccount = "user.accountId",
        /// The device.
        DeviceId = "device.id",
    }
}

/// Tests of the device; empty lists and `None` do not restrict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceAtom {
    /// The organisation manages it.
    pub managed: bool,
    /// Accepted tiers.
    pub tiers: Vec<String>,
    /// Accepted `dev.src` values (`mtls`, `idp`, `header:<proxy>`).
    pub sources: Vec<String>,
    /// Its posture was seen at most so many seconds ago.
    pub max_posture_age_s: Option<u64>,
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
    /// The subject is a service that one of these covers; empty: any subject.
    pub services: Vec<IdPattern>,
}

/// The way a request came; empty lists and `None` do not restrict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainAtom {
    /// Where it entered the mesh.
    pub origin: Option<WorkloadId>,
    /// Workloads it passed, in any order.
    pub through: Vec<WorkloadId>,
    /// At most so many workloads held the token before this one.
    pub max_hops: Option<usize>,
    /// Custody must be proven.
    pub custody: bool,
}

/// Parameters that must be the signed ones: name in the token, place in this request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParamsAtom(pub Vec<(String, ParamSource)>);

/// Where a parameter stands in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ParamSource {
    /// `fromPath`.
    Path(OwnerFromPath),
    /// `fromQuery`.
    Query(String),
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
