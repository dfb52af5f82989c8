//! Reads `AttributeProvider`.

use std::collections::BTreeMap;

use super::{
    Envelope,
    known::{Known, KnownAttributes},
    ldap, scalars,
};
use crate::{
    doc::{
        AskAs, Asked, AskedId, AttributeCache, AttributeProvider, AttributeSource, AuthZen,
        FactType, OnUnavailable,
    },
    yaml::{Fields, Findings, Node, Value, read},
};

/// The longest time-out: somebody waits for the answer.
const TIMEOUT_MS_MAX: u64 = 5_000;
const TIMEOUT_MS: u64 = 300;
/// Most answers that are kept.
const ENTRIES_MAX: u64 = 100_000;
/// The longest an answer counts, seconds.
const AGE_S_MAX: u64 = 86_400;
/// Facts travel in every token.
const FACTS_MAX: usize = 8;

pub(super) fn read(
    node: &Node,
    envelope: &Envelope<'_>,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<AttributeProvider> {
    let entry = KnownAttributes { span: envelope.name_span, facts: None, groups: None };
    known.attributes.insert(envelope.name.clone(), entry);
    let mut fields = Fields::of(node, "AttributeProvider", findings)?;
    let authzen_node = fields.optional("authzen");
    let ldap_node = fields.optional("ldap");
    let request = fields.optional("request");
    let facts_node = fields.optional("facts");
    let cache = cache(fields.optional("cache"), findings);
    let on_unavailable = match fields.required("onUnavailable", findings) {
        Some(node) => on_unavailable(node, findings),
        None => None,
    };
    let span = fields.span();
    fields.finish(findings);
    let (source, timeout_ms) = match (authzen_node, ldap_node) {
        (Some(node), None) => {
            let facts = facts_node.map(|node| facts(node, findings)).unwrap_or_default();
            let read = authzen(node, request, facts.clone(), findings);
            if let Some(entry) = known.attributes.get_mut(&envelope.name) {
                entry.facts = Some(facts);
            }
            read.map(|(authzen, timeout)| (AttributeSource::AuthZen(authzen), timeout))?
        }
        (None, Some(node)) => {
            for (name, other) in [("request", request), ("facts", facts_node)] {
                if let Some(other) = other {
                    let message = format!("`{name}` is for `authzen`; a directory knows groups");
                    findings.error("E013", other.span, message);
                }
            }
            let (ldap, timeout) = ldap::read(node, findings)?;
            if let Some(entry) = known.attributes.get_mut(&envelope.name) {
                entry.groups = Some(ldap.keep.clone());
            }
            (AttributeSource::Ldap(ldap), timeout)
        }
        _ => {
            findings
                .error("E013", span, "an AttributeProvider needs either `authzen` or `ldap`")
                .hint("`authzen` asks a decision point, `ldap` looks up the groups of users");
            return None;
        }
    };
    let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS);
    Some(AttributeProvider { source, timeout_ms, cache, on_unavailable: on_unavailable? })
}

pub(super) fn timeout(node: Option<&Node>, findings: &mut Findings<'_>) -> Option<u64> {
    let node = node?;
    let ms = read::duration_ms(node, findings)?;
    if (1..=TIMEOUT_MS_MAX).contains(&ms) {
        return Some(ms);
    }
    let message = format!("a question may take from 1ms to {TIMEOUT_MS_MAX}ms, not {ms}ms");
    findings.error("E013", node.span, message).hint("somebody waits for the answer");
    None
}

fn cache(node: Option<&Node>, findings: &mut Findings<'_>) -> AttributeCache {
    let mut out = AttributeCache { positive_s: 60, negative_s: 5, max_entries: 10_000 };
    let Some(node) = node else { return out };
    let Some(mut fields) = Fields::of(node, "cache", findings) else { return out };
    if let Some(node) = fields.optional("positive") {
        out.positive_s = age(node, findings).unwrap_or(out.positive_s);
    }
    if let Some(node) = fields.optional("negative") {
        out.negative_s = age(node, findings).unwrap_or(out.negative_s);
    }
    if let Some(node) = fields.optional("maxEntries") {
        let entries = read::integer(node, 1, ENTRIES_MAX, findings);
        out.max_entries =
            entries.and_then(|entries| usize::try_from(entries).ok()).unwrap_or(out.max_entries);
    }
    fields.finish(findings);
    out
}

/// Seconds up to a day; `0s` keeps nothing.
fn age(node: &Node, findings: &mut Findings<'_>) -> Option<u64> {
    if read::duration_ms(node, findings)? == 0 {
        return Some(0);
    }
    let seconds = read::duration_s(node, findings)?;
    if seconds > AGE_S_MAX {
        findings.error("E013", node.span, "an answer counts for at most a day");
        return None;
    }
    Some(seconds)
}

