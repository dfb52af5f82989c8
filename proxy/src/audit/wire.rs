//! The JSON form of a record; the only place where personal fields leave the process.
//!
//! Written straight from the typed record: nothing is copied but pseudonyms. A field that is not
//! named here is not written. Class P (personal) fields go through [`Personal`].

use std::borrow::Cow;

use countersign_ctxtoken::{Rctx, RequestContext, Subject, Verified};
use countersign_workload_id::WorkloadId;

use super::json::{self, Object, Stamps};
use super::pseudonym::Personal;
use super::record::{
    AuditContext, Callee, ContextFields, Control, JustificationFields, Peer, Record, RequestFacts,
    ResponseFacts, Text, Timing, Trace,
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

/// How much of a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Everything.
    Full,
    /// Without lists and without what the caller chose, for lines that would be too long.
    Brief,
}

/// Adds one line to `out`, without its newline. The order here is the order in the file.
pub(super) fn line(
    out: &mut Vec<u8>,
    stamps: &mut Stamps,
    frame: &Frame<'_>,
    record: &Record,
    gap: Option<Gap>,
    detail: Detail,
) {
    let full = detail == Detail::Full;
    Object::write(out, stamps, |line| {
        head(line, frame, record);
        verdict(line, record, full);
        line.maybe_text("snapshot", record.snapshot.as_deref());
        line.text("self", frame.self_id);
        if let Some(peer) = &record.peer {
            line.object("peer", |object| peer_into(object, peer));
        }
        if let Some(callee) = &record.callee {
            line.object("callee", |object| callee_into(object, callee));
        }
        match &record.context {
            Some(AuditContext::Verified(context)) => {
                let left = record.path.as_ref().map_or(&context.scope, |path| &path.custody.scope);
                verified(line, context, left, frame.personal, full);
            }
            Some(AuditContext::Fields(fields)) => collected(line, fields, frame.personal, full),
            None => {}
        }
        if let Some(path) = &record.path {
            hops(line, path, full);
        }
        if let Some(request) = &record.request {
            line.object("req", |object| request_into(object, request, frame.personal, full));
        }
        response(line, record.response);
        timing(line, record.timing);
        line.maybe_text("ctx", record.lookup.map(|lookup| lookup.text()));
        if let Some(Trace { id, span }) = &record.trace {
            line.object("trace", |object| {
                object.hex("id", id);
                object.hex("span", span);
            });
        }
        place(line, frame.place);
        if let Some(gap) = gap {
            line.maybe_number("n", gap.count);
            line.instant("from", gap.from_us);
            line.instant("to", gap.to_us);
            line.text("why", gap.why);
        }
        if let Some(control) = &record.control {
            control_into(line, control);
        }
    });
}

fn head(line: &mut Object<'_>, frame: &Frame<'_>, record: &Record) {
    line.number("v", VERSION);
    line.text("kind", record.kind.text());
    line.instant("ts", record.at.micros());
    if let Some(id) = record.id {
        line.text("id", id.encode().as_str());
    }
    line.text("chain", frame.chain);
    line.number("seq", frame.seq);
    if !frame.prev.is_empty() {
        line.text("prev", frame.prev);
    }
}

