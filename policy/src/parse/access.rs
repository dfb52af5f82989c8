//! Reads `AccessPolicy`, and checks what one rule's parts demand of each other.

use std::{collections::BTreeMap, sync::Arc};

use super::{atoms, binding, known::Known, matchers, scalars, shown};
use crate::{
    doc::{
        AccessPolicy, Atom, AuditLevel, CallerMatch, ContextNeed, Effect, Obligations, Place,
        ProtocolMatch, Resource, Rule,
        access::{OwnerFromPath, ParamSource},
    },
    yaml::{Fields, Findings, Node, Span, read},
};

/// Most rules of one set of documents.
pub(crate) const RULES_MAX: usize = 10_000;
/// Most atoms of one set of documents.
pub(crate) const ATOMS_MAX: usize = 16_384;
/// How long a stream may live unless its rule says otherwise, seconds.
const STREAM_AGE_S_DEFAULT: u64 = 3600;
/// Longest message of a rule.
const MESSAGE_BYTES_MAX: usize = 512;
/// Most entries of `unless`.
const UNLESS_MAX: usize = 64;

pub(super) fn read(
    node: &Node,
    namespace: String,
    name: String,
    place: Place,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<AccessPolicy> {
    let mut fields = Fields::of(node, "AccessPolicy", findings)?;
    let selector =
        fields.required("selector", findings).and_then(|node| scalars::selector(node, findings));
    let direction = fields.required("direction", findings);
    if let Some(node) = direction {
        match node.text() {
            Some("outbound") => {
                findings.error("E013", node.span, "`direction: outbound` is not supported yet");
            }
            _ => {
                read::one_of(node, &[("inbound", ())], findings);
            }
        }
    }
    let ports = read::filled_list(fields.optional("ports"), findings)
        .iter()
        .filter_map(|node| read::port(node, findings))
        .collect();
    if let Some(node) = fields.optional("mode") {
        if node.text() == Some("audit") {
            findings.error("E013", node.span, "`mode: audit` is not supported yet");
        } else {
            read::one_of(node, &[("enforce", ())], findings);
        }
    }
    let resource_node = fields.optional("resource");
    let resource = resource_node.and_then(|node| resource(node, findings));
    let rules_node = fields.required("rules", findings);
    fields.finish(findings);
    let written = resource_node.is_some_and(|node| node.get("owner").is_some());
    let understood = resource.as_ref().is_some_and(|resource| resource.owner.is_some());
    let mut reader = RuleReader {
        resource: resource.as_ref(),
        known,
        owner_faulty: written && !understood,
        zone: None,
        names: BTreeMap::new(),
    };
    let rules = read::filled_list(rules_node, findings)
        .iter()
        .filter_map(|node| reader.rule(node, findings))
        .collect();
    Some(AccessPolicy { namespace, name, place, selector: selector?, ports, resource, rules })
}

fn resource(node: &Node, findings: &mut Findings<'_>) -> Option<Resource> {
    let mut fields = Fields::of(node, "resource", findings)?;
    let kind = fields.required("type", findings);
    let owner = fields.optional("owner").and_then(|node| owner(node, findings));
    fields.not_yet("attributes", findings);
    fields.finish(findings);
    let kind = read::short_string(kind?, 64, findings)?;
    Some(Resource { kind: kind.into(), owner })
}

fn owner(node: &Node, findings: &mut Findings<'_>) -> Option<OwnerFromPath> {
    let mut fields = Fields::of(node, "owner", findings)?;
    let from_path = fields.required("fromPath", findings);
    fields.finish(findings);
    binding::from_path(from_path?, findings)
}

/// Reads the rules of one policy.
struct RuleReader<'r> {
    resource: Option<&'r Resource>,
    known: &'r Known,
    /// An owner is written, but was not understood: reported already.
    owner_faulty: bool,
    /// The first zone seen, for W113.
    zone: Option<String>,
    names: BTreeMap<String, Span>,
}

