//! Reads `MeshConfig`.

use std::collections::BTreeMap;

use countersign_workload_id::TrustDomain;
use ipnet::IpNet;
use jiff::civil::Date;

use super::{federation, known::Known, scalars};
use crate::{
    doc::{
        Custody, DestinationName, IssuerJwks, IssuerKeys, MeshConfig, OnAuditFull, Outbound,
        Presenter, TrustedIssuer, Unknown,
    },
    path::{CanonicalOptions, Normalization, PathParams},
    yaml::{Fields, Findings, Node, Value, read},
};

/// How a transaction may begin.
pub(crate) const ORIGINS: &[(&str, &str)] = &[
    ("user", "user"),
    ("service", "service"),
    ("batch", "batch"),
    ("async", "async"),
    ("foreign", "foreign"),
];

/// Headers the app is given only where `context.headers` names them.
const HEADERS: [&str; 8] =
    ["sub", "entry", "source-ip", "groups", "device", "justification", "auth-time", "claims"];

/// Longest lifetime of a context token, seconds (`token.md` §3).
const TTL_S_MAX: u64 = 300;

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<MeshConfig> {
    let mut fields = Fields::of(node, "MeshConfig", findings)?;
    let trust_domain = fields
        .required("trustDomain", findings)
        .and_then(|node| scalars::trust_domain(node, findings));
    known.trust_domain = trust_domain.clone();
    if let Some(node) = fields.optional("identityPath") {
        read::one_of(node, &[("/ns/{namespace}/sa/{serviceAccount}", ())], findings);
    }
    let paths = fields.optional("defaults").map(|node| defaults(node, findings));
    let outbound = fields.optional("outbound").map(|node| outbound(node, findings));
    fields.not_yet("rollout", findings);
    let context = fields.optional("context").map(|node| context(node, known, findings));
    let cidr_sets = fields.optional("cidrSets").map(|node| cidr_sets(node, known, findings));
    let calendars = fields.optional("calendars").map(|node| calendars(node, known, findings));
    let federation = fields.optional("federation");
    let mut federation: Vec<_> =
        federation.map(|node| federation::read(node, known, findings)).unwrap_or_default();
    federation.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    let on_audit_full = fields.optional("audit").and_then(|node| audit(node, findings));
    // Their entries are read as documents of their own.
    for inline in ["identityProviders", "attributeProviders", "gateways", "destinations"] {
        fields.optional(inline);
    }
    fields.finish(findings);
    let context = context.unwrap_or_default();
    Some(MeshConfig {
        trust_domain: trust_domain?,
        paths: paths.unwrap_or_default(),
        context_ttl_s: context.ttl_s,
        custody: context.custody,
        issuers: context.issuers,
        headers: context.headers,
        presenters: context.presenters,
        token_service: context.token_service,
        cidr_sets: cidr_sets.unwrap_or_default(),
        calendars: calendars.unwrap_or_default(),
        on_audit_full: on_audit_full.unwrap_or(OnAuditFull::Gap),
        outbound: outbound.unwrap_or_default(),
        federation,
    })
}

fn defaults(node: &Node, findings: &mut Findings<'_>) -> CanonicalOptions {
    let mut options = CanonicalOptions::default();
    let Some(mut fields) = Fields::of(node, "defaults", findings) else { return options };
    if let Some(node) = fields.optional("inbound") {
        read::one_of(node, &[("deny", ())], findings);
    }
    if let Some(node) = fields.optional("pathNormalization") {
        let modes = [("reject", Normalization::Reject), ("normalize", Normalization::Normalize)];
        options.normalization =
            read::one_of(node, &modes, findings).unwrap_or(options.normalization);
    }
    if let Some(node) = fields.optional("pathParams") {
        let modes = [("reject", PathParams::Reject), ("keep", PathParams::Keep)];
        options.params = read::one_of(node, &modes, findings).unwrap_or(options.params);
    }
    fields.finish(findings);
    options
}

