//! Reads what a `ContextPolicy` says of devices and of proxies that vouch.

use super::{
    known::{Known, KnownAttributes, KnownProvider},
    matchers, scalars,
};
use crate::{
    doc::{
        CertificateName, ClaimType, DeviceRules, DeviceSource, FactType, HeaderGroups,
        VouchingProxy,
    },
    yaml::{Fields, Findings, Node, read},
};

const SOURCES_MAX: usize = 8;
const PROXIES_MAX: usize = 16;
const GROUPS_MAX: usize = 256;

/// `proxies`.
pub(super) fn proxies(
    node: Option<&Node>,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Vec<VouchingProxy> {
    let items = read::filled_list(node, findings);
    if let (Some(node), true) = (node, items.len() > PROXIES_MAX) {
        findings.error("E017", node.span, format!("more than {PROXIES_MAX} proxies"));
    }
    let mut out: Vec<VouchingProxy> = Vec::new();
    for item in items {
        let Some(proxy) = proxy(item, known, findings) else { continue };
        if out.iter().any(|own| own.name == proxy.name) {
            let message = format!("there are two proxies `{}`", proxy.name);
            findings.error("E019", item.span, message);
        }
        known.proxies.insert(proxy.name.clone());
        out.push(proxy);
    }
    out
}

fn proxy(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> Option<VouchingProxy> {
    let mut fields = Fields::of(node, "a proxy", findings)?;
    let name = fields.required("name", findings);
    let name = name.and_then(|node| scalars::dns_label(node, findings));
    let certificate = fields.required("clientCertificate", findings);
    let groups_node = fields.optional("groups");
    fields.finish(findings);
    let mut fields = Fields::of(certificate?, "clientCertificate", findings)?;
    let bundle = fields.required("trustBundle", findings);
    let trust_bundle = bundle.and_then(|node| read::short_string(node, 64, findings));
    let dns_node = fields.required("dns", findings);
    fields.finish(findings);
    let dns = read::strings(dns_node, 253, findings);
    for node in read::list(dns_node, findings) {
        let text = node.text().unwrap_or_default();
        if text.contains('*') || text != text.to_ascii_lowercase() {
            let message = format!("`{text}` is not one DNS name in lower case");
            findings.error("E013", node.span, message).hint("list the names of your proxies");
        }
    }
    let groups = groups_node.and_then(|node| groups(node, known, findings));
    if groups_node.is_some() && groups.is_none() {
        return None;
    }
    Some(VouchingProxy { name: name?, trust_bundle: trust_bundle?, dns, groups })
}

fn groups(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> Option<HeaderGroups> {
    let mut fields = Fields::of(node, "groups", findings)?;
    let name = fields.required("header", findings).and_then(|node| header(node, findings));
    let keep_node = fields.required("keep", findings);
    let keep = read::strings(keep_node, 64, findings);
    fields.finish(findings);
    if let (Some(node), true) = (keep_node, keep.len() > GROUPS_MAX) {
        findings.error("E017", node.span, format!("more than {GROUPS_MAX} groups"));
    }
    known.outside_groups.extend(keep.iter().cloned());
    Some(HeaderGroups { header: name?, keep })
}

/// A header that carries a fact. What other parts of a request mean is no such header.
fn header(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    const TAKEN: &[&str] =
        &["authorization", "cookie", "host", "forwarded", "x-forwarded-for", "dpop"];
    let name = read::short_string(node, 64, findings)?.to_ascii_lowercase().replace('_', "-");
    let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !token {
        findings.error("E013", node.span, format!("{} is not a header name", node.describe()));
        return None;
    }
    let taken = matchers::is_mesh_header(&name)
        || name.starts_with("txn-")
        || TAKEN.contains(&&*name)
        || name.starts_with("content-")
        || name.starts_with("proxy-")
        || matches!(&*name, "connection" | "transfer-encoding" | "te" | "upgrade" | "trailer");
    if taken {
        findings
            .error("E010", node.span, format!("header {} cannot carry a fact", node.describe()))
            .hint("name a header of its own, such as `X-Device-Id`");
        return None;
    }
    Some(name)
}

/// `device`.
pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<DeviceRules> {
    let mut fields = Fields::of(node, "device", findings)?;
    let sources_node = fields.required("sources", findings);
    let validate_node = fields.optional("validate");
    fields.finish(findings);
    let items = read::filled_list(sources_node, findings);
    if let (Some(node), true) = (sources_node, items.len() > SOURCES_MAX) {
        findings.error("E017", node.span, format!("more than {SOURCES_MAX} sources"));
    }
    let sources = items.iter().filter_map(|item| source(item, known, findings)).collect();
    let validate = validate_node.and_then(|node| {
        let (name, facts) = validator(node, known, findings)?;
        for (fact, kind) in facts {
            let wanted = match fact.as_str() {
                "managed" => Some(FactType::Bool),
                "tier" => Some(FactType::String),
                "at" => Some(FactType::Int),
                _ => None,
            };
            if wanted != Some(*kind) {
                let message = format!("fact `{fact}` of `{name}` is none a device has");
                findings
                    .error("E013", node.span, message)
                    .hint("a device has `managed: bool`, `tier: string` and `at: int`");
            }
        }
        Some(name)
    });
    Some(DeviceRules { sources, validate })
}

/// The name of an `AttributeProvider` that checks, and its facts.
pub(super) fn validator<'k>(
    node: &Node,
    known: &'k Known,
    findings: &mut Findings<'_>,
) -> Option<(String, &'k std::collections::BTreeMap<String, FactType>)> {
    let name = read::string(node, findings)?;
    let span = |one: &KnownAttributes| one.span;
    let what = "AttributeProvider";
    Known::check(node, &name, what, &known.attributes, span, findings);
    let declared = known.attributes.get(&name)?;
    match &declared.facts {
        Some(facts) => Some((name, facts)),
        None => {
            // A provider that could not be read was reported where it stands.
            if declared.groups.is_some() {
                let message =
                    format!("`{name}` is a directory: it knows groups and checks nothing");
                findings.error("E005", node.span, message).hint("name one with `authzen`");
            }
            None
        }
    }
}

fn source(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> Option<DeviceSource> {
    let mut fields = Fields::of(node, "a source", findings)?;
    let certificate = fields.optional("clientCertificate");
    let header = fields.optional("header");
    let claim = fields.optional("claim");
    let span = fields.span();
    fields.finish(findings);
    match (certificate, header, claim) {
        (Some(node), None, None) => self::certificate(node, findings),
        (None, Some(node), None) => by_header(node, known, findings),
        (None, None, Some(node)) => by_claim(node, known, findings),
        _ => {
            findings.error(
                "E013",
                span,
                "a source is one of `clientCertificate`, `header`, `claim`",
            );
            None
        }
    }
}

fn certificate(node: &Node, findings: &mut Findings<'_>) -> Option<DeviceSource> {
    let mut fields = Fields::of(node, "clientCertificate", findings)?;
    let bundle = fields.required("trustBundle", findings);
    let trust_bundle = bundle.and_then(|node| read::short_string(node, 64, findings));
    let id = match fields.optional("id") {
        Some(node) => read::one_of(node, CertificateName::ALL, findings),
        None => Some(CertificateName::CommonName),
    };
    let tier = fields.optional("tier").and_then(|node| read::short_string(node, 64, findings));
    let managed = fields.optional("managed").and_then(|node| read::boolean(node, findings));
    fields.finish(findings);
    Some(DeviceSource::ClientCertificate { trust_bundle: trust_bundle?, id: id?, tier, managed })
}

fn by_header(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<DeviceSource> {
    let mut fields = Fields::of(node, "header", findings)?;
    let proxy_node = fields.required("proxy", findings);
    let proxy = proxy_node.and_then(|node| read::string(node, findings));
    let id = fields.required("id", findings).and_then(|node| header(node, findings));
    let mut optional = |name| fields.optional(name).and_then(|node| header(node, findings));
    let (tier, managed, at) = (optional("tier"), optional("managed"), optional("at"));
    fields.finish(findings);
    if let (Some(node), Some(proxy)) = (proxy_node, &proxy)
        && !known.proxies.contains(proxy)
    {
        let message = format!("proxy `{proxy}` is not in `proxies` of this ContextPolicy");
        findings
            .error("E005", node.span, message)
            .hint("a header counts only from a proxy that proves who it is; add it to `proxies`");
    }
    Some(DeviceSource::Header { proxy: proxy?, id: id?, tier, managed, at })
}

fn by_claim(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<DeviceSource> {
    let mut fields = Fields::of(node, "claim", findings)?;
    let provider_node = fields.required("provider", findings);
    let provider = provider_node.and_then(|node| read::string(node, findings));
    let (id, tier) = (fields.required("name", findings), fields.optional("tier"));
    let managed = fields.optional("managed");
    fields.finish(findings);
    let (node, provider) = (provider_node?, provider?);
    let span = |one: &KnownProvider| one.span;
    Known::check(node, &provider, "IdentityProvider", &known.providers, span, findings);
    let declared = known.providers.get(&provider);
    let mut claim = |node: Option<&Node>, wanted: ClaimType, what: &str| {
        let node = node?;
        let name = read::short_string(node, 64, findings)?;
        if let Some(declared) = declared.filter(|declared| !declared.claims.is_empty())
            && declared.claim_type(&name) != Some(wanted)
        {
            let message = format!("`{provider}` declares no claim `{name}` that is {what}");
            findings.error("E002", node.span, message);
        }
        Some(name)
    };
    let id = claim(id, ClaimType::String, "a string");
    let tier = claim(tier, ClaimType::String, "a string");
    let managed = claim(managed, ClaimType::Bool, "a bool");
    Some(DeviceSource::Claim { provider, id: id?, tier, managed })
}
