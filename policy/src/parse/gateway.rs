//! Reads `ContextPolicy`: what a gateway captures, demands and mints.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{binding, callers, device, groups, known::Known, matchers, scalars, token_service};
use crate::{
    doc::access::ParamSource,
    doc::{
        Callers, ClientAddress, ClientAddressFrom, ContextPolicy, ContextRole, DeviceRules,
        HttpMatch, JustificationKind, MintRule, RctxKey, Selector, TctxKey, TokenService,
        WhenMissing,
    },
    overlap,
    pattern::AnchoredPattern,
    yaml::{Fields, Findings, Node, Span, Value, read},
};

/// Most proxies of ours before a gateway.
const TRUSTED_HOPS_MAX: u64 = 16;
/// Most mint rules of one gateway.
const MINT_RULES_MAX: usize = 1000;

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<ContextPolicy> {
    let mut fields = Fields::of(node, "ContextPolicy", findings)?;
    let selector =
        fields.required("selector", findings).and_then(|node| scalars::selector(node, findings));
    let roles = [("gateway", ContextRole::Gateway), ("tokenService", ContextRole::TokenService)];
    let role = fields.required("role", findings);
    let role = role.and_then(|node| read::one_of(node, &roles, findings));
    let service = fields.optional("tokenService");
    let token_service = service.and_then(|node| token_service::read(node, known, findings));
    if role == Some(ContextRole::TokenService) {
        return alone(fields, selector, (service, token_service), known, findings);
    }
    let client_address = match fields.optional("clientAddress") {
        Some(node) => client_address(node, findings),
        None => Some(ClientAddress::peer()),
    };
    let callers_node = fields.optional("callers");
    let callers = callers_node.map(|node| callers::read(node, known, findings)).unwrap_or_default();
    let user_node = match callers_node {
        None => fields.required("user", findings),
        Some(_) => fields.optional("user"),
    };
    // A gateway for services alone names no provider of users.
    let user = match (user_node, callers_node) {
        (None, Some(_)) => Some((Vec::new(), WhenMissing::Refuse)),
        (node, _) => node.and_then(|node| user(node, known, findings)),
    };
    let providers = user.as_ref().map(|(providers, _)| providers.as_slice()).unwrap_or_default();
    let groups_from = user_node.and_then(|node| node.get("groupsFrom"));
    let groups_from = groups_from.and_then(|node| groups::read(node, providers, known, findings));
    let proxies = device::proxies(fields.optional("proxies"), known, findings);
    let device_node = fields.optional("device");
    let device = device_node.and_then(|node| device::read(node, known, findings));
    let justification = fields.optional("justification");
    let justification_kinds =
        justification.map(|node| justification_kinds(node, known, findings)).unwrap_or_default();
    let mint = mint(fields.required("mint", findings), findings);
    fields.finish(findings);
    let (user_providers, when_missing) = user?;
    Some(ContextPolicy {
        selector: selector?,
        client_address: client_address?,
        user_providers,
        when_missing,
        callers,
        groups_from,
        proxies,
        device: device.unwrap_or_default(),
        justification_kinds,
        mint,
        role: role?,
        token_service,
    })
}

