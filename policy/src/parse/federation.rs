//! Reads `MeshConfig.federation`. Nothing is inferred: domain, URL, profile and the endpoint's
//! identity are all written, and exactly one way to the bundle is.

use std::collections::BTreeMap;

use countersign_workload_id::TrustDomain;

use super::{destination::tls_roots, known::Known, mesh, scalars};
use crate::{
    doc::{
        BundleEndpoint, EndpointProfile, FederatedBundle, FederatedDomain, FileRef, ForeignContext,
        TlsRoots,
    },
    yaml::{Fields, Findings, Node, Value, read},
};

/// Federated domains of one mesh; each has its own bundle and its own fetches.
const DOMAINS_MAX: usize = 32;
/// A bundle is dropped when it was not confirmed for this long (`identity.md` §10).
const MAX_STALE_S: u64 = 24 * 3600;

const WAYS: &str =
    "write `{source: true}`, `{file: partner.json}` or `{endpoint: {url: …, profile: https_web}}`";

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Vec<FederatedDomain> {
    let items = read::filled_list(Some(node), findings);
    if items.len() > DOMAINS_MAX {
        let message = format!("more than {DOMAINS_MAX} federated trust domains");
        findings.error("E017", node.span, message);
    }
    items.iter().filter_map(|node| entry(node, known, findings)).collect()
}

