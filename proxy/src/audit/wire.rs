//! The JSON form of a record; the only place where personal fields leave the process.
//!
//! Borrowed from the typed record, so that nothing is copied but pseudonyms. A field that is not
//! listed here is not written. Class P (personal) fields go through [`Personal::show`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use countersign_ctxtoken::{RequestContext, Subject, Verified};
use countersign_workload_id::WorkloadId;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::pseudonym::Personal;
use super::record::{
    AuditContext, Callee, ContextFields, Control, DeviceFields, JustificationFields, Peer, Reason,
    Record, RequestFacts, ResponseFacts, ServiceFields, SourceFields, Text, Timing, Trace,
    UserFields,
};
use super::sink::Place;

use crate::inbound::custody::Path;

/// Version of the form.
const VERSION: u8 = 1;

/// What every line of a chain has besides its record.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) chain: &'a str,
    pub(super) seq: u64,
    pub(super) prev: &'a str,
    pub(super) self_id: &'a str,
    pub(super) place: &'a Place,
    pub(super) personal: &'a Personal,
}

/// What a `gap` record says is missing.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    /// How many records; unknown after a crash.
    pub(super) count: Option<u64>,
    pub(super) from_us: u64,
    pub(super) to_us: u64,
    pub(super) why: &'static str,
}

/// One line. `Detail::Brief` leaves out what may be long.
pub(super) fn line<'a>(
    frame: &Frame<'a>,
    record: &'a Record,
    gap: Option<Gap>,
    detail: Detail,
) -> Wire<'a> {
    let full = detail == Detail::Full;
    let context = match &record.context {
        Some(AuditContext::Verified(context)) => {
            let left = record.path.as_ref().map_or(&context.scope, |path| &path.custody.scope);
            let scope = if full { left.as_slice() } else { &[] };
            ContextWire { scope, ..verified_of(context, frame.personal, full) }
        }
        Some(AuditContext::Fields(fields)) => fields_of(fields, frame.personal, full),
        None => ContextWire::default(),
    };
    Wire {
        v: VERSION,
        kind: record.kind.text(),
        ts: Micros(record.at.micros()),
        id: record.id.map(|id| id.to_string()),
        chain: frame.chain,
        seq: frame.seq,
        prev: frame.prev,
        dir: record.direction.map(|direction| direction.text()),
        decision: record.verdict.map(|verdict| verdict.text()),
        reason: record.reason.map(reason_of),
        stage: record.stage,
        policy: record.rule.as_ref().map(|rule| format!("{}/{}", rule.namespace, rule.policy)),
        rule: record.rule.as_ref().map(|rule| rule.rule.as_str()),
        atoms: atoms_of(record, full),
        snapshot: record.snapshot.as_deref(),
        self_id: frame.self_id,
        peer: record.peer.as_ref().map(peer_of),
        callee: record.callee.as_deref().map(callee_of),
        context,
        hops: record.path.as_deref().filter(|_| full).map(hops_of).unwrap_or_default(),
        custody: record.path.as_ref().map(|path| path.custody.proven),
        req: record.request.as_ref().map(|request| request_of(request, frame.personal, full)),
        res: response_of(record.response),
        t: timing_of(record.timing),
        ctx: record.lookup.map(|lookup| lookup.text()),
        trace: record.trace.as_ref().map(trace_of),
        at: place_of(frame.place),
        gap: gap.map(gap_of),
        control: record.control.as_deref().map(control_of),
    }
}

/// How much of a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Everything.
    Full,
    /// Without lists and without what the caller chose, for lines that would be too long.
    Brief,
}

/// The form of a line. The order here is the order in the file.
#[derive(Serialize)]
pub(super) struct Wire<'a> {
    v: u8,
    kind: &'static str,
    ts: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    chain: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    prev: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    atoms: BTreeMap<String, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
    #[serde(rename = "self")]
    self_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<PeerWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callee: Option<CalleeWire<'a>>,
    #[serde(flatten)]
    context: ContextWire<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hops: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custody: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    req: Option<RequestWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    res: Option<ResponseWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<TimingWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<TraceWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<PlaceWire<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    gap: Option<GapWire>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    control: Option<ControlWire<'a>>,
}

#[derive(Default, Serialize)]
struct ContextWire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tok: Option<Hex<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    svc: Option<ServiceWire<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    scope: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<SourceWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<DeviceWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    just: Option<JustificationWire<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum PeerWire<'a> {
    Mesh {
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cert: Option<Hex<'a>>,
    },
    None {
        none: &'static str,
    },
}

/// A workload that is the subject.
#[derive(Serialize)]
struct ServiceWire<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<PodWire<'a>>,
}

#[derive(Serialize)]
struct PodWire<'a> {
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct CalleeWire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presented: Option<&'a str>,
    host: &'a str,
    port: u16,
}

#[derive(Serialize)]
struct UserWire<'a> {
    idp: &'a str,
    id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acct: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups_src: Option<&'a str>,
}