/// `outbound`: what becomes of calls to known and unknown destinations.
fn outbound(node: &Node, findings: &mut Findings<'_>) -> Outbound {
    let mut out = Outbound::default();
    let Some(mut fields) = Fields::of(node, "outbound", findings) else { return out };
    out.unknown = outbound_modes(&mut fields, findings).unwrap_or_default();
    let namespaces = fields.optional("namespaces");
    fields.finish(findings);
    let Some(node) = namespaces else { return out };
    let Value::Map(entries) = &node.value else {
        let message = "`namespaces` must be a mapping of names to `{unknown: …}`";
        findings.error("E013", node.span, message);
        return out;
    };
    for (key, value) in entries {
        let name =
            Node { value: Value::Scalar { text: key.text.clone(), plain: false }, span: key.span };
        let name = scalars::dns_label(&name, findings);
        let Some(mut fields) = Fields::of(value, "outbound of a namespace", findings) else {
            continue;
        };
        let unknown = outbound_modes(&mut fields, findings);
        if fields.is_empty() {
            findings
                .error("E001", value.span, "an empty entry would say nothing")
                .hint("write `{unknown: pass}` or leave the namespace out");
        }
        fields.finish(findings);
        out.namespaces.extend(name.zip(unknown));
    }
    out
}

/// `known` and `unknown`. Of `known` only what this version does anyway is accepted.
fn outbound_modes(fields: &mut Fields<'_>, findings: &mut Findings<'_>) -> Option<Unknown> {
    if let Some(node) = fields.optional("known") {
        if node.text() == Some("policy") {
            findings
                .error("E013", node.span, "`known: policy` is not supported yet")
                .hint("it needs outbound rules; the callee's own inbound rules always decide");
        } else {
            read::one_of(node, &[("allow", ())], findings);
        }
    }
    let modes = [("deny", Unknown::Deny), ("pass", Unknown::Pass)];
    fields.optional("unknown").and_then(|node| read::one_of(node, &modes, findings))
}

/// `context`, with its defaults.
struct ContextSettings {
    ttl_s: u64,
    custody: Custody,
    issuers: Vec<TrustedIssuer>,
    headers: Vec<String>,
    presenters: Vec<Presenter>,
    token_service: Option<DestinationName>,
}

impl Default for ContextSettings {
    fn default() -> Self {
        Self {
            ttl_s: 60,
            custody: Custody::Required,
            issuers: Vec::new(),
            headers: Vec::new(),
            presenters: Vec::new(),
            token_service: None,
        }
    }
}