impl RuleReader<'_> {
    fn rule(&mut self, node: &Node, findings: &mut Findings<'_>) -> Option<Rule> {
        let mut fields = Fields::of(node, "a rule", findings)?;
        let name_node = fields.required("name", findings);
        let effect_node = fields.required("effect", findings);
        let match_node = fields.required("match", findings);
        let require_node = fields.optional("require");
        let unless_node = fields.optional("unless");
        let context_node = fields.optional("context");
        let claims_node = fields.optional("claims");
        let once_node = fields.optional("once");
        let obligations_node = fields.optional("obligations");
        let message_node = fields.optional("message");
        fields.not_yet("messageFor", findings);
        fields.finish(findings);

        let name = name_node.and_then(|node| self.name(node, findings));
        let effects = [("allow", Effect::Allow), ("deny", Effect::Deny)];
        let effect = effect_node.and_then(|node| read::one_of(node, &effects, findings));
        let matcher = match_node.and_then(|node| matchers::rule_match(node, self.known, findings));
        let require = match require_node {
            Some(node) => atoms::read(node, self.known, findings),
            None => Some(Vec::new()),
        };
        let unless = self.unless(unless_node, findings);
        let context = context_node.map(|node| context(node, findings));
        let claims = claims_node.map(|node| Arc::new(shown::read(node, findings)));
        let obligations = obligations_node.map(|node| obligations(node, findings));
        let message = message_node.and_then(|n| read::short_string(n, MESSAGE_BYTES_MAX, findings));

        let nodes = RuleNodes {
            rule: node,
            matcher: match_node,
            unless: unless_node,
            context: context_node,
            claims: claims_node,
            require: require_node,
            once: once_node,
        };
        match effect {
            Some(Effect::Allow) => check_allow(&nodes, findings),
            Some(Effect::Deny) => check_deny(&nodes, findings),
            None => {}
        }
        let is_tcp = matcher.as_ref().is_some_and(|m| m.protocol == Some(ProtocolMatch::Tcp));
        if is_tcp {
            check_tcp(&nodes, findings);
        }
        let rule = Rule {
            name: name?,
            place: findings.place(name_node?.span),
            effect: effect?,
            matcher: matcher?,
            require: require?,
            unless: unless?,
            context: context.unwrap_or(match is_tcp {
                true => ContextNeed::Optional,
                false => ContextNeed::Required,
            }),
            claims,
            once: once_node.is_some(),
            obligations: obligations.unwrap_or(Obligations {
                audit: AuditLevel::Normal,
                max_stream_age_s: STREAM_AGE_S_DEFAULT,
            }),
            message: message.map(Arc::from),
        };
        self.check(&rule, node, findings);
        Some(rule)
    }

    fn name(&mut self, node: &Node, findings: &mut Findings<'_>) -> Option<String> {
        let name = scalars::dns_label(node, findings)?;
        if let Some(first) = self.names.get(&name) {
            findings
                .error(
                    "E019",
                    node.span,
                    format!("there is already a rule `{name}` in this policy"),
                )
                .hint(format!("the first one is on line {}", first.line));
        }
        self.names.entry(name.clone()).or_insert(node.span);
        Some(name)
    }

    fn unless(&self, node: Option<&Node>, findings: &mut Findings<'_>) -> Option<Vec<Vec<Atom>>> {
        let items = read::filled_list(node, findings);
        if let (Some(node), true) = (node, items.len() > UNLESS_MAX) {
            findings.error("E017", node.span, format!("more than {UNLESS_MAX} entries"));
        }
        let sets: Vec<Option<Vec<Atom>>> =
            items.iter().map(|item| atoms::read(item, self.known, findings)).collect();
        sets.into_iter().collect()
    }

    /// What the parts of a rule demand of each other.
    fn check(&mut self, rule: &Rule, node: &Node, findings: &mut Findings<'_>) {
        let all = rule.require.iter().chain(rule.unless.iter().flatten());
        for atom in all {
            match atom {
                atom if atom.names_owner() => self.check_owner(rule, atom, node, findings),
                Atom::Params(params) => check_params(rule, &params.0, node, findings),
                Atom::Time(time) => self.check_zone(&time.zone_name, node, findings),
                _ => {}
            }
        }
        self.lint(rule, node, findings);
    }

    /// `isResourceOwner` and `equalsAttr: resource.owner` need an owner, and paths that name one.
    fn check_owner(&self, rule: &Rule, atom: &Atom, node: &Node, findings: &mut Findings<'_>) {
        let Some(owner) = self.resource.and_then(|resource| resource.owner.as_ref()) else {
            if self.owner_faulty {
                return;
            }
            let what = match atom {
                Atom::User(_) => "`isResourceOwner`",
                _ => "`equalsAttr: resource.owner`",
            };
            findings
                .error("E007", node.span, format!("{what} needs `resource.owner` in this policy"))
                .hint("add `resource: {type: user, owner: {fromPath: {template: …, param: …}}}`");
            return;
        };
        check_bound(rule, owner, "resource.owner", node, findings);
    }

    fn check_zone(&mut self, zone: &str, node: &Node, findings: &mut Findings<'_>) {
        match &self.zone {
            None => self.zone = Some(zone.to_owned()),
            Some(first) if first != zone => {
                let message = format!("this policy uses two time zones, `{first}` and `{zone}`");
                findings.warn("W113", node.span, message);
            }
            Some(_) => {}
        }
    }

    fn lint(&self, rule: &Rule, node: &Node, findings: &mut Findings<'_>) {
        if rule.effect != Effect::Allow {
            return;
        }
        let name = &rule.name;
        let owned = self.resource.is_some_and(|resource| resource.owner.is_some());
        let asks = rule.require.iter().any(|a| matches!(a, Atom::User(_) | Atom::UserAbsent));
        let covers = |owner: &OwnerFromPath| match &rule.matcher.protocol {
            Some(ProtocolMatch::Http(http)) => {
                http.paths.is_empty() || http.paths.iter().any(|path| binding::binds(path, owner))
            }
            Some(ProtocolMatch::Grpc(_)) | None => true,
            Some(ProtocolMatch::Tcp) => false,
        };
        let owner = self.resource.and_then(|resource| resource.owner.as_ref());
        if owned && !asks && owner.is_some_and(covers) {
            findings
                .warn("W107", node.span, format!("rule `{name}` grants a user's data without asking for a user"))
                .hint("resource.owner is set and there is no `user` atom: its callers may read any account");
        }
        match &rule.matcher.caller {
            Some(CallerMatch::AnyInMesh) => {
                let message = format!("rule `{name}` admits every workload of the mesh");
                findings.warn("W110", node.span, message);
            }
            Some(CallerMatch::Unauthenticated) => {
                let message = format!("rule `{name}` admits callers without a mesh identity");
                findings.warn("W114", node.span, message);
            }
            Some(CallerMatch::AnyOf(_)) | None => {}
        }
        if rule.context == ContextNeed::None {
            let message = format!("rule `{name}` hides the context: onward calls lose the user");
            findings.warn("W109", node.span, message);
        }
    }
}

