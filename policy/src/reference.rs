//! The slow, obvious evaluator that the compiled one is compared with. Tests only.
//!
//! It walks every rule of every policy in name order and asks each condition directly: no index,
//! no bit sets, no memo, no shared atoms.

use crate::{
    DenyReason, Documents, Input, Outcome, Protocol, Workload,
    compile::selected,
    decision::ResourceName,
    doc::{AccessPolicy, Atom, ContextNeed, Effect, ProtocolMatch, Rule},
    eval::{self, BoundAtom},
    tri::Tri,
};

/// The outcome and the deciding rule (of a denial for want of an allow: `None`).
pub(crate) fn decide(
    documents: &Documents,
    workload: &Workload,
    input: &Input<'_>,
) -> (Outcome, Option<String>) {
    let mut rules: Vec<(String, &AccessPolicy, &Rule)> = selected(documents, workload)
        .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
        .map(|(policy, rule)| {
            (format!("{}/{}/{}", policy.namespace, policy.name, rule.name), policy, rule)
        })
        .collect();
    rules.sort_by_key(|(_, policy, rule)| {
        (policy.namespace.clone(), policy.name.clone(), rule.name.clone())
    });
    let of = |effect: Effect| rules.iter().filter(move |(_, _, rule)| rule.effect == effect);
    for (id, policy, rule) in of(Effect::Deny) {
        let matched = matched(documents, policy, rule, input);
        let required = all(documents, policy, &rule.require, input);
        let mut excepted = Tri::False;
        for set in &rule.unless {
            excepted = excepted.or(all(documents, policy, set, input));
        }
        if matched.and(required).and(!excepted) != Tri::False {
            return (Outcome::Deny(DenyReason::DenyRule), Some(id.clone()));
        }
    }
    let mut reason = DenyReason::NoMatch;
    for (id, policy, rule) in of(Effect::Allow) {
        let matched = matched(documents, policy, rule, input);
        let required = all(documents, policy, &rule.require, input);
        if rule.context == ContextNeed::Required && input.context.is_none() {
            let free: Vec<Atom> = rule
                .require
                .iter()
                .filter(|atom| !bound(documents, policy, atom).needs_context())
                .cloned()
                .collect();
            if matched.and(all(documents, policy, &free, input)) == Tri::True {
                reason = DenyReason::TokenMissing;
            }
            continue;
        }
        let unbound: Vec<Atom> =
            rule.require.iter().filter(|atom| !matches!(atom, Atom::Params(_))).cloned().collect();
        let others = matched.and(all(documents, policy, &unbound, input));
        match matched.and(required) {
            Tri::False | Tri::Unknown if others == Tri::True => {
                if reason != DenyReason::TokenMissing {
                    reason = DenyReason::ParameterMismatch;
                }
            }
            Tri::True => return (Outcome::Allow, Some(id.clone())),
            Tri::Unknown if reason == DenyReason::NoMatch => reason = DenyReason::Unknown,
            Tri::Unknown | Tri::False => {}
        }
    }
    (Outcome::Deny(reason), None)
}

fn bound(documents: &Documents, policy: &AccessPolicy, atom: &Atom) -> BoundAtom {
    let nets = match atom {
        Atom::Source(source) => source
            .cidr_sets
            .iter()
            .flat_map(|name| documents.mesh.cidr_sets.get(name).cloned().unwrap_or_default())
            .collect(),
        _ => Vec::new(),
    };
    let resource = policy.resource.as_ref().map(|resource| {
        let owner = resource.owner.clone().map(|owner| (owner.template, owner.param));
        std::sync::Arc::new(ResourceName { kind: resource.kind.clone(), owner })
    });
    BoundAtom { atom: atom.clone(), nets, resource }
}

fn all(documents: &Documents, policy: &AccessPolicy, atoms: &[Atom], input: &Input<'_>) -> Tri {
    atoms.iter().fold(Tri::True, |sum, atom| sum.and(bound(documents, policy, atom).eval(input)))
}

fn matched(documents: &Documents, policy: &AccessPolicy, rule: &Rule, input: &Input<'_>) -> Tri {
    let own = &documents.mesh.trust_domain;
    let port = policy.ports.is_empty() || policy.ports.contains(&input.port);
    let caller = match &rule.matcher.caller {
        None => true,
        Some(wanted) => wanted.admits(input.caller, own),
    };
    let protocol = match (&rule.matcher.protocol, rule.effect, &input.request) {
        (None, _, _) => Tri::True,
        (Some(ProtocolMatch::Tcp), _, request) => Tri::from(request.is_none()),
        (Some(_), Effect::Allow, None) => Tri::False,
        (Some(_), Effect::Deny, None) => Tri::Unknown,
        (Some(ProtocolMatch::Grpc(grpc)), Effect::Allow, Some(request)) => Tri::from(
            request.method == "POST"
                && request.protocol == Protocol::Grpc
                && grpc.covers(request.path, Effect::Allow),
        ),
        (Some(ProtocolMatch::Grpc(grpc)), Effect::Deny, Some(request)) => {
            Tri::from(grpc.covers(request.path, Effect::Deny))
        }
        (Some(ProtocolMatch::Http(http)), effect, Some(request)) => {
            let method = http.methods.is_empty()
                || http.methods.iter().any(|own| match effect {
                    Effect::Allow => own == request.method,
                    Effect::Deny => own.eq_ignore_ascii_case(request.method),
                });
            let host = http.hosts.is_empty()
                || http.hosts.iter().any(|own| crate::host::covers(own, request.host, effect));
            let path = http.paths.is_empty()
                || http.paths.iter().any(|own| match effect {
                    Effect::Allow => own.matches_exactly(request.path),
                    Effect::Deny => own.matches_widely(request.path),
                });
            let headers = http.headers.iter().map(|header| eval::header(header, request));
            Tri::from(method && host && path).and(Tri::all(headers))
        }
    };
    Tri::from(port && caller).and(protocol)
}