#[derive(Serialize)]
struct SourceWire<'a> {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct DeviceWire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct JustificationWire<'a> {
    kind: &'a str,
    #[serde(rename = "ref")]
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    checked: bool,
}

#[derive(Serialize)]
struct RequestWire<'a> {
    proto: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    port: u16,
}

#[derive(Serialize)]
struct ResponseWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
}

#[derive(Serialize)]
struct TimingWire {
    dur_us: u64,
    wait_us: u64,
    eval_ns: u64,
}

#[derive(Serialize)]
struct TraceWire<'a> {
    id: Hex<'a>,
    span: Hex<'a>,
}

#[derive(Serialize)]
struct PlaceWire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

#[derive(Serialize)]
struct GapWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    from: Micros,
    to: Micros,
    why: &'static str,
}

#[derive(Serialize)]
struct ControlWire<'a> {
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
}

/// A timestamp as RFC 3339 with microseconds, UTC.
struct Micros(u64);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = i64::try_from(self.0).unwrap_or(i64::MAX);
        let timestamp = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        serializer.collect_str(&format_args!("{timestamp:.6}"))
    }
}

/// Bytes as lower-case hex.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The first 6 bytes of a hash: enough to recognise what is at hand.
fn hash_prefix(hash: &[u8; 32]) -> Hex<'_> {
    Hex(hash.get(..6).unwrap_or_default())
}

fn text(text: &Option<Text>) -> Option<&str> {
    text.as_ref().map(Text::as_str)
}

fn personal<'a>(personal: &Personal, class: &str, value: &'a str) -> Cow<'a, str> {
    match personal {
        Personal::Clear => Cow::Borrowed(value),
        Personal::Pseudonyms(key) => Cow::Owned(key.pseudonym(class, value)),
    }
}

fn reason_of(reason: Reason) -> Cow<'static, str> {
    match reason.detail {
        Some(detail) => Cow::Owned(format!("{}/{detail}", reason.code)),
        None => Cow::Borrowed(reason.code),
    }
}

fn atoms_of(record: &Record, full: bool) -> BTreeMap<String, &'static str> {
    let decided = record.decided.as_ref().filter(|_| full);
    decided.map(|decided| decided.atoms_not_true().into_iter().collect()).unwrap_or_default()
}

fn peer_of(peer: &Peer) -> PeerWire<'_> {
    match peer {
        Peer::Mesh { id, leaf_sha256 } => {
            PeerWire::Mesh { id: id.as_str(), cert: leaf_sha256.as_ref().map(hash_prefix) }
        }
        Peer::None(reason) => PeerWire::None { none: reason },
    }
}

fn callee_of(callee: &Callee) -> CalleeWire<'_> {
    let Callee { expected, presented, host, port } = callee;
    let id = expected.as_ref().map(WorkloadId::as_str);
    let presented = presented.as_ref().map(WorkloadId::as_str);
    CalleeWire { id, presented, host: host.as_str(), port: *port }
}

/// The context as the token carried it.
fn verified_of<'a>(
    context: &'a Verified<RequestContext>,
    how: &Personal,
    full: bool,
) -> ContextWire<'a> {
    let rctx = &context.rctx;
    ContextWire {
        origin: Some(rctx.origin.as_str()),
        entry: Some(context.req_wl.as_str()),
        txn: Some(&context.txn),
        jti: Some(&context.jti),
        tok: Some(hash_prefix(context.token_sha256())),
        user: subject_of(context, how),
        svc: context.sub.service().map(|id| ServiceWire { id: id.as_str(), pod: None }),
        scope: &[],
        src: rctx.req_ip.map(|ip| SourceWire {
            ip: how.show("src", &ip.to_string()),
            via: rctx.ip_src.map(|via| Cow::Owned(via.to_string())),
        }),
        dev: rctx.dev.as_ref().map(|device| DeviceWire {
            id: Some(personal(how, "dev", &device.id)),
            tier: device.tier.as_deref(),
            managed: device.managed,
            src: Some(Cow::Owned(device.src.to_string())),
        }),
        just: rctx.just.as_ref().filter(|_| full).map(|just| JustificationWire {
            kind: &just.kind,
            reference: &just.reference,
            by: just.by.as_deref(),
            checked: just.checked,
        }),
    }
}

/// Who held the context before, the caller last: namespace and account, or the whole ID where it has
/// none.
fn hops_of(path: &Path) -> Vec<Cow<'_, str>> {
    let short = |id: &WorkloadId| match (id.namespace(), id.service_account()) {
        (Some(namespace), Some(account)) => Cow::Owned(format!("{namespace}/{account}")),
        _ => Cow::Owned(id.as_str().to_owned()),
    };
    path.custody.holders.iter().map(short).collect()
}