fn on_unavailable(node: &Node, findings: &mut Findings<'_>) -> Option<OnUnavailable> {
    if let Value::Map(_) = &node.value {
        let mut fields = Fields::of(node, "onUnavailable", findings)?;
        let stale = fields.required("useStale", findings);
        fields.finish(findings);
        return age(stale?, findings).map(OnUnavailable::UseStale);
    }
    if matches!(node.text(), Some("allow" | "permit" | "ignore")) {
        findings
            .error("E013", node.span, "nobody's answer is never a yes")
            .hint("write `unknown`, `refuse` or `{useStale: 10m}`");
        return None;
    }
    let words = [("unknown", OnUnavailable::Unknown), ("refuse", OnUnavailable::Refuse)];
    read::one_of(node, &words, findings)
}

fn authzen(
    node: &Node,
    request: Option<&Node>,
    facts: BTreeMap<String, FactType>,
    findings: &mut Findings<'_>,
) -> Option<(AuthZen, Option<u64>)> {
    let mut fields = Fields::of(node, "authzen", findings)?;
    let endpoint_node = fields.required("endpoint", findings);
    let endpoint = endpoint_node.and_then(|node| super::provider::https(node, findings));
    let auth = match fields.optional("auth") {
        Some(node) => auth(node, findings),
        None => Some(AskAs::Nobody),
    };
    let roots_node = fields.optional("roots");
    let roots = roots_node.and_then(|node| scalars::file(node, findings));
    let timeout = timeout(fields.optional("timeout"), findings);
    let span = fields.span();
    fields.finish(findings);
    let Some(request) = request else {
        findings.error("E013", span, "`authzen` needs `request`, which says what is asked").hint(
            "as in `{subject: {type: user, id: user.id}, action: use-as-justification, \
                   resource: {type: ticket, id: justification.ref}}`",
        );
        return None;
    };
    let mut fields = Fields::of(request, "request", findings)?;
    let subject = fields.required("subject", findings).and_then(|node| asked(node, findings));
    let action = fields.required("action", findings);
    let action = action.and_then(|node| read::short_string(node, 128, findings));
    let resource = fields.required("resource", findings).and_then(|node| asked(node, findings));
    fields.finish(findings);
    let (subject, resource) = (subject?, resource?);
    let authzen = AuthZen {
        endpoint: endpoint?,
        auth: auth?,
        roots,
        subject,
        action: action?,
        resource,
        facts,
    };
    Some((authzen, timeout))
}

fn auth(node: &Node, findings: &mut Findings<'_>) -> Option<AskAs> {
    if let Value::Map(_) = &node.value {
        let mut fields = Fields::of(node, "auth", findings)?;
        let bearer = fields.required("bearer", findings);
        fields.finish(findings);
        let mut fields = Fields::of(bearer?, "bearer", findings)?;
        let file = fields.required("file", findings);
        fields.finish(findings);
        return scalars::file(file?, findings).map(AskAs::Bearer);
    }
    if node.text() == Some("mesh") {
        findings.error("E013", node.span, "`auth: mesh` is not supported yet").hint(
            "write `{bearer: {file: token}}`, and `roots` for the decision point's authority",
        );
        return None;
    }
    let message = format!("unknown value {}", node.describe());
    findings.error("E013", node.span, message).hint("as in `{bearer: {file: token}}`");
    None
}

fn asked(node: &Node, findings: &mut Findings<'_>) -> Option<Asked> {
    let mut fields = Fields::of(node, "an entity", findings)?;
    let kind = fields.required("type", findings);
    let kind = kind.and_then(|node| read::short_string(node, 128, findings));
    let id = fields.required("id", findings);
    let id = id.and_then(|node| read::one_of(node, AskedId::ALL, findings));
    fields.finish(findings);
    Some(Asked { kind: kind?, id: id? })
}

fn facts(node: &Node, findings: &mut Findings<'_>) -> BTreeMap<String, FactType> {
    let mut out = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        let message = "`facts` must be a mapping of names to `string`, `int` or `bool`";
        findings.error("E013", node.span, message);
        return out;
    };
    if entries.len() > FACTS_MAX {
        let message = format!("{} facts; a token carries at most {FACTS_MAX}", entries.len());
        findings.error("E017", node.span, message);
    }
    let types = [("string", FactType::String), ("int", FactType::Int), ("bool", FactType::Bool)];
    for (key, value) in entries {
        let good = (1..=32).contains(&key.text.len())
            && key.text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !good {
            let message = format!("`{}` is not the name of a fact", key.text);
            findings.error("E013", key.span, message).hint("1 to 32 letters, digits and `_`");
            continue;
        }
        if let Some(kind) = read::one_of(value, &types, findings) {
            out.insert(key.text.clone(), kind);
        }
    }
    out
}
