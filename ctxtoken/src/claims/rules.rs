//! The rule of each claim, applied to typed values on both sides: before a token is signed and
//! after its signature was verified.

use serde_json::Value;

use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{
    DeviceSource, IpSource, JsonMap, Justification, Origin, Rctx, Subject, Tctx,
    subject::SUBJECT_BYTES_MAX,
};
use crate::{ClaimProblem, InvalidContext, json::INTEGER_MAX, jws};

/// Short texts: names, IDs, methods.
const TEXT_BYTES_MAX: usize = 64;
/// References and IDs that others make up: tickets, devices.
const REFERENCE_BYTES_MAX: usize = 128;
/// Host names, pod names, images.
const NAME_BYTES_MAX: usize = 255;
/// A path template.
const TEMPLATE_BYTES_MAX: usize = 1024;
/// A number or boolean is shorter; this bounds the texts in facts.
const FACT_BYTES_MAX: usize = 64;
/// A value in `claims` and `params`.
const VALUE_BYTES_MAX: usize = 256;

const SCOPES_MAX: usize = 16;
const SCOPE_BYTES_MAX: usize = 256;
const AMR_MAX: usize = 8;
const GROUPS_MAX: usize = 16;
const MEMBERS_MAX: usize = 16;
const FACTS_MAX: usize = 8;
const APPROVALS_MAX: usize = 4;
const REQUESTERS_MAX: usize = 8;
const SLSA_LEVEL_MAX: u64 = 4;

type Checked = Result<(), InvalidContext>;

/// The rules of everything but the envelope (`iss aud iat exp jti txn`).
pub(crate) fn check_body(
    aud: &TrustDomain,
    sub: &Subject,
    scope: &[String],
    rctx: &Rctx,
    tctx: &Tctx,
    act: Option<&WorkloadId>,
) -> Checked {
    check_subject(sub)?;
    check_scope(scope)?;
    ensure(rctx.to.trust_domain() == aud, "rctx.to", ClaimProblem::Contradiction)?;
    let may_act = matches!(rctx.origin, Origin::Async | Origin::Batch);
    ensure(act.is_none() || may_act, "act", ClaimProblem::Contradiction)?;
    check_user_facts(rctx)?;
    check_surroundings(rctx)?;
    rctx.just.as_ref().map_or(Ok(()), check_justification)?;
    check_tctx(tctx)
}

/// 22 to 36 characters of `[A-Za-z0-9_-]`.
pub(crate) fn check_txn(claim: &'static str, txn: &str) -> Checked {
    let sound = (22..=36).contains(&txn.len())
        && txn.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    ensure(sound, claim, ClaimProblem::BadValue)
}

// A subject made by hand can be longer than one that was read.
fn check_subject(sub: &Subject) -> Checked {
    let (prefix, rest) = match sub {
        Subject::Anonymous => (0, 4),
        Subject::Foreign { trust_domain, subject } => {
            ensure(
                !subject.is_empty() && !subject.chars().any(char::is_control),
                "sub",
                ClaimProblem::BadValue,
            )?;
            ("foreign:|".len() + trust_domain.as_str().len(), subject.len())
        }
        Subject::Service(id) => ("svc:".len(), id.as_str().len()),
        Subject::User(name) => ("user:".len(), name.as_str().len()),
    };
    ensure(prefix + rest <= SUBJECT_BYTES_MAX, "sub", ClaimProblem::BadValue)
}

/// 1 to 16 names, each once, at most 256 bytes with the spaces between them.
pub(crate) fn check_scope(scope: &[String]) -> Checked {
    let bytes = scope.iter().map(|name| name.len() + 1).sum::<usize>();
    let each_once = scope
        .iter()
        .enumerate()
        .all(|(at, name)| !scope.iter().skip(at + 1).any(|other| other == name));
    let sound = (1..=SCOPES_MAX).contains(&scope.len())
        && bytes <= SCOPE_BYTES_MAX + 1
        && each_once
        && scope.iter().all(|name| is_scope_name(name));
    ensure(sound, "scope", ClaimProblem::BadValue)
}

/// RFC 6749 §3.3: printable ASCII without space, `"` and `\`.
pub(crate) fn is_scope_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

