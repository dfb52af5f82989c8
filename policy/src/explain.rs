//! Why a decision came out as it did: rule by rule, atom by atom, in sentences.
//!
//! Used by `countersign why` and by failing policy tests. It evaluates again, slowly, with the
//! same atom functions as the compiled form; the hot path records nothing but ids.

use std::fmt;

use serde::Serialize;

use crate::{
    compile::{Compiled, CompiledRule},
    decision::{Decision, Outcome},
    doc::{CallerMatch, ContextNeed, Effect, ProtocolMatch},
    input::{Caller, Input, Protocol, Request},
    sentence,
    tri::Tri,
};

/// The whole story of one decision.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// On a denial: `deny_rule`, `no_match`, `unknown`, `token_missing` or `parameter_mismatch`.
    pub reason: Option<&'static str>,
    /// `namespace/policy/rule` of the deciding rule, or of the closest one.
    pub rule: Option<String>,
    /// How many atoms of the closest rule were not true.
    pub atoms_short: Option<usize>,
    /// Text for in-mesh callers.
    pub message: Option<String>,
    /// What is accessed, such as `user`.
    pub resource: Option<String>,
    /// Who owns it.
    pub owner: Option<String>,
    /// Every rule of the workload, deny rules first.
    pub rules: Vec<RuleTrace>,
}

/// How one rule fared.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct RuleTrace {
    /// `allow` or `deny`.
    pub effect: &'static str,
    /// `namespace/policy`.
    pub policy: String,
    /// Name of the rule.
    pub rule: String,
    /// Where it is written: `file:line`.
    pub place: String,
    /// Why the rule does not speak about this request at all.
    pub not_a_candidate: Option<String>,
    /// `true`, `false` or `unknown`.
    pub result: &'static str,
    /// Its atoms, `match` first.
    pub atoms: Vec<AtomTrace>,
}

/// How one atom fared.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct AtomTrace {
    /// Such as `require.time`.
    pub id: String,
    /// `true`, `false` or `unknown`.
    pub result: &'static str,
    /// What was seen and what was wanted.
    pub sentence: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            write!(f, "{:<6} {}  {}", rule.effect, rule.policy, rule.rule)?;
            match &rule.not_a_candidate {
                Some(why) => writeln!(f, "    not a candidate: {why}")?,
                None => writeln!(f, "    {}", rule.place)?,
            }
            for atom in &rule.atoms {
                let result = match atom.result {
                    "false" => "FALSE",
                    "unknown" => "UNKNOWN",
                    other => other,
                };
                writeln!(f, "   {result:<8} {:<22} {}", atom.id, atom.sentence)?;
            }
        }
        if let (Some(rule), Some(short)) = (&self.rule, self.atoms_short) {
            let atoms = if short == 1 { "atom" } else { "atoms" };
            writeln!(f, "closest: {rule}, {short} {atoms} short")?;
        }
        if let Some(message) = &self.message {
            writeln!(f, "message shown to the caller: {message}")?;
        }
        Ok(())
    }
}

/// Tells the story of a decision that was made on this input.
pub(crate) fn explain(compiled: &Compiled, input: &Input<'_>, decision: &Decision) -> Explanation {
    let reason = match decision.outcome {
        Outcome::Allow => None,
        Outcome::Deny(reason) => Some(reason.as_str()),
    };
    let rules: Vec<RuleTrace> =
        compiled.rules.iter().map(|rule| trace(compiled, rule, input)).collect();
    let deciding = decision.rule.as_ref().and_then(|name| {
        let policy = format!("{}/{}", name.namespace, name.policy);
        rules.iter().find(|trace| trace.policy == policy && trace.rule == name.rule)
    });
    let short = |trace: &RuleTrace| trace.atoms.iter().filter(|a| a.result != "true").count();
    let failed = matches!(decision.outcome, Outcome::Deny(why) if why.as_str() != "deny_rule");
    Explanation {
        decision: if decision.is_allow() { "allow" } else { "deny" },
        reason,
        rule: decision.rule.as_ref().map(ToString::to_string),
        atoms_short: deciding.filter(|_| failed).map(short),
        message: decision.message.as_ref().map(ToString::to_string),
        resource: decision.resource.as_ref().map(|resource| resource.kind().to_owned()),
        owner: input
            .request
            .and_then(|request| decision.resource_owner(request.path))
            .map(|owner| owner.into_owned()),
        rules,
    }
}

