//! What an audit record holds, as typed fields.
//!
//! A pipeline fills a [`Record`] from things it has anyway: shared texts are cloned by reference
//! count, and nothing is formatted before the writer thread does it. The JSON form is `wire`.

use std::net::IpAddr;
use std::sync::Arc;

use countersign_ctxtoken::{RequestContext, Verified};
use countersign_policy::RuleRef;
use countersign_workload_id::WorkloadId;

use super::decided::DecidedInput;
use super::id::DecisionId;
use crate::clock::Now;
use crate::inbound::custody::Path;
use crate::telemetry::{Direction, Lookup, Verdict};

/// A text that is static, shared or owned. Cloning what is shared does not copy.
#[derive(Clone)]
pub enum Text {
    /// Part of the program.
    Static(&'static str),
    /// Part of a snapshot or connection.
    Shared(Arc<str>),
    /// Made for this record.
    Owned(Box<str>),
}

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Static(text) => text,
            Text::Shared(text) => text,
            Text::Owned(text) => text,
        }
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.as_str() == other.as_str()
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Text {
        Text::Static(text)
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Text {
        Text::Shared(text)
    }
}

impl From<&Arc<str>> for Text {
    fn from(text: &Arc<str>) -> Text {
        Text::Shared(text.clone())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::Owned(text.into_boxed_str())
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The first record of a chain.
    Start,
    /// Policy decided.
    Decision,
    /// Refused before policy.
    Refusal,
    /// A long-lived request or connection ended.
    Ended,
    /// Records are missing.
    Gap,
    /// A token or certificate was issued.
    Issue,
    /// What is in force changed: snapshot, keys, life-cycle state.
    Control,
}

impl RecordKind {
    /// The text of the field `kind`.
    pub fn text(self) -> &'static str {
        match self {
            RecordKind::Start => "start",
            RecordKind::Decision => "decision",
            RecordKind::Refusal => "refusal",
            RecordKind::Ended => "ended",
            RecordKind::Gap => "gap",
            RecordKind::Issue => "issue",
            RecordKind::Control => "control",
        }
    }
}

/// A refusal code, with the part after the slash of `policy_denied/no_match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A name of the refusal table.
    pub code: &'static str,
    /// What narrows it down.
    pub detail: Option<&'static str>,
}

impl From<&'static str> for Reason {
    fn from(code: &'static str) -> Reason {
        Reason { code, detail: None }
    }
}

/// Who is on the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// A workload, by its certificate.
    Mesh {
        /// Its SPIFFE ID.
        id: WorkloadId,
        /// SHA-256 of its leaf certificate.
        leaf_sha256: Option<[u8; 32]>,
    },
    /// Nobody with an identity, and why.
    None(&'static str),
}

/// Whom an outbound request was for.
#[derive(Clone, Debug, PartialEq)]
pub struct Callee {
    /// The identity that was demanded.
    pub expected: Option<WorkloadId>,
    /// The identity that answered.
    pub presented: Option<WorkloadId>,
    /// The host that was asked for.
    pub host: Text,
    /// The port that was asked for.
    pub port: u16,
}

/// The end user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserFields {
    /// Identity provider.
    pub provider: Text,
    /// Subject; personal.
    pub id: Text,
    /// Account; personal.
    pub account: Option<Text>,
    /// Who says which groups the user is in, where it is not the provider.
    pub groups_from: Option<Text>,
}

/// A workload that calls on its own behalf.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFields {
    /// Who it is.
    pub id: WorkloadId,
    /// The pod its token is bound to.
    pub pod: Option<PodFields>,
}

/// A pod, in the namespace of its workload.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFields {
    /// Its name.
    pub name: Text,
    /// Its UID.
    pub uid: Text,
}

/// Where a request came from.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFields {
    /// The captured client address; personal.
    pub ip: IpAddr,
    /// How it was learnt, e.g. `xff:1`.
    pub via: Option<Text>,
}

/// The device of the user.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFields {
    /// Identifier; personal.
    pub id: Option<Text>,
    /// Trust tier.
    pub tier: Option<Text>,
    /// Managed by the organisation?
    pub managed: Option<bool>,
    /// Who said so.
    pub source: Option<Text>,
}

/// Why the user asks.
#[derive(Clone, Debug, PartialEq)]
pub struct JustificationFields {
    /// E.g. `ticket`.
    pub kind: Text,
    /// E.g. the ticket's number.
    pub reference: Text,
    /// Who checked it.
    pub by: Option<Text>,
    /// Was it checked?
    pub checked: bool,
}