/// The person a token speaks of; workloads stand in `svc`, `entry` and `peer`.
fn subject_of<'a>(context: &'a RequestContext, how: &Personal) -> Option<UserWire<'a>> {
    let acct = context.rctx.acct.as_deref().map(|account| personal(how, "acct", account));
    match &context.sub {
        Subject::User(name) => Some(UserWire {
            idp: context.rctx.idp.as_deref().or(name.provider()).unwrap_or_default(),
            id: personal(how, "user", name.id()),
            acct,
            groups_src: context.rctx.groups_src.as_deref(),
        }),
        Subject::Foreign { trust_domain, subject } => {
            let id = personal(how, "user", subject);
            Some(UserWire { idp: trust_domain.as_str(), id, acct, groups_src: None })
        }
        Subject::Anonymous | Subject::Service(_) => None,
    }
}

fn fields_of<'a>(fields: &'a ContextFields, how: &Personal, full: bool) -> ContextWire<'a> {
    ContextWire {
        origin: text(&fields.origin),
        entry: fields.entry.as_ref().map(WorkloadId::as_str),
        txn: text(&fields.txn),
        jti: text(&fields.jti),
        tok: fields.token_sha256.as_ref().map(hash_prefix),
        user: fields.user.as_ref().map(|user| user_of(user, how)),
        svc: fields.service.as_ref().map(service_of),
        scope: if full { &fields.scope } else { &[] },
        src: fields.source.as_ref().map(|source| source_of(source, how)),
        dev: fields.device.as_ref().map(|device| device_of(device, how)),
        just: fields.justification.as_ref().filter(|_| full).map(justification_of),
    }
}

fn user_of<'a>(user: &'a UserFields, how: &Personal) -> UserWire<'a> {
    UserWire {
        idp: user.provider.as_str(),
        id: personal(how, "user", user.id.as_str()),
        acct: user.account.as_ref().map(|account| personal(how, "acct", account.as_str())),
        groups_src: text(&user.groups_from),
    }
}

fn service_of(service: &ServiceFields) -> ServiceWire<'_> {
    let pod = service.pod.as_ref();
    ServiceWire {
        id: service.id.as_str(),
        pod: pod.map(|pod| PodWire { name: pod.name.as_str(), uid: pod.uid.as_str() }),
    }
}

fn source_of<'a>(source: &'a SourceFields, how: &Personal) -> SourceWire<'a> {
    let via = text(&source.via).map(Cow::Borrowed);
    SourceWire { ip: how.show("src", &source.ip.to_string()), via }
}

fn device_of<'a>(device: &'a DeviceFields, how: &Personal) -> DeviceWire<'a> {
    DeviceWire {
        id: device.id.as_ref().map(|id| personal(how, "dev", id.as_str())),
        tier: text(&device.tier),
        managed: device.managed,
        src: text(&device.source).map(Cow::Borrowed),
    }
}

fn justification_of(justification: &JustificationFields) -> JustificationWire<'_> {
    let JustificationFields { kind, reference, by, checked } = justification;
    let (kind, reference) = (kind.as_str(), reference.as_str());
    JustificationWire { kind, reference, by: text(by), checked: *checked }
}

fn request_of<'a>(request: &'a RequestFacts, how: &Personal, full: bool) -> RequestWire<'a> {
    RequestWire {
        proto: request.protocol,
        // Methods are tokens of any length; the long ones are nobody's method.
        method: request.method.as_ref().map(|m| m.as_str().get(..32).unwrap_or(m.as_str())),
        host: full.then(|| request.host.as_str()).filter(|_| request.method.is_some()),
        route: text(&request.route).filter(|_| full),
        path: request
            .path
            .as_ref()
            .filter(|_| full)
            .map(|path| personal(how, "path", path.as_str())),
        port: request.port,
    }
}

fn response_of(response: ResponseFacts) -> Option<ResponseWire> {
    let ResponseFacts { status, grpc, bytes_in, bytes_out } = response;
    let any = response != ResponseFacts::default();
    any.then_some(ResponseWire { status, grpc, bytes_in, bytes_out })
}

fn timing_of(timing: Timing) -> Option<TimingWire> {
    let Timing { total_us, wait_us, eval_ns } = timing;
    (timing != Timing::default()).then_some(TimingWire { dur_us: total_us, wait_us, eval_ns })
}

fn trace_of(trace: &Trace) -> TraceWire<'_> {
    TraceWire { id: Hex(&trace.id), span: Hex(&trace.span) }
}

fn place_of(place: &Place) -> Option<PlaceWire<'_>> {
    let wire = PlaceWire {
        pod: place.pod.as_deref(),
        node: place.node.as_deref(),
        ns: place.namespace.as_deref(),
        cluster: place.cluster.as_deref(),
        version: place.version.as_deref(),
    };
    let parts = [wire.pod, wire.node, wire.ns, wire.cluster, wire.version];
    parts.iter().any(Option::is_some).then_some(wire)
}

fn gap_of(gap: Gap) -> GapWire {
    GapWire { n: gap.count, from: Micros(gap.from_us), to: Micros(gap.to_us), why: gap.why }
}

fn control_of(control: &Control) -> ControlWire<'_> {
    ControlWire {
        what: control.what.as_str(),
        old: text(&control.old),
        new: text(&control.new),
        by: text(&control.by),
    }
}