fn verdict(line: &mut Object<'_>, record: &Record, full: bool) {
    line.maybe_text("dir", record.direction.map(|direction| direction.text()));
    line.maybe_text("decision", record.verdict.map(|verdict| verdict.text()));
    if let Some(reason) = record.reason {
        match reason.detail {
            Some(detail) => line.pair("reason", reason.code, detail),
            None => line.text("reason", reason.code),
        }
    }
    line.maybe_text("stage", record.stage);
    if let Some(rule) = &record.rule {
        line.pair("policy", &rule.namespace, &rule.policy);
        line.text("rule", &rule.rule);
    }
    if let Some(decided) = record.decided.as_ref().filter(|_| full) {
        let mut atoms = decided.atoms_not_true();
        // Of atoms with one id the last one counts.
        atoms.reverse();
        atoms.sort_by(|(one, _), (other, _)| one.cmp(other));
        atoms.dedup_by(|(one, _), (other, _)| one == other);
        line.map("atoms", &atoms);
    }
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

/// The first 6 bytes of a hash: enough to recognise what is at hand.
fn hash_prefix(hash: &[u8; 32]) -> &[u8] {
    hash.get(..6).unwrap_or_default()
}

fn peer_into(object: &mut Object<'_>, peer: &Peer) {
    match peer {
        Peer::Mesh { id, leaf_sha256 } => {
            object.text("id", id.as_str());
            if let Some(leaf) = leaf_sha256 {
                object.hex("cert", hash_prefix(leaf));
            }
        }
        Peer::None(reason) => object.text("none", reason),
    }
}

fn callee_into(object: &mut Object<'_>, callee: &Callee) {
    let Callee { expected, presented, host, port } = callee;
    object.maybe_text("id", expected.as_ref().map(WorkloadId::as_str));
    object.maybe_text("presented", presented.as_ref().map(WorkloadId::as_str));
    object.text("host", host.as_str());
    object.number("port", *port);
}

/// The context as the token carried it; `scope` is what the path has left of it.
fn verified(
    line: &mut Object<'_>,
    context: &Verified<RequestContext>,
    scope: &[String],
    how: &Personal,
    full: bool,
) {
    let rctx = &context.rctx;
    line.text("origin", rctx.origin.as_str());
    line.text("entry", context.req_wl.as_str());
    line.text("txn", &context.txn);
    line.text("jti", &context.jti);
    line.hex("tok", hash_prefix(context.token_sha256()));
    subject(line, context, how);
    if let Some(id) = context.sub.service() {
        line.object("svc", |object| object.text("id", id.as_str()));
    }
    let scope = if full { scope } else { &[] };
    line.list("scope", scope, |out, scope| json::string(out, scope));
    circumstances(line, rctx, how, full);
}

/// Where from, with which device and why, as the token carried it.
fn circumstances(line: &mut Object<'_>, rctx: &Rctx, how: &Personal, full: bool) {
    if let Some(ip) = rctx.req_ip {
        line.object("src", |object| {
            object.text("ip", &how.show("src", &ip.to_string()));
            object.maybe_text("via", rctx.ip_src.map(|via| via.text()).as_deref());
        });
    }
    if let Some(device) = &rctx.dev {
        line.object("dev", |object| {
            object.text("id", &personal(how, "dev", &device.id));
            object.maybe_text("tier", device.tier.as_deref());
            object.flag("managed", device.managed);
            object.text("src", &device.src.to_string());
        });
    }
    if let Some(just) = rctx.just.as_ref().filter(|_| full) {
        line.object("just", |object| {
            object.text("kind", &just.kind);
            object.text("ref", &just.reference);
            object.maybe_text("by", just.by.as_deref());
            object.flag("checked", Some(just.checked));
        });
    }
}

/// The person a token speaks of; workloads stand in `svc`, `entry` and `peer`.
fn subject(line: &mut Object<'_>, context: &RequestContext, how: &Personal) {
    let rctx = &context.rctx;
    let (provider, id, groups_from) = match &context.sub {
        Subject::User(name) => {
            let provider = rctx.idp.as_deref().or(name.provider()).unwrap_or_default();
            (provider, name.id(), rctx.groups_src.as_deref())
        }
        Subject::Foreign { trust_domain, subject } => (trust_domain.as_str(), &**subject, None),
        Subject::Anonymous | Subject::Service(_) => return,
    };
    user(line, how, provider, id, rctx.acct.as_deref(), groups_from);
}

fn user(
    line: &mut Object<'_>,
    how: &Personal,
    provider: &str,
    id: &str,
    account: Option<&str>,
    groups_from: Option<&str>,
) {
    line.object("user", |object| {
        object.text("idp", provider);
        object.text("id", &personal(how, "user", id));
        object.maybe_text("acct", account.map(|acct| personal(how, "acct", acct)).as_deref());
        object.maybe_text("groups_src", groups_from);
    });
}

/// The context as it was collected, where there is no token.
fn collected(line: &mut Object<'_>, fields: &ContextFields, how: &Personal, full: bool) {
    line.maybe_text("origin", text(&fields.origin));
    line.maybe_text("entry", fields.entry.as_ref().map(WorkloadId::as_str));
    line.maybe_text("txn", text(&fields.txn));
    line.maybe_text("jti", text(&fields.jti));
    if let Some(hash) = &fields.token_sha256 {
        line.hex("tok", hash_prefix(hash));
    }
    if let Some(who) = &fields.user {
        let (provider, id) = (who.provider.as_str(), who.id.as_str());
        user(line, how, provider, id, text(&who.account), text(&who.groups_from));
    }
    if let Some(service) = &fields.service {
        line.object("svc", |object| {
            object.text("id", service.id.as_str());
            if let Some(pod) = &service.pod {
                object.object("pod", |object| {
                    object.text("name", pod.name.as_str());
                    object.text("uid", pod.uid.as_str());
                });
            }
        });
    }
    let scope: &[String] = if full { &fields.scope } else { &[] };
    line.list("scope", scope, |out, scope| json::string(out, scope));
    if let Some(source) = &fields.source {
        line.object("src", |object| {
            object.text("ip", &how.show("src", &source.ip.to_string()));
            object.maybe_text("via", text(&source.via));
        });
    }
    if let Some(device) = &fields.device {
        line.object("dev", |object| {
            let id = text(&device.id).map(|id| personal(how, "dev", id));
            object.maybe_text("id", id.as_deref());
            object.maybe_text("tier", text(&device.tier));
            object.flag("managed", device.managed);
            object.maybe_text("src", text(&device.source));
        });
    }
    if let Some(just) = fields.justification.as_ref().filter(|_| full) {
        let JustificationFields { kind, reference, by, checked } = just;
        line.object("just", |object| {
            object.text("kind", kind.as_str());
            object.text("ref", reference.as_str());
            object.maybe_text("by", text(by));
            object.flag("checked", Some(*checked));
        });
    }
}

/// Who held the context before, the caller last: namespace and account, or the whole ID where it has
/// none; and whether that is proven.
fn hops(line: &mut Object<'_>, path: &Path, full: bool) {
    let holders = if full { path.custody.holders.as_slice() } else { &[] };
    line.list("hops", holders, |out, id| match (id.namespace(), id.service_account()) {
        (Some(namespace), Some(account)) => json::pair(out, namespace, account),
        _ => json::string(out, id.as_str()),
    });
    line.flag("custody", Some(path.custody.proven));
}

fn request_into(object: &mut Object<'_>, request: &RequestFacts, how: &Personal, full: bool) {
    object.text("proto", request.protocol);
    if let Some(method) = &request.method {
        // Methods are tokens of any length; the long ones are nobody's method.
        object.text("method", method.as_str().get(..32).unwrap_or(method.as_str()));
    }
    if full {
        object.maybe_text("host", request.method.as_ref().map(|_| request.host.as_str()));
        object.maybe_text("route", text(&request.route));
        let path = text(&request.path).map(|path| personal(how, "path", path));
        object.maybe_text("path", path.as_deref());
    }
    object.number("port", request.port);
}

fn response(line: &mut Object<'_>, response: ResponseFacts) {
    let ResponseFacts { status, grpc, bytes_in, bytes_out } = response;
    if response != ResponseFacts::default() {
        line.object("res", |object| {
            object.maybe_number("status", status);
            object.maybe_number("grpc", grpc);
            object.maybe_number("bytes_in", bytes_in);
            object.maybe_number("bytes_out", bytes_out);
        });
    }
}

fn timing(line: &mut Object<'_>, timing: Timing) {
    let Timing { total_us, wait_us, eval_ns } = timing;
    if timing != Timing::default() {
        line.object("t", |object| {
            object.number("dur_us", total_us);
            object.number("wait_us", wait_us);
            object.number("eval_ns", eval_ns);
        });
    }
}

fn place(line: &mut Object<'_>, place: &Place) {
    let Place { pod, node, namespace, cluster, version } = place;
    let parts = [
        ("pod", pod),
        ("node", node),
        ("ns", namespace),
        ("cluster", cluster),
        ("version", version),
    ];
    if parts.iter().any(|(_, part)| part.is_some()) {
        line.object("at", |object| {
            for (name, part) in parts {
                object.maybe_text(name, part.as_deref());
            }
        });
    }
}

fn control_into(line: &mut Object<'_>, control: &Control) {
    line.text("what", control.what.as_str());
    line.maybe_text("old", text(&control.old));
    line.maybe_text("new", text(&control.new));
    line.maybe_text("by", text(&control.by));
}
