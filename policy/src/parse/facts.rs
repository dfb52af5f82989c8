//! Reads the atom `device`, and tests of what validators said.

use std::collections::BTreeMap;

use super::{known::Known, scalars};
use crate::{
    doc::{
        FactType,
        access::{AttributeName, ClaimValue, DeviceAtom, FactTest},
    },
    yaml::{Fields, Findings, Node, Value, did_you_mean, read},
};

/// `device`.
pub(super) fn device(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<DeviceAtom> {
    let mut fields = Fields::of(node, "device", findings)?;
    let managed = fields.optional("managed");
    let tiers = fields.optional("tiers");
    let sources_node = fields.optional("sources");
    let age = fields.optional("maxPostureAge");
    let (span, empty) = (fields.span(), fields.is_empty());
    fields.finish(findings);
    if empty {
        findings.error(
            "E001",
            span,
            "`device` needs `managed`, `tiers`, `sources` or `maxPostureAge`",
        );
        return None;
    }
    let managed = managed.is_some_and(|node| read::only_true(node, "managed", findings).is_some());
    let tiers = read::strings(tiers, 64, findings);
    let sources = read::strings(sources_node, 80, findings);
    for item in read::list(sources_node, findings) {
        let text = item.text().unwrap_or_default();
        match text.strip_prefix("header:") {
            None if matches!(text, "mtls" | "idp") => {}
            Some(proxy) if known.proxies.contains(proxy) => {}
            Some(proxy) => {
                let near = did_you_mean(proxy, known.proxies.iter().map(String::as_str));
                let message = format!("no ContextPolicy has a proxy `{proxy}`");
                findings.error("E005", item.span, message).maybe_hint(near);
            }
            None => {
                let message = format!("{} is not a way to learn a device", item.describe());
                let hint = "choose among mtls, idp and header:<proxy>";
                findings.error("E013", item.span, message).hint(hint);
            }
        }
    }
    let max_posture_age_s = age.and_then(|node| read::duration_s(node, findings));
    Some(DeviceAtom { managed, tiers, sources, max_posture_age_s })
}

/// `facts` of a justification of one of these kinds.
pub(super) fn of_justification(
    node: &Node,
    kinds: &[String],
    known: &Known,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, FactTest> {
    let mut out = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`facts` must be a mapping of names to conditions");
        return out;
    };
    if entries.is_empty() {
        findings.error("E001", node.span, "an empty set of facts says nothing");
    }
    for (key, value) in entries {
        let mut kind = None;
        for of in kinds {
            // A kind that no gateway captures was reported where it stands.
            let Some(declared) = known.justification_kinds.get(of) else { continue };
            let found = declared.as_ref().and_then(|facts| facts.get(&key.text));
            let Some(found) = found else {
                let names = declared.iter().flatten().map(|(name, _)| name.as_str());
                let hint = did_you_mean(&key.text, names).unwrap_or_else(|| {
                    format!("declare it in `facts` of the AttributeProvider that checks `{of}`")
                });
                let message = format!("no validator of `{of}` says `{}`", key.text);
                findings.error("E002", key.span, message).hint(hint);
                continue;
            };
            kind = Some(*found);
        }
        out.extend(test(value, kind, findings).map(|test| (key.text.clone(), test)));
    }
    out
}

/// `{anyOf: […]}` or `{equalsAttr: resource.owner}`.
fn test(node: &Node, kind: Option<FactType>, findings: &mut Findings<'_>) -> Option<FactTest> {
    let mut fields = Fields::of(node, "a condition", findings)?;
    let any_of = fields.optional("anyOf");
    let equals = fields.optional("equalsAttr");
    let span = fields.span();
    fields.finish(findings);
    match (any_of, equals) {
        (Some(node), None) => {
            let items = read::filled_list(Some(node), findings).iter();
            let values: Option<Vec<_>> = items.map(|item| value(item, kind, findings)).collect();
            values.map(FactTest::AnyOf)
        }
        (None, Some(node)) => {
            if kind.is_some_and(|kind| kind != FactType::String) {
                findings.error("E013", node.span, "attributes are texts, and this fact is none");
            }
            read::one_of(node, AttributeName::ALL, findings).map(FactTest::Equals)
        }
        _ => {
            findings.error("E013", span, "a condition is either `anyOf` or `equalsAttr`");
            None
        }
    }
}

fn value(node: &Node, kind: Option<FactType>, findings: &mut Findings<'_>) -> Option<ClaimValue> {
    match kind {
        Some(FactType::Bool) => read::boolean(node, findings).map(ClaimValue::Bool),
        Some(FactType::Int) => {
            let most = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
            let number = read::integer(node, 0, most, findings)?;
            i64::try_from(number).ok().map(ClaimValue::Int)
        }
        Some(FactType::String) | None => {
            read::short_string(node, scalars::TEXT_BYTES_MAX, findings).map(ClaimValue::Text)
        }
    }
}