fn entry(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> Option<FederatedDomain> {
    let mut fields = Fields::of(node, "a federated trust domain", findings)?;
    let named = fields.required("trustDomain", findings);
    let bundle = fields.required("bundle", findings);
    let context = fields.optional("context");
    fields.finish(findings);
    let named = named?;
    let trust_domain = scalars::trust_domain(named, findings)?;
    if known.trust_domain.as_ref() == Some(&trust_domain) {
        let message = format!("`{trust_domain}` is this mesh itself");
        findings
            .error("E013", named.span, message)
            .hint("its own bundle comes with its identities; name other trust domains here");
        return None;
    }
    if let Some(first) = known.federated.insert(trust_domain.clone(), named.span) {
        let place = findings.place(first);
        let message = format!("trust domain `{trust_domain}` is federated with twice");
        findings
            .error("E019", named.span, message)
            .hint(format!("the first one is at {}:{}", place.file, place.line));
    }
    let bundle = self::bundle(bundle?, &trust_domain, findings)?;
    let context = context.map(|node| self::context(node, &trust_domain, known, findings));
    Some(FederatedDomain { trust_domain, bundle, context: context.unwrap_or_default() })
}

/// What of request context crosses to and from this domain.
fn context(
    node: &Node,
    domain: &TrustDomain,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> ForeignContext {
    let mut out = ForeignContext::default();
    let Some(mut fields) = Fields::of(node, "`context`", findings) else { return out };
    let issuers = fields.optional("issuers");
    let maps = fields.optional("mapsTo");
    let hand_over = fields.optional("handOver");
    fields.finish(findings);
    for node in read::filled_list(issuers, findings) {
        out.issuers.extend(mesh::issuer_of(node, Some(domain), known, findings));
    }
    if let Some(node) = maps {
        out.scopes = scopes(node, findings);
    }
    out.hand_over = hand_over.and_then(|node| read::boolean(node, findings)).unwrap_or(false);
    match (issuers, maps) {
        (Some(node), None) => {
            let message =
                "nothing says what their scopes mean here, so no token of theirs would do";
            findings
                .error("E013", node.span, message)
                .hint("add `mapsTo: {their.scope: [our.scope]}`");
        }
        (None, Some(node)) => {
            let message = "nobody's tokens are taken, so there is nothing to map";
            findings
                .error("E013", node.span, message)
                .hint("add `issuers: [{id: …, keys: x5c, allow: …}]`");
        }
        _ => {}
    }
    out
}

/// `mapsTo`: names of theirs, each with names of ours.
fn scopes(node: &Node, findings: &mut Findings<'_>) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let Value::Map(entries) = &node.value else {
        findings.error(
            "E013",
            node.span,
            "`mapsTo` must be a mapping of scopes to lists of scopes",
        );
        return all;
    };
    for (key, value) in entries {
        let ours = read::strings(Some(value), scalars::TEXT_BYTES_MAX, findings);
        if key.text.contains('*') || ours.iter().any(|name| name.contains('*') || name.is_empty()) {
            let message = "scopes are mapped one by one, by whole names";
            findings.error("E013", value.span, message);
        }
        all.insert(key.text.clone(), ours);
    }
    all
}

fn bundle(
    node: &Node,
    domain: &TrustDomain,
    findings: &mut Findings<'_>,
) -> Option<FederatedBundle> {
    let mut fields = Fields::of(node, "bundle", findings)?;
    let source = fields.optional("source");
    let file = fields.optional("file");
    let endpoint = fields.optional("endpoint");
    let span = fields.span();
    fields.finish(findings);
    match (source, file, endpoint) {
        (Some(node), None, None) => {
            read::only_true(node, "source", findings).map(|()| FederatedBundle::Source)
        }
        (None, Some(node), None) => scalars::file(node, findings).map(FederatedBundle::File),
        (None, None, Some(node)) => {
            self::endpoint(node, domain, findings).map(FederatedBundle::Endpoint)
        }
        (None, None, None) => {
            findings.error("E013", span, "nothing says where the bundle comes from").hint(WAYS);
            None
        }
        _ => {
            let message = "a bundle comes from one place, here are several";
            findings.error("E013", span, message).hint("keep `source`, `file` or `endpoint`");
            None
        }
    }
}

fn endpoint(
    node: &Node,
    domain: &TrustDomain,
    findings: &mut Findings<'_>,
) -> Option<BundleEndpoint> {
    let mut fields = Fields::of(node, "endpoint", findings)?;
    let url = fields.required("url", findings).and_then(|node| url(node, findings));
    let profile_node = fields.required("profile", findings);
    let roots = fields.optional("roots");
    let endpoint_id = fields.optional("endpointId");
    let initial = fields.optional("initialBundle");
    let redirects = fields.optional("redirects").and_then(|node| read::boolean(node, findings));
    let stale = fields.optional("maxStale").and_then(|node| max_stale(node, findings));
    fields.finish(findings);
    let profile_node = profile_node?;
    let words = [("https_web", true), ("https_spiffe", false)];
    let web = read::one_of(profile_node, &words, findings)?;
    let profile = match web {
        true => {
            not_with(web, &[("endpointId", endpoint_id), ("initialBundle", initial)], findings);
            let roots = roots.map_or(Some(TlsRoots::System), |node| tls_roots(node, findings));
            EndpointProfile::Web { roots: roots? }
        }
        false => {
            not_with(web, &[("roots", roots)], findings);
            spiffe(profile_node, endpoint_id, initial, domain, findings)?
        }
    };
    Some(BundleEndpoint {
        url: url?,
        profile,
        redirects: redirects.unwrap_or(true),
        max_stale_s: stale.unwrap_or(MAX_STALE_S),
    })
}

/// Fields that mean nothing under this profile.
fn not_with(web: bool, fields: &[(&str, Option<&Node>)], findings: &mut Findings<'_>) {
    let (profile, other) =
        if web { ("https_web", "https_spiffe") } else { ("https_spiffe", "https_web") };
    for (name, node) in fields {
        if let Some(node) = node {
            let message = format!("`{name}` means nothing under `profile: {profile}`");
            let hint = format!("remove it, or write `profile: {other}`");
            findings.error("E004", node.span, message).hint(hint);
        }
    }
}

fn spiffe(
    at: &Node,
    endpoint_id: Option<&Node>,
    initial: Option<&Node>,
    domain: &TrustDomain,
    findings: &mut Findings<'_>,
) -> Option<EndpointProfile> {
    for (name, node, example) in [
        ("endpointId", endpoint_id, format!("spiffe://{domain}/spire/server")),
        ("initialBundle", initial, format!("{{file: {domain}.json}}")),
    ] {
        if node.is_none() {
            findings
                .error("E013", at.span, format!("`profile: https_spiffe` needs `{name}`"))
                .hint(format!("as in `{name}: {example}`"));
        }
    }
    let initial_bundle = initial.and_then(|node| file_in(node, findings));
    let id_node = endpoint_id?;
    let endpoint_id = scalars::workload_id(id_node, findings)?;
    if endpoint_id.trust_domain() != domain {
        let message = format!("`{endpoint_id}` is not of the trust domain `{domain}`");
        findings
            .error("E005", id_node.span, message)
            .hint("the endpoint is authenticated with the bundle it serves; else use `https_web`");
        return None;
    }
    Some(EndpointProfile::Spiffe { endpoint_id, initial_bundle: initial_bundle? })
}

/// `{file: PATH}`.
fn file_in(node: &Node, findings: &mut Findings<'_>) -> Option<FileRef> {
    let mut fields = Fields::of(node, "initialBundle", findings)?;
    let file = fields.required("file", findings);
    fields.finish(findings);
    scalars::file(file?, findings)
}

/// `https`, a host, no user, no fragment.
fn url(node: &Node, findings: &mut Findings<'_>) -> Option<String> {
    let url = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let problem = if authority.is_empty() || authority.starts_with(':') {
        "is not an https URL"
    } else if authority.contains('@') {
        "names a user; bundles are public and fetched without credentials"
    } else if url.contains('#') {
        "has a fragment"
    } else if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has bytes that no URL has"
    } else {
        return Some(url);
    };
    findings
        .error("E013", node.span, format!("`{url}` {problem}"))
        .hint("as in `https://bundle.partner.example/`");
    None
}

/// At most the default: a bundle that nobody confirms must not live on.
fn max_stale(node: &Node, findings: &mut Findings<'_>) -> Option<u64> {
    let seconds = read::duration_s(node, findings)?;
    if (1..=MAX_STALE_S).contains(&seconds) {
        return Some(seconds);
    }
    let message = format!("maxStale is from 1s to 24h, not {seconds}s");
    findings.error("E013", node.span, message);
    None
}