/// The context of a request, where there is no verified token to take it from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextFields {
    /// `rctx.origin`.
    pub origin: Option<Text>,
    /// The workload at which the transaction entered the mesh.
    pub entry: Option<WorkloadId>,
    /// Transaction.
    pub txn: Option<Text>,
    /// Token id.
    pub jti: Option<Text>,
    /// SHA-256 of the token; its first 12 hex digits are recorded.
    pub token_sha256: Option<[u8; 32]>,
    /// The end user.
    pub user: Option<UserFields>,
    /// The workload, where the subject is one.
    pub service: Option<ServiceFields>,
    /// Effective scope.
    pub scope: Vec<String>,
    /// The client's address.
    pub source: Option<SourceFields>,
    /// The user's device.
    pub device: Option<DeviceFields>,
    /// The justification.
    pub justification: Option<JustificationFields>,
}

/// Where the context fields of a record come from.
#[derive(Clone, Debug)]
pub enum AuditContext {
    /// A verified token.
    Verified(Arc<Verified<RequestContext>>),
    /// Collected by hand, e.g. at the gateway.
    Fields(Arc<ContextFields>),
}

impl From<Arc<Verified<RequestContext>>> for AuditContext {
    fn from(context: Arc<Verified<RequestContext>>) -> AuditContext {
        AuditContext::Verified(context)
    }
}

impl From<ContextFields> for AuditContext {
    fn from(fields: ContextFields) -> AuditContext {
        AuditContext::Fields(Arc::new(fields))
    }
}

/// The request, as policy saw it.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// `http1`, `http2`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// Method; an opaque connection has none.
    pub method: Option<http::Method>,
    /// Canonical host.
    pub host: Text,
    /// The path template of the deciding rule.
    pub route: Option<Text>,
    /// The path without query; personal, only for rules with `audit: full`.
    pub path: Option<Text>,
    /// Port of the app.
    pub port: u16,
}

/// The response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    /// HTTP status; `None` if there was no response.
    pub status: Option<u16>,
    /// gRPC status.
    pub grpc: Option<u16>,
    /// Body bytes received.
    pub bytes_in: Option<u64>,
    /// Body bytes sent.
    pub bytes_out: Option<u64>,
}

/// How long things took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the request head to the response head.
    pub total_us: u64,
    /// Of that, waiting for the upstream.
    pub wait_us: u64,
    /// Evaluating policy.
    pub eval_ns: u64,
}

/// The trace the request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Trace id.
    pub id: [u8; 16],
    /// Span id.
    pub span: [u8; 8],
}

/// What changed, for `control` and `issue` records.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// E.g. `documents`, `certificate`, `lifecycle`.
    pub what: Text,
    /// What was in force.
    pub old: Option<Text>,
    /// What is in force now.
    pub new: Option<Text>,
    /// Who did it, if known.
    pub by: Option<Text>,
}

/// One audit record.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is about.
    pub kind: RecordKind,
    /// When.
    pub at: Now,
    /// The decision.
    pub id: Option<DecisionId>,
    /// The direction of the request.
    pub direction: Option<Direction>,
    /// What was decided.
    pub verdict: Option<Verdict>,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// The stage file that refused.
    pub stage: Option<&'static str>,
    /// Deciding or closest rule.
    pub rule: Option<RuleRef>,
    /// On a denial by policy: what was decided on, from which the atoms that were not true are
    /// computed when the line is made.
    pub decided: Option<Arc<DecidedInput>>,
    /// Hash of the documents in force.
    pub snapshot: Option<Arc<str>>,
    /// The other end.
    pub peer: Option<Peer>,
    /// Outbound: whom it was for.
    pub callee: Option<Box<Callee>>,
    /// The request context.
    pub context: Option<AuditContext>,
    /// How the context came here: who held it, and whether that is proven.
    pub path: Option<Arc<Path>>,
    /// The request.
    pub request: Option<RequestFacts>,
    /// The response.
    pub response: ResponseFacts,
    /// Durations.
    pub timing: Timing,
    /// Outbound: how the context was found.
    pub lookup: Option<Lookup>,
    /// The trace.
    pub trace: Option<Trace>,
    /// What changed.
    pub control: Option<Box<Control>>,
}

impl Record {
    /// A record with nothing but its kind and time.
    pub fn new(kind: RecordKind, at: Now) -> Record {
        Record {
            kind,
            at,
            id: None,
            direction: None,
            verdict: None,
            reason: None,
            stage: None,
            rule: None,
            decided: None,
            snapshot: None,
            peer: None,
            callee: None,
            context: None,
            path: None,
            request: None,
            response: ResponseFacts::default(),
            timing: Timing::default(),
            lookup: None,
            trace: None,
            control: None,
        }
    }

    /// The record of a change of what is in force.
    pub fn control(at: Now, what: Text, old: Option<Text>, new: Option<Text>) -> Record {
        let control = Box::new(Control { what, old, new, by: None });
        Record { control: Some(control), ..Record::new(RecordKind::Control, at) }
    }
}
