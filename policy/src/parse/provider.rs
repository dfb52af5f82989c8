//! Reads `IdentityProvider`.

use std::collections::BTreeMap;

use super::{
    Envelope, callers,
    known::{Known, KnownProvider},
    scalars, sender,
};
use crate::{
    doc::{
        ApiServer, ClaimDeclaration, ClaimRole, ClaimType, CredentialSource, Demand,
        IdentityProvider, ProviderKeys, UserAlgorithm,
    },
    yaml::{Fields, Findings, Node, Value, did_you_mean, read},
};

const CLAIM_TYPES: &[(&str, ClaimType)] = &[
    ("string", ClaimType::String),
    ("stringList", ClaimType::StringList),
    ("int", ClaimType::Int),
    ("bool", ClaimType::Bool),
    ("timestamp", ClaimType::Timestamp),
];

const ROLES: &[(&str, ClaimRole)] = &[
    ("id", ClaimRole::Id),
    ("accountId", ClaimRole::AccountId),
    ("authTime", ClaimRole::AuthTime),
    ("groups", ClaimRole::Groups),
];

pub(super) fn read(
    node: &Node,
    envelope: &Envelope<'_>,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<IdentityProvider> {
    let entry = KnownProvider { span: envelope.name_span, claims: BTreeMap::new() };
    known.providers.insert(envelope.name.clone(), entry);
    let mut fields = Fields::of(node, "IdentityProvider", findings)?;
    let issuer = fields.required("issuer", findings).and_then(|node| https(node, findings));
    let audiences = audiences(fields.required("audiences", findings), findings);
    let algorithms = algorithms(fields.required("algorithms", findings), findings);
    let token_types = fields.optional("tokenTypes");
    let token_types = match token_types {
        None => vec!["at+jwt".to_owned(), "JWT".to_owned()],
        some => read::strings(some, 64, findings),
    };
    let keys = fields.required("keys", findings).and_then(|node| keys(node, findings));
    let mut from = match fields.optional("from") {
        None => vec![bearer()],
        some => read::filled_list(some, findings)
            .iter()
            .filter_map(|node| credential(node, findings))
            .collect(),
    };
    let claims_node = fields.required("claims", findings);
    let claims = claims_node.map(|node| claims(node, findings)).unwrap_or_default();
    let prefix = fields.optional("subjectPrefix");
    let subject_prefix = prefix.and_then(|node| scalars::dns_label(node, findings));
    let grants = fields.optional("grants").map(|node| read::strings(Some(node), 64, findings));
    let required_claims = fields.optional("requiredClaims");
    let required_claims = required_claims.map(|node| required(node, findings)).unwrap_or_default();
    let sender = fields.optional("senderConstraint");
    let sender = sender.map(|node| sender::read(node, findings)).unwrap_or_default();
    if sender.dpop != Demand::Off && !from.contains(&dpop()) {
        from.push(dpop());
    }
    fields.finish(findings);

    if let Some(issuer) = &issuer {
        let owner = known.issuers.entry(issuer.clone()).or_insert_with(|| envelope.name.clone());
        if *owner != envelope.name {
            let message = format!("issuer `{issuer}` belongs to provider `{owner}` already");
            findings.error("E019", envelope.name_span, message);
        }
    }
    unique_prefix(subject_prefix.as_deref(), envelope, known, findings);
    if let Some(entry) = known.providers.get_mut(&envelope.name) {
        entry.claims.clone_from(&claims);
    }
    Some(IdentityProvider {
        issuer: issuer?,
        audiences,
        algorithms,
        token_types,
        keys: keys?,
        from,
        claims,
        subject_prefix,
        grants,
        required_claims,
        sender,
    })
}

/// `sub` is unique in the trust domain only if no two providers share a prefix.
fn unique_prefix(
    prefix: Option<&str>,
    envelope: &Envelope<'_>,
    known: &mut Known,
    findings: &mut Findings<'_>,
) {
    let key = prefix.unwrap_or_default().to_owned();
    if let Some(other) = known.prefixes.get(&key) {
        if *other == envelope.name {
            return;
        }
        let message = match prefix {
            None => format!("this provider and `{other}` would both name users without a prefix"),
            Some(prefix) => format!("prefix `{prefix}` is already taken by provider `{other}`"),
        };
        findings
            .error("E019", envelope.name_span, message)
            .hint(format!("add `subjectPrefix: {}`", envelope.name));
        return;
    }
    known.prefixes.insert(key, envelope.name.clone());
}