fn trace(compiled: &Compiled, rule: &CompiledRule, input: &Input<'_>) -> RuleTrace {
    let mut out = RuleTrace {
        effect: match rule.rule.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        },
        policy: format!("{}/{}", rule.name.namespace, rule.name.policy),
        rule: rule.name.rule.clone(),
        place: format!("{}:{}", rule.name.place.file, rule.name.place.line),
        not_a_candidate: not_about(rule, input),
        result: "false",
        atoms: Vec::new(),
    };
    if out.not_a_candidate.is_some() {
        return out;
    }
    let matched = rule.matches(input);
    let mut result = matched;
    if rule.rule.matcher.caller.is_some() {
        out.atoms.push(atom("match.caller", Tri::True, caller_name(input.caller)));
    }
    if let Some(protocol) = &rule.rule.matcher.protocol {
        let id = match protocol {
            ProtocolMatch::Http(_) => "match.http",
            ProtocolMatch::Grpc(_) => "match.grpc",
            ProtocolMatch::Tcp => "match.tcp",
        };
        out.atoms.push(atom(id, matched, sentence::request(protocol, input)));
    }
    if rule.rule.effect == Effect::Allow && rule.rule.context == ContextNeed::Required {
        let given = Tri::from(input.context.is_some());
        result = result.and(given);
        if given != Tri::True {
            let text = "no context token came with the request, and the rule needs one";
            out.atoms.push(atom("context", given, text.to_owned()));
        }
    }
    for id in &rule.require {
        let Some(bound) = compiled.atoms.get(*id) else { continue };
        let value = bound.eval(input);
        result = result.and(value);
        let id = format!("require.{}", bound.atom.key());
        out.atoms.push(atom(&id, value, sentence::atom(bound, input)));
    }
    let mut excepted = Tri::False;
    for (entry, set) in rule.unless.iter().enumerate() {
        let mut whole = Tri::True;
        for id in set {
            let Some(bound) = compiled.atoms.get(*id) else { continue };
            let value = bound.eval(input);
            whole = whole.and(value);
            let id = format!("unless[{entry}].{}", bound.atom.key());
            out.atoms.push(atom(&id, value, sentence::atom(bound, input)));
        }
        excepted = excepted.or(whole);
    }
    out.result = result.and(!excepted).as_str();
    out
}

fn atom(id: &str, result: Tri, sentence: String) -> AtomTrace {
    AtomTrace { id: id.to_owned(), result: result.as_str(), sentence }
}

/// Why a rule does not speak about a request: port, caller, path, method or host.
fn not_about(rule: &CompiledRule, input: &Input<'_>) -> Option<String> {
    if !rule.is_for_port(input.port) {
        let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
        return Some(format!(
            "the request is to port {}, rule names {}",
            input.port,
            ports.join(", ")
        ));
    }
    if let Some(wanted) = &rule.rule.matcher.caller
        && !wanted.admits(input.caller, &rule.own_domain)
    {
        let named = match wanted {
            CallerMatch::AnyOf(ids) => {
                let short = ids.iter().take(4).map(sentence::workload);
                let more = if ids.len() > 4 { ", …" } else { "" };
                format!("rule names {}{more}", short.collect::<Vec<_>>().join(", "))
            }
            CallerMatch::AnyInMesh => "rule is for workloads of the own mesh".to_owned(),
            CallerMatch::Unauthenticated => "rule is for callers without identity".to_owned(),
        };
        return Some(format!("caller is {}, {named}", caller_short(input.caller)));
    }
    match &input.request {
        Some(request) => not_about_request(rule, request),
        None => {
            let about_requests = matches!(
                rule.rule.matcher.protocol,
                Some(ProtocolMatch::Http(_) | ProtocolMatch::Grpc(_))
            );
            (rule.rule.effect == Effect::Allow && about_requests)
                .then(|| "the connection is opaque, rule is about requests".to_owned())
        }
    }
}

/// Path, method or host.
fn not_about_request(rule: &CompiledRule, request: &Request<'_>) -> Option<String> {
    let exact = rule.rule.effect == Effect::Allow;
    let path = request.path;
    match &rule.rule.matcher.protocol {
        None => None,
        Some(ProtocolMatch::Tcp) => {
            Some("this is a request, rule is about opaque connections".to_owned())
        }
        Some(ProtocolMatch::Http(http)) => {
            let given = http.paths.iter().any(|pattern| match exact {
                true => pattern.matches_exactly(path),
                false => pattern.matches_widely(path),
            });
            if !http.paths.is_empty() && !given {
                let routes: Vec<String> =
                    http.paths.iter().take(4).map(|pattern| pattern.route().to_string()).collect();
                return Some(format!("path is {}, rule names {}", path.path(), routes.join(", ")));
            }
            if rule.method_or_host_differs(request) {
                let (method, host) = (request.method, request.host);
                let methods = if http.methods.is_empty() {
                    "any method".to_owned()
                } else {
                    http.methods.join(", ")
                };
                let hosts = if http.hosts.is_empty() {
                    "any host".to_owned()
                } else {
                    http.hosts.join(", ")
                };
                return Some(format!(
                    "request is {method} at {host}, rule names {methods} at {hosts}"
                ));
            }
            None
        }
        Some(ProtocolMatch::Grpc(grpc)) => {
            if !grpc.covers(path, rule.rule.effect) {
                let methods =
                    if grpc.methods.is_empty() { "*".to_owned() } else { grpc.methods.join(", ") };
                return Some(format!(
                    "path is {}, rule names {}/{methods}",
                    path.path(),
                    grpc.service
                ));
            }
            let is_grpc = request.protocol == Protocol::Grpc && request.method == "POST";
            (exact && !is_grpc).then(|| "the request is not a gRPC call".to_owned())
        }
    }
}

fn caller_name(caller: Caller<'_>) -> String {
    match caller {
        Caller::Mesh(id) => id.as_str().to_owned(),
        Caller::Unauthenticated(why) => format!("not authenticated ({why})"),
    }
}

fn caller_short(caller: Caller<'_>) -> String {
    match caller {
        Caller::Mesh(id) => sentence::workload(id),
        Caller::Unauthenticated(why) => format!("not authenticated ({why})"),
    }
}