fn check_user_facts(rctx: &Rctx) -> Checked {
    opt_text("rctx.idp", rctx.idp.as_deref(), TEXT_BYTES_MAX)?;
    opt_text("rctx.client_id", rctx.client_id.as_deref(), TEXT_BYTES_MAX)?;
    opt_text("rctx.acr", rctx.acr.as_deref(), TEXT_BYTES_MAX)?;
    opt_text("rctx.authn", rctx.authn.as_deref(), TEXT_BYTES_MAX)?;
    opt_text("rctx.acct", rctx.acct.as_deref(), TEXT_BYTES_MAX)?;
    opt_time("rctx.auth_time", rctx.auth_time)?;
    texts("rctx.amr", rctx.amr.as_deref(), AMR_MAX)?;
    texts("rctx.groups", rctx.groups.as_deref(), GROUPS_MAX)?;
    opt_text("rctx.groups_src", rctx.groups_src.as_deref(), REFERENCE_BYTES_MAX)?;
    members("rctx.claims", rctx.claims.as_ref(), MEMBERS_MAX, VALUE_BYTES_MAX)
}

fn check_surroundings(rctx: &Rctx) -> Checked {
    if let Some(ip) = rctx.req_ip {
        ensure(ip == ip.to_canonical(), "rctx.req_ip", ClaimProblem::BadValue)?;
    }
    if let Some(IpSource::XForwardedFor(hops) | IpSource::Forwarded(hops)) = rctx.ip_src {
        ensure(hops > 0, "rctx.ip_src", ClaimProblem::BadValue)?;
    }
    if let Some(dev) = &rctx.dev {
        text("rctx.dev.id", &dev.id, REFERENCE_BYTES_MAX)?;
        opt_text("rctx.dev.tier", dev.tier.as_deref(), TEXT_BYTES_MAX)?;
        opt_time("rctx.dev.at", dev.at)?;
        if let DeviceSource::Header(proxy) = &dev.src {
            text("rctx.dev.src", proxy, NAME_BYTES_MAX)?;
        }
    }
    if let Some(tls) = &rctx.tls {
        opt_text("rctx.tls.v", tls.v.as_deref(), TEXT_BYTES_MAX)?;
        opt_text("rctx.tls.sni", tls.sni.as_deref(), NAME_BYTES_MAX)?;
        opt_sha256("rctx.tls.cert", tls.cert.as_deref())?;
    }
    if let Some(wl) = &rctx.wl {
        opt_text("rctx.wl.pod", wl.pod.as_deref(), NAME_BYTES_MAX)?;
        opt_text("rctx.wl.node", wl.node.as_deref(), NAME_BYTES_MAX)?;
        opt_text("rctx.wl.img", wl.img.as_deref(), NAME_BYTES_MAX)?;
        let level = wl.slsa.unwrap_or_default();
        ensure(level <= SLSA_LEVEL_MAX, "rctx.wl.slsa", ClaimProblem::BadValue)?;
    }
    for approval in rctx.appr.iter().flatten() {
        text("rctx.appr", &approval.sub, SUBJECT_BYTES_MAX)?;
        opt_time("rctx.appr", Some(approval.at))?;
    }
    let approvals = rctx.appr.as_ref().map_or(0, Vec::len);
    ensure(approvals <= APPROVALS_MAX, "rctx.appr", ClaimProblem::BadValue)?;
    rctx.src_txn.as_deref().map_or(Ok(()), |txn| check_txn("rctx.src_txn", txn))
}

fn check_justification(just: &Justification) -> Checked {
    text("rctx.just.kind", &just.kind, TEXT_BYTES_MAX)?;
    text("rctx.just.ref", &just.reference, REFERENCE_BYTES_MAX)?;
    opt_text("rctx.just.by", just.by.as_deref(), TEXT_BYTES_MAX)?;
    opt_time("rctx.just.at", just.at)?;
    // Facts come from the validator that checked the reference, from nowhere else.
    let vouched = just.checked || just.facts.is_none();
    ensure(vouched, "rctx.just.facts", ClaimProblem::Contradiction)?;
    members("rctx.just.facts", just.facts.as_ref(), FACTS_MAX, FACT_BYTES_MAX)
}

