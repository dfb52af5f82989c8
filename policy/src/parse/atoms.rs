//! Reads atoms: the conditions of `require` and `unless`.

use std::collections::BTreeMap;

use super::{
    binding, chain, facts,
    known::{Known, KnownProvider},
    mesh::ORIGINS,
    scalars, window,
};
use crate::{
    doc::{
        Atom, ClaimRole, ClaimType,
        access::{
            ClaimValue, JustificationAtom, ParamsAtom, SourceAt, SourceAtom, TokenAtom, UserAtom,
        },
    },
    yaml::{Fields, Findings, Node, Value, did_you_mean, read},
};

/// Atoms of the language that this version does not evaluate.
/// Most services one atom lists.
const SERVICES_MAX: usize = 64;
const LATER: &[&str] = &["build", "interaction", "workload", "external", "when"];

/// The atoms of one mapping, and where each stands.
pub(super) fn read(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Vec<Atom>> {
    let mut fields = Fields::of(node, "a set of atoms", findings)?;
    if fields.is_empty() {
        findings
            .error("E001", node.span, "an empty set of atoms would always hold")
            .hint("name a condition, or leave the field out");
        return None;
    }
    let user_node = fields.optional("user");
    let source_node = fields.optional("source");
    let time_node = fields.optional("time");
    let justification_node = fields.optional("justification");
    let device_node = fields.optional("device");
    let token_node = fields.optional("token");
    let chain_node = fields.optional("chain");
    let params_node = fields.optional("params");
    for later in LATER {
        fields.not_yet(later, findings);
    }
    fields.finish(findings);
    let read: [Option<Option<Atom>>; 8] = [
        user_node.map(|node| user(node, known, findings)),
        source_node.map(|node| source(node, known, findings).map(Atom::Source)),
        time_node.map(|node| window::time(node, known, findings).map(Atom::Time)),
        justification_node.map(|node| justification(node, known, findings)),
        device_node.map(|node| facts::device(node, known, findings).map(Atom::Device)),
        token_node.map(|node| token(node, findings).map(Atom::Token)),
        chain_node.map(|node| chain::read(node, known, findings).map(Atom::Chain)),
        params_node
            .map(|node| binding::params(node, findings).map(|p| Atom::Params(ParamsAtom(p)))),
    ];
    read.into_iter().flatten().collect()
}

fn user(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Atom> {
    let mut fields = Fields::of(node, "user", findings)?;
    if let Some(absent) = fields.optional("absent") {
        fields.finish(findings);
        return read::only_true(absent, "absent", findings).map(|()| Atom::UserAbsent);
    }
    let provider_node = fields.required("provider", findings);
    let provider = provider_node.and_then(|node| read::string(node, findings));
    let declared = provider_node.zip(provider.as_ref()).and_then(|(node, name)| {
        let span = |p: &KnownProvider| p.span;
        Known::check(node, name, "IdentityProvider", &known.providers, span, findings);
        known.providers.get(name)
    });
    let ids = read::strings(fields.optional("ids"), 256, findings);
    let any_group = groups(fields.optional("anyGroup"), declared, known, findings);
    let all_groups = groups(fields.optional("allGroups"), declared, known, findings);
    let claims_node = fields.optional("claims");
    let claims = claims_node.map(|node| claims(node, declared, findings)).unwrap_or_default();
    let auth_age = fields.optional("maxAuthAge");
    let owner = fields.optional("isResourceOwner");
    fields.finish(findings);
    if let (Some(node), Some(declared)) = (auth_age, declared) {
        needs_role(node, declared, ClaimRole::AuthTime, "as: authTime", "E005", findings);
    }
    if let (Some(node), Some(declared)) = (owner, declared) {
        needs_role(node, declared, ClaimRole::AccountId, "as: accountId", "E012", findings);
    }
    let max_auth_age_s = auth_age.and_then(|node| read::duration_s(node, findings));
    let is_resource_owner =
        owner.is_some_and(|node| read::only_true(node, "isResourceOwner", findings).is_some());
    Some(Atom::User(UserAtom {
        provider: provider?,
        ids,
        any_group,
        all_groups,
        claims,
        max_auth_age_s,
        is_resource_owner,
    }))
}

/// A test of the user needs the claim it is about.
fn needs_role(
    node: &Node,
    provider: &KnownProvider,
    role: ClaimRole,
    written: &str,
    code: &'static str,
    findings: &mut Findings<'_>,
) {
    if provider.claim_for(role).is_some() || provider.claims.is_empty() {
        return;
    }
    let place = findings.place(provider.span);
    findings
        .error(code, node.span, format!("the identity provider declares no claim `{written}`"))
        .hint(format!("declare it at {}:{}, or this could never be known", place.file, place.line));
}

fn groups(
    node: Option<&Node>,
    provider: Option<&KnownProvider>,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Vec<String> {
    let outside =
        |item: &Node| item.text().is_some_and(|group| known.outside_groups.contains(group));
    if let (Some(node), Some(provider)) = (node, provider)
        && !read::list(Some(node), findings).iter().all(outside)
    {
        needs_role(node, provider, ClaimRole::Groups, "as: groups", "E005", findings);
        let kept = provider.claim_for(ClaimRole::Groups).map(|claim| &claim.keep);
        for (item, kept) in read::list(Some(node), findings).iter().zip(kept.into_iter().cycle()) {
            let group = item.text().unwrap_or_default();
            if kept.is_empty() || outside(item) || kept.iter().any(|own| own == group) {
                continue;
            }
            let hint = did_you_mean(group, kept.iter().map(String::as_str))
                .unwrap_or_else(|| "add it to `keep` of the provider's groups claim".to_owned());
            findings
                .error("E005", item.span, format!("group `{group}` is not kept by the provider"))
                .hint(hint);
        }
    }
    read::strings(node, 64, findings)
}

fn claims(
    node: &Node,
    provider: Option<&KnownProvider>,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, Vec<ClaimValue>> {
    let mut out = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`claims` must be a mapping of names to conditions");
        return out;
    };
    for (key, value) in entries {
        let kind = match provider {
            None => ClaimType::String,
            Some(provider) => match provider.claim_type(&key.text) {
                Some(kind) => kind,
                None => {
                    let hint = did_you_mean(&key.text, provider.claims.keys().map(String::as_str));
                    let message = format!("the identity provider declares no claim `{}`", key.text);
                    findings.error("E002", key.span, message).maybe_hint(hint);
                    continue;
                }
            },
        };
        let Some(mut fields) = Fields::of(value, "a condition", findings) else { continue };
        let any_of = fields.required("anyOf", findings);
        fields.not_yet("equalsAttr", findings);
        fields.finish(findings);
        let values = read::filled_list(any_of, findings)
            .iter()
            .filter_map(|item| claim_value(item, kind, findings))
            .collect();
        out.insert(key.text.clone(), values);
    }
    out
}

fn claim_value(node: &Node, kind: ClaimType, findings: &mut Findings<'_>) -> Option<ClaimValue> {
    match kind {
        ClaimType::String | ClaimType::StringList => {
            read::short_string(node, 256, findings).map(ClaimValue::Text)
        }
        ClaimType::Bool => read::boolean(node, findings).map(ClaimValue::Bool),
        ClaimType::Int | ClaimType::Timestamp => {
            let max = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
            let number = read::integer(node, 0, max, findings)?;
            i64::try_from(number).ok().map(ClaimValue::Int)
        }
    }
}

fn source(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<SourceAtom> {
    let mut fields = Fields::of(node, "source", findings)?;
    let at = fields.required("at", findings).and_then(|node| {
        let which = [("origin", SourceAt::Origin), ("peer", SourceAt::Peer)];
        read::one_of(node, &which, findings)
    });
    let sets_node = fields.optional("cidrSets");
    let sources_node = fields.optional("sources");
    let span = fields.span();
    fields.finish(findings);
    for item in read::list(sets_node, findings) {
        let name = item.text().unwrap_or_default();
        Known::check(item, name, "cidrSet", &known.cidr_sets, |span| *span, findings);
    }
    let cidr_sets = read::strings(sets_node, 256, findings);
    let sources = read::strings(sources_node, 32, findings);
    for item in read::list(sources_node, findings) {
        if !item.text().is_some_and(is_address_source) {
            let message = format!("{} is not a way to learn an address", item.describe());
            let hint = "choose among peer, peer-short, pp1, pp2, xff:<hops> and fwd:<hops>";
            findings.error("E013", item.span, message).hint(hint);
        }
    }
    if let (Some(node), Some(SourceAt::Peer)) = (sources_node, at) {
        findings.error("E013", node.span, "`sources` is about the origin address only");
    }
    if cidr_sets.is_empty() && sources.is_empty() {
        findings.error("E001", span, "`source` needs `cidrSets` or `sources`");
        return None;
    }
    Some(SourceAtom { at: at?, cidr_sets, sources })
}

fn is_address_source(text: &str) -> bool {
    let counted = text.strip_prefix("xff:").or_else(|| text.strip_prefix("fwd:"));
    matches!(text, "peer" | "peer-short" | "pp1" | "pp2")
        || counted.is_some_and(|hops| hops.parse::<u8>().is_ok_and(|hops| hops > 0))
}

fn justification(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Atom> {
    let mut fields = Fields::of(node, "justification", findings)?;
    let kinds = fields.required("anyKind", findings);
    let checked = fields.optional("checked");
    let max_age = fields.optional("maxAge");
    let facts_node = fields.optional("facts");
    fields.finish(findings);
    for item in read::list(kinds, findings) {
        let kind = item.text().unwrap_or_default();
        if known.justification_kinds.contains_key(kind) {
            continue;
        }
        let hint = did_you_mean(kind, known.justification_kinds.keys().map(String::as_str))
            .unwrap_or_else(|| "declare it in `justification.kinds` of a ContextPolicy".to_owned());
        findings
            .error(
                "E005",
                item.span,
                format!("justification kind `{kind}` is captured by no gateway"),
            )
            .hint(hint);
    }
    let any_kind = read::strings(kinds, 64, findings);
    let facts = facts_node.map(|node| facts::of_justification(node, &any_kind, known, findings));
    Some(Atom::Justification(JustificationAtom {
        any_kind,
        facts: facts.unwrap_or_default(),
        checked: checked.is_some_and(|node| read::only_true(node, "checked", findings).is_some()),
        max_age_s: max_age.and_then(|node| read::duration_s(node, findings)),
    }))
}

fn token(node: &Node, findings: &mut Findings<'_>) -> Option<TokenAtom> {
    let mut fields = Fields::of(node, "token", findings)?;
    let scopes = fields.optional("scopes");
    let max_age = fields.optional("maxAge");
    let origins_node = fields.optional("origins");
    let services_node = fields.optional("services");
    let (span, empty) = (fields.span(), fields.is_empty());
    fields.finish(findings);
    if empty {
        findings.error("E001", span, "`token` needs `scopes`, `maxAge`, `origins` or `services`");
        return None;
    }
    let (any_scope, all_scopes) =
        scopes.map(|node| scope_lists(node, findings)).unwrap_or_default();
    let origins = read::filled_list(origins_node, findings)
        .iter()
        .filter_map(|item| read::one_of(item, ORIGINS, findings))
        .map(str::to_owned)
        .collect();
    let max_age_s = max_age.and_then(|node| read::duration_s(node, findings));
    let services: Vec<_> = read::filled_list(services_node, findings)
        .iter()
        .filter_map(|item| scalars::id_pattern(item, findings))
        .collect();
    if let (Some(node), true) = (services_node, services.len() > SERVICES_MAX) {
        findings.error("E017", node.span, format!("more than {SERVICES_MAX} services"));
    }
    Some(TokenAtom { any_scope, all_scopes, max_age_s, origins, services })
}

/// `{anyOf: […]}`, `{allOf: […]}` or both.
fn scope_lists(node: &Node, findings: &mut Findings<'_>) -> (Vec<String>, Vec<String>) {
    let Some(mut fields) = Fields::of(node, "scopes", findings) else { return Default::default() };
    let any_of = read::strings(fields.optional("anyOf"), scalars::TEXT_BYTES_MAX, findings);
    let all_of = read::strings(fields.optional("allOf"), scalars::TEXT_BYTES_MAX, findings);
    let span = fields.span();
    fields.finish(findings);
    if any_of.is_empty() && all_of.is_empty() {
        findings.error("E001", span, "`scopes` needs `anyOf` or `allOf`");
    }
    (any_of, all_of)
}