/// An issuer URL, or another address keys come from. Plain http is accepted for addresses of this machine only.
pub(super) fn https(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let url = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|start| {
        url.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    if local || url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) {
        return Some(url);
    }
    findings
        .error("E013", node.span, format!("`{url}` is not an https URL"))
        .hint("plain http is accepted for 127.0.0.1 and localhost only");
    None
}

fn audiences(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<String> {
    if let Some(Node { value: Value::List(items), span }) = node
        && items.is_empty()
    {
        findings
            .error("E008", *span, "without an audience, tokens meant for others would be accepted")
            .hint("name the audience your API has at the identity provider");
        return Vec::new();
    }
    read::strings(node, scalars::TEXT_BYTES_MAX, findings)
}

pub(super) fn algorithms(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<UserAlgorithm> {
    let mut out = Vec::new();
    for node in read::filled_list(node, findings) {
        let name = node.text().unwrap_or_default();
        let known = UserAlgorithm::ALL.iter().find(|(own, _)| *own == name).map(|(_, alg)| *alg);
        let known = known.or((name == "Ed25519").then_some(UserAlgorithm::Ed25519));
        match known {
            Some(algorithm) => out.push(algorithm),
            None if name.eq_ignore_ascii_case("none") || name.starts_with("HS") => {
                findings
                    .error("E008", node.span, format!("algorithm `{name}` is never accepted"))
                    .hint("anybody who can verify such a token could also make one");
            }
            None => {
                let hint = did_you_mean(name, UserAlgorithm::ALL.iter().map(|(own, _)| *own));
                let message = format!("unknown algorithm {}", node.describe());
                findings.error("E008", node.span, message).maybe_hint(hint);
            }
        }
    }
    out
}

fn keys(node: &Node, findings: &mut Findings<'_>) -> Option<ProviderKeys> {
    let mut fields = Fields::of(node, "keys", findings)?;
    let file = fields.optional("file");
    let discovery_node = fields.optional("discovery");
    fields.finish(findings);
    match (file, discovery_node) {
        (Some(file), None) => scalars::file(file, findings).map(ProviderKeys::File),
        (None, Some(node)) => discovery(node, findings),
        _ => {
            findings.error("E013", node.span, "`keys` needs either `discovery` or `file`");
            None
        }
    }
}

fn discovery(node: &Node, findings: &mut Findings<'_>) -> Option<ProviderKeys> {
    let mut fields = Fields::of(node, "discovery", findings)?;
    let allowed = fields.required("allowedHosts", findings);
    discovery_fields(fields, allowed, None, findings)
}

/// `discovery` of a cluster: with `apiServer`, the API server is asked; without, the issuer.
pub(super) fn discovery_of_cluster(
    node: &Node,
    findings: &mut Findings<'_>,
) -> Option<ProviderKeys> {
    let mut fields = Fields::of(node, "discovery", findings)?;
    let api_server = fields.optional("apiServer");
    let allowed = fields.optional("allowedHosts");
    if let (Some(_), Some(node)) = (api_server, allowed) {
        let message = "`allowedHosts` is for keys at the issuer; the API server names none";
        findings.error("E013", node.span, message);
    }
    let api_server = api_server.and_then(|node| callers::api_server(node, findings));
    discovery_fields(fields, allowed, api_server, findings)
}

fn discovery_fields(
    mut fields: Fields<'_>,
    allowed: Option<&Node>,
    api_server: Option<ApiServer>,
    findings: &mut Findings<'_>,
) -> Option<ProviderKeys> {
    let allowed_hosts = read::filled_list(allowed, findings)
        .iter()
        .filter_map(|node| scalars::host(node, findings))
        .collect();
    let mut duration = |name: &'static str, default: u64| {
        fields.optional(name).and_then(|node| read::duration_s(node, findings)).unwrap_or(default)
    };
    let refresh_s = duration("refresh", 15 * 60);
    let unknown_key_cooldown_s = duration("unknownKeyCooldown", 30);
    let max_stale_s = duration("maxStale", 24 * 3600);
    fields.finish(findings);
    Some(ProviderKeys::Discovery {
        api_server,
        allowed_hosts,
        refresh_s,
        unknown_key_cooldown_s,
        max_stale_s,
    })
}

fn bearer() -> CredentialSource {
    CredentialSource { header: "authorization".to_owned(), scheme: Some("Bearer".to_owned()) }
}

/// Where tokens stand that come with a DPoP proof (RFC 9449 §7.1).
fn dpop() -> CredentialSource {
    CredentialSource { header: "authorization".to_owned(), scheme: Some("DPoP".to_owned()) }
}

fn credential(node: &Node, findings: &mut Findings<'_>) -> Option<CredentialSource> {
    let mut fields = Fields::of(node, "a credential source", findings)?;
    let header = fields.required("header", findings);
    let scheme = fields.optional("scheme").and_then(|node| read::short_string(node, 32, findings));
    fields.finish(findings);
    let node = header?;
    let header = read::short_string(node, 64, findings)?.to_ascii_lowercase();
    if super::matchers::is_mesh_header(&header) {
        let message = format!("`{header}` is reserved and removed before credentials are read");
        findings.error("E010", node.span, message);
        return None;
    }
    Some(CredentialSource { header, scheme })
}

fn claims(node: &Node, findings: &mut Findings<'_>) -> BTreeMap<String, ClaimDeclaration> {
    let mut out: BTreeMap<String, ClaimDeclaration> = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`claims` must be a mapping of names to types");
        return out;
    };
    for (key, value) in entries {
        let Some(claim) = claim(value, findings) else { continue };
        let taken = out.iter().find(|(_, own)| own.role.is_some() && own.role == claim.role);
        if let Some((other, _)) = taken {
            let message = format!("claims `{other}` and `{}` have the same role", key.text);
            findings.error("E019", key.span, message);
            continue;
        }
        out.insert(key.text.clone(), claim);
    }
    let understood = out.len() == entries.len();
    if understood && !out.values().any(|claim| claim.role == Some(ClaimRole::Id)) {
        findings
            .error("E013", node.span, "no claim says who the user is")
            .hint("declare one: `sub: {type: string, as: id}`");
    }
    out
}