fn check_tctx(tctx: &Tctx) -> Checked {
    opt_text("tctx.m", tctx.m.as_deref(), TEXT_BYTES_MAX)?;
    opt_text("tctx.h", tctx.h.as_deref(), NAME_BYTES_MAX)?;
    opt_text("tctx.p", tctx.p.as_deref(), TEMPLATE_BYTES_MAX)?;
    members("tctx.params", tctx.params.as_ref(), MEMBERS_MAX, VALUE_BYTES_MAX)?;
    opt_time("tctx.deadline", tctx.deadline)?;
    opt_sha256("tctx.parent", tctx.parent.as_deref())?;
    tctx.parent_txn.as_deref().map_or(Ok(()), |txn| check_txn("tctx.parent_txn", txn))?;
    tctx.req_chain.as_deref().map_or(Ok(()), check_requesters)
}

/// How often a transaction may have been taken up again.
pub(crate) fn check_requesters(chain: &[WorkloadId]) -> Checked {
    ensure(chain.len() <= REQUESTERS_MAX, "tctx.req_chain", ClaimProblem::BadValue)
}

/// An object that configuration chose the members of: bounded count, names, texts.
fn members(
    claim: &'static str,
    map: Option<&JsonMap>,
    count_max: usize,
    value_bytes_max: usize,
) -> Checked {
    let Some(map) = map else { return Ok(()) };
    ensure(map.len() <= count_max, claim, ClaimProblem::BadValue)?;
    for (name, value) in map {
        text(claim, name, TEXT_BYTES_MAX)?;
        ensure(is_small(value, value_bytes_max), claim, ClaimProblem::BadValue)?;
    }
    Ok(())
}

/// A scalar, or a list of scalars. Objects and null have no place in facts.
fn is_small(value: &Value, bytes_max: usize) -> bool {
    match value {
        Value::Array(items) => {
            items.len() <= MEMBERS_MAX
                && items.iter().all(|item| !item.is_array() && is_small(item, bytes_max))
        }
        Value::Bool(_) => true,
        Value::Number(number) => is_exact(number),
        Value::String(text) => text.len() <= bytes_max && !text.chars().any(char::is_control),
        Value::Null | Value::Object(_) => false,
    }
}

/// Only integers that every JSON reader keeps exactly. A fraction is read differently by
/// different readers, and a signed fact must not be.
fn is_exact(number: &serde_json::Number) -> bool {
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= INTEGER_MAX,
        (None, Some(n)) => n.unsigned_abs() <= INTEGER_MAX,
        (None, None) => false,
    }
}

fn texts(claim: &'static str, list: Option<&[String]>, count_max: usize) -> Checked {
    let list = list.unwrap_or_default();
    ensure(list.len() <= count_max, claim, ClaimProblem::BadValue)?;
    list.iter().try_for_each(|item| text(claim, item, TEXT_BYTES_MAX))
}

fn opt_text(claim: &'static str, value: Option<&str>, bytes_max: usize) -> Checked {
    value.map_or(Ok(()), |value| text(claim, value, bytes_max))
}

/// Not empty, no control characters, at most so many bytes.
fn text(claim: &'static str, value: &str, bytes_max: usize) -> Checked {
    let sound = (1..=bytes_max).contains(&value.len()) && !value.chars().any(char::is_control);
    ensure(sound, claim, ClaimProblem::BadValue)
}

fn opt_time(claim: &'static str, time: Option<crate::UnixTime>) -> Checked {
    ensure(time.is_none_or(|t| t.0 <= INTEGER_MAX), claim, ClaimProblem::BadValue)
}

/// The base64url form of 32 bytes.
fn opt_sha256(claim: &'static str, value: Option<&str>) -> Checked {
    let sound = value.is_none_or(|text| {
        text.len() == 43 && jws::decode(text.as_bytes()).is_some_and(|hash| hash.len() == 32)
    });
    ensure(sound, claim, ClaimProblem::BadValue)
}

fn ensure(condition: bool, claim: &'static str, problem: ClaimProblem) -> Checked {
    if condition { Ok(()) } else { Err(InvalidContext { claim, problem }) }
}