/// `role: tokenService`: no request from outside ever comes here.
fn alone(
    mut fields: Fields<'_>,
    selector: Option<Selector>,
    (node, service): (Option<&Node>, Option<TokenService>),
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<ContextPolicy> {
    if node.is_none() {
        findings
            .error("E013", fields.span(), "`role: tokenService` needs `tokenService`")
            .hint("say who may ask for what: `tokenService: {requesters: […]}`");
    }
    let justification = fields.optional("justification");
    let justification_kinds =
        justification.map(|node| justification_kinds(node, known, findings)).unwrap_or_default();
    fields.finish(findings);
    Some(ContextPolicy {
        selector: selector?,
        role: ContextRole::TokenService,
        client_address: ClientAddress::peer(),
        user_providers: Vec::new(),
        when_missing: WhenMissing::Refuse,
        callers: Callers::default(),
        groups_from: None,
        proxies: Vec::new(),
        device: DeviceRules::default(),
        justification_kinds,
        mint: Vec::new(),
        token_service: Some(service?),
    })
}

fn client_address(node: &Node, findings: &mut Findings<'_>) -> Option<ClientAddress> {
    let mut fields = Fields::of(node, "clientAddress", findings)?;
    let hops_node = fields.optional("trustedHops");
    let hops = hops_node.and_then(|node| read::integer(node, 0, TRUSTED_HOPS_MAX, findings));
    let trusted_hops = usize::try_from(hops.unwrap_or(0)).unwrap_or(0);
    let proxies_node = fields.optional("trustedProxies");
    let trusted_proxies: Vec<IpNet> = read::filled_list(proxies_node, findings)
        .iter()
        .filter_map(|node| scalars::cidr(node, findings))
        .collect();
    // Halves that add up to everything count too.
    let everybody = IpNet::aggregate(&trusted_proxies).into_iter().find(|n| n.prefix_len() == 0);
    if let (Some(net), Some(node)) = (everybody, proxies_node) {
        findings
            .error("E009", node.span, format!("`{net}` would trust everybody to name the client"))
            .hint("list the addresses of your own proxies");
    }
    let sources = [
        ("x-forwarded-for", ClientAddressFrom::XForwardedFor),
        ("forwarded", ClientAddressFrom::Forwarded),
        ("proxy-protocol", ClientAddressFrom::ProxyProtocol),
        ("peer", ClientAddressFrom::Peer),
    ];
    let from =
        fields.required("from", findings).and_then(|node| read::one_of(node, &sources, findings));
    let span = fields.span();
    fields.finish(findings);
    let from = from?;
    let by_header = matches!(from, ClientAddressFrom::XForwardedFor | ClientAddressFrom::Forwarded);
    if by_header && (trusted_hops == 0 || trusted_proxies.is_empty()) {
        findings
            .error(
                "E013",
                span,
                "a client address from a header needs `trustedHops` and `trustedProxies`",
            )
            .hint("say how many proxies of yours stand before this gateway, and their addresses");
    }
    Some(ClientAddress { trusted_hops, trusted_proxies, from })
}

fn user(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<(Vec<String>, WhenMissing)> {
    let mut fields = Fields::of(node, "user", findings)?;
    let mut providers = Vec::new();
    for node in read::filled_list(fields.required("providers", findings), findings) {
        let Some(name) = read::string(node, findings) else { continue };
        Known::check(node, &name, "IdentityProvider", &known.providers, |p| p.span, findings);
        providers.push(name);
    }
    let modes = [("refuse", WhenMissing::Refuse), ("anonymous", WhenMissing::Anonymous)];
    let when_missing = fields
        .required("whenMissing", findings)
        .and_then(|node| read::one_of(node, &modes, findings));
    // Read by `groups`.
    fields.optional("groupsFrom");
    fields.finish(findings);
    Some((providers, when_missing?))
}

fn justification_kinds(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, JustificationKind> {
    let mut out = BTreeMap::new();
    let Some(mut fields) = Fields::of(node, "justification", findings) else { return out };
    if let Some(node) = fields.required("header", findings) {
        read::one_of(node, &[("Countersign-Justification", ())], findings);
    }
    let kinds = fields.required("kinds", findings);
    fields.finish(findings);
    let Some(Node { value: Value::Map(entries), .. }) = kinds else {
        if let Some(other) = kinds {
            findings.error("E013", other.span, "`kinds` must be a mapping of names to patterns");
        }
        return out;
    };
    for (key, value) in entries {
        let kind = justification_kind(value, known, findings);
        let validator = kind.as_ref().and_then(|kind| kind.validate.as_ref());
        let facts = validator.and_then(|name| known.attributes.get(name)?.facts.clone());
        let all = known.justification_kinds.entry(key.text.clone()).or_default();
        match (all, facts) {
            (Some(all), Some(facts)) => all.extend(facts),
            (all, facts) => *all = facts,
        }
        out.extend(kind.map(|kind| (key.text.clone(), kind)));
    }
    out
}

fn justification_kind(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<JustificationKind> {
    let mut fields = Fields::of(node, "a kind of justification", findings)?;
    let pattern = fields.required("pattern", findings);
    let validate_node = fields.optional("validate");
    fields.finish(findings);
    let validate = validate_node
        .and_then(|node| device::validator(node, known, findings))
        .map(|(name, _)| name);
    let node = pattern?;
    let text = read::short_string(node, scalars::TEXT_BYTES_MAX, findings)?;
    match AnchoredPattern::parse(&text) {
        Ok(pattern) => Some(JustificationKind { pattern, validate }),
        Err(why) => {
            findings.error("E014", node.span, format!("pattern `{text}`: {why}"));
            None
        }
    }
}

fn mint(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<MintRule> {
    let mut rules: Vec<(Span, MintRule)> = Vec::new();
    let items = read::filled_list(node, findings);
    if let (Some(node), true) = (node, items.len() > MINT_RULES_MAX) {
        findings.error("E017", node.span, format!("more than {MINT_RULES_MAX} mint rules"));
        return Vec::new();
    }
    for item in items {
        let Some(rule) = mint_rule(item, findings) else { continue };
        let clash = rules.iter().find(|(_, own)| overlap::requests(&own.matcher, &rule.matcher));
        if let Some((first, _)) = clash {
            let line = first.line;
            findings
                .error("E020", item.span, "a request could match this mint rule and an earlier one")
                .hint(format!(
                    "the earlier one is on line {line}; tell them apart by method, host or path"
                ));
        }
        rules.push((item.span, rule));
    }
    rules.into_iter().map(|(_, rule)| rule).collect()
}

fn mint_rule(node: &Node, findings: &mut Findings<'_>) -> Option<MintRule> {
    let mut fields = Fields::of(node, "a mint rule", findings)?;
    let matcher = fields.required("match", findings).and_then(|node| matched(node, findings));
    let scope = fields.required("scope", findings).map(|node| scope(node, findings));
    let emit_node = fields.optional("emit");
    let emit = emit_node.map(|node| emit(node, findings));
    fields.finish(findings);
    let (rctx, tctx, params) = match emit {
        Some(read) => read?,
        None => Default::default(),
    };
    let matcher = matcher?;
    if let Some(node) = emit_node {
        binding::check_mint(&matcher, &params, node, findings);
    }
    Some(MintRule { matcher, scope: scope?, rctx, tctx, params })
}

/// `match: {http: {…}}` or `match: {any: true}`.
fn matched(node: &Node, findings: &mut Findings<'_>) -> Option<HttpMatch> {
    let mut fields = Fields::of(node, "match", findings)?;
    let http = fields.optional("http");
    let any = fields.optional("any");
    let span = fields.span();
    fields.finish(findings);
    match (http, any) {
        (Some(node), None) => {
            let matcher = matchers::http(node, findings)?;
            if !matcher.headers.is_empty() {
                findings.error("E004", node.span, "a mint rule cannot match headers");
            }
            Some(matcher)
        }
        (None, Some(any)) => read::only_true(any, "any", findings).map(|()| HttpMatch::default()),
        _ => {
            findings
                .error("E001", span, "a mint rule needs `http` or `any`, and not both")
                .hint("match-all is spelled `{any: true}`");
            None
        }
    }
}

/// One name, or a list of names.
fn scope(node: &Node, findings: &mut Findings<'_>) -> Vec<String> {
    let names = match &node.value {
        Value::List(_) => read::strings(Some(node), 64, findings),
        Value::Scalar { .. } | Value::Map(_) => {
            read::short_string(node, 64, findings).into_iter().collect()
        }
    };
    let token =
        |name: &String| name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if !names.iter().all(token) {
        findings.error("E013", node.span, "a scope name has no spaces, quotes or backslashes");
    }
    if names.len() > 16 {
        findings.error("E017", node.span, "a token carries at most 16 scope names");
    }
    names
}

/// What `emit` names: keys of `rctx`, keys of `tctx`, parameters.
type Emitted = (Vec<RctxKey>, Vec<TctxKey>, Vec<(String, ParamSource)>);

fn emit(node: &Node, findings: &mut Findings<'_>) -> Option<Emitted> {
    let mut fields = Fields::of(node, "emit", findings)?;
    let rctx = keys(fields.optional("rctx"), RctxKey::ALL, &[], findings);
    let params_node = fields.optional("params");
    let later = ["deadline"];
    let tctx = keys(fields.optional("tctx"), TctxKey::ALL, &later, findings);
    fields.finish(findings);
    let params = match params_node {
        Some(node) => binding::params(node, findings)?,
        None => Vec::new(),
    };
    Some((rctx, tctx, params))
}

fn keys<T: Copy + PartialEq>(
    node: Option<&Node>,
    known: &[(&'static str, T)],
    later: &[&str],
    findings: &mut Findings<'_>,
) -> Vec<T> {
    let mut out = Vec::new();
    for item in read::list(node, findings) {
        if item.text().is_some_and(|text| later.contains(&text)) {
            findings.error("E013", item.span, format!("{} is not supported yet", item.describe()));
            continue;
        }
        match read::one_of(item, known, findings) {
            Some(key) if out.contains(&key) => {
                findings.error("E019", item.span, format!("{} stands here twice", item.describe()));
            }
            Some(key) => out.push(key),
            None => {}
        }
    }
    out
}