fn context(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> ContextSettings {
    let mut out = ContextSettings::default();
    let Some(mut fields) = Fields::of(node, "context", findings) else { return out };
    if let Some(node) = fields.optional("ttl") {
        out.ttl_s = ttl(node, findings).unwrap_or(out.ttl_s);
    }
    if let Some(node) = fields.optional("custody") {
        let modes = [("required", Custody::Required), ("off", Custody::Off)];
        out.custody = read::one_of(node, &modes, findings).unwrap_or(out.custody);
        if out.custody == Custody::Off {
            findings
                .warn(
                    "W115",
                    node.span,
                    "custody is off: a context token works for whoever holds it",
                )
                .hint("use it for interop only, and for as short a time as possible");
        }
    }
    for node in read::list(fields.optional("issuers"), findings) {
        if let Some(issuer) = issuer_of(node, None, known, findings) {
            if out.issuers.iter().any(|own| own.id == issuer.id) {
                findings.error(
                    "E019",
                    node.span,
                    format!("issuer `{}` is listed twice", issuer.id.as_str()),
                );
            } else {
                out.issuers.push(issuer);
            }
        }
    }
    for node in read::list(fields.optional("headers"), findings) {
        let groups = HEADERS.map(|name| (name, name));
        out.headers.extend(read::one_of(node, &groups, findings).map(str::to_owned));
    }
    for node in read::list(fields.optional("presenters"), findings) {
        out.presenters.extend(presenter(node, known, findings));
    }
    if let Some(node) = fields.optional("tokenService") {
        out.token_service = scalars::destination(node, "tokenService", known, findings);
    }
    fields.finish(findings);
    out
}

fn ttl(node: &Node, findings: &mut Findings<'_>) -> Option<u64> {
    let seconds = read::duration_s(node, findings)?;
    if seconds > TTL_S_MAX {
        let message = format!("a context token lives at most {TTL_S_MAX}s, not {seconds}s");
        findings.error("E013", node.span, message);
        return None;
    }
    Some(seconds)
}

/// An issuer of our own trust domain, or of another one.
pub(super) fn issuer_of(
    node: &Node,
    foreign: Option<&TrustDomain>,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<TrustedIssuer> {
    let mut fields = Fields::of(node, "an issuer", findings)?;
    let id = fields.required("id", findings).and_then(|node| {
        let id = scalars::workload_id(node, findings)?;
        let domain = id.trust_domain();
        let fits = match foreign {
            None => own_domain(node, domain.as_str(), known, findings),
            Some(named) if named == domain => true,
            Some(named) => {
                let message = format!("`{id}` is not of the trust domain `{named}`");
                findings.error("E005", node.span, message);
                false
            }
        };
        fits.then_some(id)
    });
    let keys = fields.required("keys", findings);
    let forms =
        [("x5c", IssuerKeys::X5c), ("jwks", IssuerKeys::Jwks), ("either", IssuerKeys::Either)];
    let form = keys.and_then(|node| read::one_of(node, &forms, findings));
    let key_set = fields.optional("jwks");
    let jwks = key_set.and_then(|node| super::jwks::read(node, known, findings));
    if let (Some(_), Some(IssuerJwks::Destination { .. }), Some(node)) = (foreign, &jwks, key_set) {
        findings
            .error("E013", node.span, "keys of another trust domain are not fetched")
            .hint("write `keys: x5c`, or `jwks: {file: partner-issuer.json}`");
    }
    fields.not_yet("receipts", findings);
    let span = fields.span();
    let allow = fields.required("allow", findings);
    fields.finish(findings);
    if let (Some(IssuerKeys::Jwks | IssuerKeys::Either), None) = (form, key_set) {
        findings
            .error("E013", keys.map_or(span, |node| node.span), "this form of key needs a key set")
            .hint(
                "add `jwks: {file: issuer.json}` or `jwks: {destination: edge/gateway}`, or write \
                 `keys: x5c`",
            );
    }
    let allow = allow.and_then(|node| constraints(node, findings));
    let Constraints { origins, subjects, scopes, impersonate, max_ttl_s } = allow?;
    let (id, keys) = (id?, form?);
    Some(TrustedIssuer { id, keys, jwks, origins, subjects, scopes, impersonate, max_ttl_s })
}

/// `allow` of an issuer.
struct Constraints {
    origins: Vec<String>,
    subjects: Vec<String>,
    scopes: Vec<String>,
    impersonate: Vec<String>,
    max_ttl_s: Option<u64>,
}

fn constraints(node: &Node, findings: &mut Findings<'_>) -> Option<Constraints> {
    let mut fields = Fields::of(node, "allow", findings)?;
    let origins = read::filled_list(fields.required("origin", findings), findings)
        .iter()
        .filter_map(|node| read::one_of(node, ORIGINS, findings))
        .map(str::to_owned)
        .collect();
    let subjects = subjects(fields.required("sub", findings), findings);
    let scopes = patterns(fields.optional("scope"), findings);
    let max_ttl_s = fields.optional("maxTtl").and_then(|node| ttl(node, findings));
    let impersonate = self::subjects(fields.optional("impersonate"), findings);
    fields.finish(findings);
    Some(Constraints { origins, subjects, scopes, impersonate, max_ttl_s })
}

/// Patterns of subjects.
pub(super) fn subjects(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<String> {
    for node in read::list(node, findings) {
        let text = node.text().unwrap_or_default();
        let known = ["user:", "svc:", "foreign:"].iter().any(|start| text.starts_with(start));
        if !known && text != "anon" {
            findings
                .error(
                    "E013",
                    node.span,
                    format!("{} is not a pattern of subjects", node.describe()),
                )
                .hint("write `user:*`, `svc:*`, `foreign:*` or `anon`");
        }
    }
    patterns(node, findings)
}

/// Texts in which only a last `*` has a meaning.
pub(super) fn patterns(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<String> {
    for item in read::list(node, findings) {
        let text = item.text().unwrap_or_default();
        if text.strip_suffix('*').unwrap_or(text).contains('*') {
            findings.error("E013", item.span, "`*` may only be the last character");
        }
    }
    read::strings(node, scalars::TEXT_BYTES_MAX, findings)
}

fn presenter(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Presenter> {
    let mut fields = Fields::of(node, "a presenter", findings)?;
    let peer = fields.required("peer", findings).and_then(|node| {
        let pattern = scalars::id_pattern(node, findings)?;
        own_domain(node, pattern.trust_domain().as_str(), known, findings).then_some(pattern)
    });
    let to = fields.required("to", findings).and_then(|node| scalars::template(node, findings));
    fields.finish(findings);
    Some(Presenter { peer: peer?, to: to? })
}

/// Whether this is the mesh's own trust domain.
pub(super) fn own_domain(
    node: &Node,
    domain: &str,
    known: &Known,
    findings: &mut Findings<'_>,
) -> bool {
    match &known.trust_domain {
        Some(own) if own.as_str() != domain => {
            let message =
                format!("trust domain `{domain}` is not this mesh's own, `{}`", own.as_str());
            findings.error("E005", node.span, message);
            false
        }
        _ => true,
    }
}

fn cidr_sets(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, Vec<IpNet>> {
    let mut sets = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`cidrSets` must be a mapping of names to lists");
        return sets;
    };
    for (key, value) in entries {
        let nets: Vec<IpNet> = read::filled_list(Some(value), findings)
            .iter()
            .filter_map(|item| scalars::cidr(item, findings))
            .collect();
        known.cidr_sets.insert(key.text.clone(), key.span);
        sets.insert(key.text.clone(), nets);
    }
    sets
}

fn calendars(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, Vec<Date>> {
    let mut calendars = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error("E013", node.span, "`calendars` must be a mapping of names to lists");
        return calendars;
    };
    for (key, value) in entries {
        let mut dates: Vec<Date> = read::filled_list(Some(value), findings)
            .iter()
            .filter_map(|item| date(item, findings))
            .collect();
        dates.sort();
        known.calendars.insert(key.text.clone(), (key.span, dates.clone()));
        calendars.insert(key.text.clone(), dates);
    }
    calendars
}

fn date(node: &Node, findings: &mut Findings<'_>) -> Option<Date> {
    let text = read::string(node, findings)?;
    let date = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
    if date.is_none() {
        findings
            .error("E006", node.span, format!("`{text}` is not a date"))
            .hint("write \"YYYY-MM-DD\"");
    }
    date
}

fn audit(node: &Node, findings: &mut Findings<'_>) -> Option<OnAuditFull> {
    let mut fields = Fields::of(node, "audit", findings)?;
    let modes = [("gap", OnAuditFull::Gap), ("refuse", OnAuditFull::Refuse)];
    let on_full = fields.optional("onFull").and_then(|node| read::one_of(node, &modes, findings));
    for later in ["sinks", "pseudonyms", "checkpointEvery"] {
        fields.not_yet(later, findings);
    }
    fields.finish(findings);
    on_full
}