/// Parameters from the path need paths that have them.
fn check_params(
    rule: &Rule,
    params: &[(String, ParamSource)],
    node: &Node,
    findings: &mut Findings<'_>,
) {
    for (name, source) in params {
        if let ParamSource::Path(place) = source {
            check_bound(rule, place, &format!("params.{name}"), node, findings);
        }
    }
}

/// Every path of a rule must name what is read from it.
fn check_bound(
    rule: &Rule,
    place: &OwnerFromPath,
    what: &str,
    node: &Node,
    findings: &mut Findings<'_>,
) {
    let effect = match rule.effect {
        Effect::Allow => "the rule could never allow",
        Effect::Deny => "the rule would deny every such request",
    };
    let unbound: Vec<String> = match &rule.matcher.protocol {
        Some(ProtocolMatch::Http(http)) if !http.paths.is_empty() => {
            let loose = http.paths.iter().filter(|path| !binding::binds(path, place));
            loose.map(|path| path.route().to_string()).collect()
        }
        Some(ProtocolMatch::Grpc(grpc)) => vec![format!("/{}", grpc.service)],
        Some(ProtocolMatch::Http(_)) | None => vec!["any path".to_owned()],
        // Reported by `check_tcp`.
        Some(ProtocolMatch::Tcp) => Vec::new(),
    };
    for path in unbound {
        let message = format!(
            "path `{path}` of rule `{}` has no `{{{}}}`, so `{what}` would be unknown and {effect}",
            rule.name, place.param
        );
        findings
            .error("E007", node.span, message)
            .hint(format!("use paths below `{}`", place.template));
    }
}