fn claim(node: &Node, findings: &mut Findings<'_>) -> Option<ClaimDeclaration> {
    let mut fields = Fields::of(node, "a claim", findings)?;
    let kind = fields.required("type", findings);
    let role_node = fields.optional("as");
    let keep_node = fields.optional("keep");
    let at = fields.optional("at");
    fields.finish(findings);
    let at = match at {
        None => Vec::new(),
        Some(node) => place(node, findings)?,
    };
    let kind = read::one_of(kind?, CLAIM_TYPES, findings)?;
    let role = role_node.and_then(|node| read::one_of(node, ROLES, findings));
    let keep = read::strings(keep_node, 64, findings);
    if let (Some(node), true) = (keep_node, kind != ClaimType::StringList) {
        findings.error("E013", node.span, "`keep` is for claims of type `stringList`");
    }
    let wanted = match role {
        Some(ClaimRole::Id | ClaimRole::AccountId) => Some(ClaimType::String),
        Some(ClaimRole::AuthTime) => Some(ClaimType::Timestamp),
        Some(ClaimRole::Groups) => Some(ClaimType::StringList),
        None => None,
    };
    if let (Some(node), Some(wanted)) = (role_node, wanted.filter(|wanted| *wanted != kind)) {
        let name = CLAIM_TYPES.iter().find(|(_, own)| *own == wanted).map_or("", |(name, _)| name);
        let message = format!("a claim with this role has the type `{name}`");
        findings.error("E013", node.span, message);
        return None;
    }
    Some(ClaimDeclaration { kind, role, keep, at })
}

/// Deepest place of a claim.
const PLACE_NAMES_MAX: usize = 4;

/// Where a claim stands that is not at the top: a JSON Pointer (RFC 6901) through objects.
fn place(node: &Node, findings: &mut Findings<'_>) -> Option<Vec<String>> {
    let text = read::short_string(node, 256, findings)?;
    let name = |part: &str| {
        let rest = part.replace("~1", "").replace("~0", "");
        (!rest.contains('~')).then(|| part.replace("~1", "/").replace("~0", "~"))
    };
    let names: Option<Vec<String>> =
        text.strip_prefix('/').and_then(|rest| rest.split('/').map(name).collect());
    let fits = |names: &Vec<String>| {
        names.len() <= PLACE_NAMES_MAX && names.iter().all(|name| !name.is_empty())
    };
    let found = names.filter(fits);
    if found.is_none() {
        let message = format!("`{text}` does not lead to a claim");
        findings.error("E013", node.span, message).hint(format!(
            "write a JSON Pointer of at most {PLACE_NAMES_MAX} names, such as `/realm_access/roles`"
        ));
    }
    found
}

/// Claims without which a token does not count.
fn required(node: &Node, findings: &mut Findings<'_>) -> BTreeMap<String, Vec<String>> {
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`requiredClaims` must map names to lists of texts");
        return BTreeMap::new();
    };
    if entries.is_empty() {
        findings.error("E001", node.span, "an empty `requiredClaims` requires nothing");
    }
    let texts = |(key, value): &(_, Node)| {
        let key: &crate::yaml::Key = key;
        (key.text.clone(), read::strings(Some(value), scalars::TEXT_BYTES_MAX, findings))
    };
    entries.iter().map(texts).collect()
}