/// Where the parts of a rule are written.
struct RuleNodes<'n> {
    rule: &'n Node,
    matcher: Option<&'n Node>,
    unless: Option<&'n Node>,
    context: Option<&'n Node>,
    claims: Option<&'n Node>,
    require: Option<&'n Node>,
    once: Option<&'n Node>,
}

/// A rule about opaque connections cannot ask for what only requests have.
fn check_tcp(nodes: &RuleNodes<'_>, findings: &mut Findings<'_>) {
    if let Some(node) = nodes.context {
        findings
            .error("E004", node.span, "`context` has no meaning for opaque connections")
            .hint("remove it: a context token travels in requests only");
    }
    if let Some(node) = nodes.once {
        let message = "`once` has no meaning for opaque connections";
        findings.error("E004", node.span, message).hint("remove it: they carry no context token");
    }
    let unless = read::list(nodes.unless, findings).iter();
    for set in nodes.require.into_iter().chain(unless) {
        for (name, origin) in [
            ("user", None),
            ("justification", None),
            ("token", None),
            ("chain", None),
            ("params", None),
            ("source", Some(("at", "origin"))),
            ("time", Some(("evaluateAt", "entry"))),
        ] {
            let Some(node) = set.get(name) else { continue };
            let absent = node.get("absent").is_some();
            let needs = match origin {
                None => !absent,
                Some((field, word)) => node.get(field).and_then(Node::text) == Some(word),
            };
            if needs {
                let message =
                    format!("`{name}` needs a context token, and an opaque connection has none");
                findings
                    .error("E004", node.span, message)
                    .hint("ask for `caller`, `source: {at: peer}` or `time` instead");
            }
        }
    }
}

fn check_allow(nodes: &RuleNodes<'_>, findings: &mut Findings<'_>) {
    if let Some(node) = nodes.unless {
        findings
            .error("E016", node.span, "`unless` is for deny rules")
            .hint("an exception to an allow is a deny rule");
    }
    if let Some(node) = nodes.once {
        read::only_true(node, "once", findings);
        if nodes.context.and_then(Node::text).is_some_and(|need| need != "required") {
            findings
                .error("E013", node.span, "`once` needs `context: required`")
                .hint("what comes without a token cannot be told from what came before");
        }
    }
    let Some(matcher) = nodes.matcher else { return };
    if matcher.get("caller").is_none() {
        let name = nodes.rule.get("name").and_then(Node::text).unwrap_or_default();
        findings
            .error("E011", matcher.span, format!("allow rule `{name}` does not say who may call"))
            .hint("add `caller: {anyOf: [{namespace: …, serviceAccount: …}]}`");
    }
}

fn check_deny(nodes: &RuleNodes<'_>, findings: &mut Findings<'_>) {
    let allow_only = [("context", nodes.context), ("claims", nodes.claims), ("once", nodes.once)];
    for (name, node) in allow_only {
        if let Some(node) = node {
            findings
                .error("E013", node.span, format!("`{name}` has no meaning in a deny rule"))
                .hint("remove it");
        }
    }
}

fn context(node: &Node, findings: &mut Findings<'_>) -> ContextNeed {
    let needs = [
        ("required", ContextNeed::Required),
        ("optional", ContextNeed::Optional),
        ("none", ContextNeed::None),
    ];
    read::one_of(node, &needs, findings).unwrap_or(ContextNeed::Required)
}

fn obligations(node: &Node, findings: &mut Findings<'_>) -> Obligations {
    let mut out = Obligations { audit: AuditLevel::Normal, max_stream_age_s: STREAM_AGE_S_DEFAULT };
    let Some(mut fields) = Fields::of(node, "obligations", findings) else { return out };
    let levels = [
        ("full", AuditLevel::Full),
        ("normal", AuditLevel::Normal),
        ("counted", AuditLevel::Counted),
    ];
    if let Some(level) =
        fields.optional("audit").and_then(|node| read::one_of(node, &levels, findings))
    {
        out.audit = level;
    }
    if let Some(age) =
        fields.optional("maxStreamAge").and_then(|node| read::duration_s(node, findings))
    {
        out.max_stream_age_s = age;
    }
    fields.not_yet("notify", findings);
    fields.finish(findings);
    out
}
