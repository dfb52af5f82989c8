//! One atom, one request: true, false or unknown.
//!
//! Absence is not unknown: without a user, "is it ann?" is false. Unknown is what should be
//! knowable and is not, such as a login time the token does not carry. Nothing here allocates
//! unless a path segment is percent-encoded.

use std::{net::IpAddr, sync::Arc};

use countersign_workload_id::WorkloadId;
use ipnet::IpNet;
use serde_json::Value;

use crate::{
    chain,
    decision::ResourceName,
    doc::{
        Atom,
        access::{
            ClaimValue, HeaderMatch, HeaderValues, JustificationAtom, SourceAt, SourceAtom,
            TokenAtom, UserAtom,
        },
    },
    facts,
    input::{ContextFacts, Input, Request, UserFacts},
    params,
    time::{EvaluateAt, Hours, TimeAtom},
    tri::Tri,
};

/// How far a login or a validation may lie ahead of this clock, milliseconds.
const SKEW_MS: i64 = 60_000;

/// An atom with its references resolved. Equal ones are one atom of the compiled policy.
#[derive(Clone, Debug)]
pub(crate) struct BoundAtom {
    pub(crate) atom: Atom,
    /// The addresses behind `cidrSets`.
    pub(crate) nets: Vec<IpNet>,
    /// The resource of the policy, for atoms that compare something with its owner.
    pub(crate) resource: Option<Arc<ResourceName>>,
}

impl BoundAtom {
    /// Whether it looks at the context token: such an atom says nothing when there is none.
    pub(crate) fn needs_context(&self) -> bool {
        match &self.atom {
            Atom::User(_) | Atom::UserAbsent | Atom::Token(_) => true,
            Atom::Justification(_) | Atom::Device(_) | Atom::Chain(_) | Atom::Params(_) => true,
            Atom::Source(source) => source.at == SourceAt::Origin,
            Atom::Time(time) => time.evaluate_at == EvaluateAt::Entry,
        }
    }

    /// Evaluates it.
    pub(crate) fn eval(&self, input: &Input<'_>) -> Tri {
        let context = input.context.as_ref();
        match &self.atom {
            Atom::User(atom) => self.user(atom, input),
            Atom::UserAbsent => {
                Tri::from(context.is_none_or(|facts| facts.origin != "user" && !facts.acting))
            }
            Atom::Source(atom) => self.source(atom, input),
            Atom::Time(atom) => match instant(atom, input).map(|instant| atom.at(instant)) {
                Some(Hours::Inside { .. }) => Tri::True,
                Some(Hours::Outside) => Tri::False,
                Some(Hours::OutOfRange) | None => Tri::Unknown,
            },
            Atom::Justification(atom) => self.justification(atom, input),
            Atom::Device(atom) => facts::device(atom, input),
            Atom::Token(atom) => context.map_or(Tri::False, |facts| token(atom, facts, input)),
            Atom::Chain(atom) => chain::eval(atom, input),
            Atom::Params(atom) => params::eval(atom, input),
        }
    }

    /// When a true atom stops being true by the passing of time, Unix milliseconds.
    pub(crate) fn true_until(&self, input: &Input<'_>) -> Option<i64> {
        let context = input.context.as_ref();
        let after = |since_s: Option<u64>, age_s: Option<u64>| {
            let (since, age) = (since_s?, age_s?);
            i64::try_from(since.saturating_add(age)).ok()?.checked_mul(1000)
        };
        match &self.atom {
            Atom::User(atom) => after(context?.user?.auth_time, atom.max_auth_age_s),
            Atom::Justification(atom) => after(context?.justification?.at, atom.max_age_s),
            Atom::Device(atom) => after(context?.device?.at, atom.max_posture_age_s),
            Atom::Token(atom) => after(Some(context?.issued_at), atom.max_age_s),
            Atom::Time(atom) if atom.evaluate_at == EvaluateAt::Now => {
                match atom.at(input.now_ms) {
                    Hours::Inside { until_ms } => Some(until_ms),
                    Hours::Outside | Hours::OutOfRange => None,
                }
            }
            Atom::Time(_)
            | Atom::Source(_)
            | Atom::UserAbsent
            | Atom::Chain(_)
            | Atom::Params(_) => None,
        }
    }

    fn user(&self, atom: &UserAtom, input: &Input<'_>) -> Tri {
        let Some(user) = input.context.as_ref().and_then(|facts| facts.user.as_ref()) else {
            return Tri::False;
        };
        let provider = Tri::of(user.provider.map(|own| own == atom.provider));
        if provider != Tri::True {
            return provider;
        }
        let ids = Tri::from(atom.ids.is_empty() || atom.ids.iter().any(|id| id == user.id));
        let auth_age = match atom.max_auth_age_s {
            None => Tri::True,
            Some(max) => young_enough(user.auth_time, max, input.now_ms),
        };
        let owner = if atom.is_resource_owner { self.owns(user, input) } else { Tri::True };
        let groups = groups(atom, user);
        let claims = Tri::all(atom.claims.iter().map(|(name, any_of)| claim(name, any_of, user)));
        Tri::all([ids, groups, claims, auth_age, owner])
    }

    fn owns(&self, user: &UserFacts<'_>, input: &Input<'_>) -> Tri {
        let owner = self
            .resource
            .as_ref()
            .and_then(|resource| resource.owner.as_ref())
            .zip(input.request)
            .and_then(|((template, param), request)| template.capture(param, request.path));
        Tri::of(user.account.zip(owner).map(|(account, owner)| account == owner))
    }

    fn justification(&self, atom: &JustificationAtom, input: &Input<'_>) -> Tri {
        let Some(given) = input.context.as_ref().and_then(|facts| facts.justification) else {
            return Tri::False;
        };
        let kind =
            Tri::from(atom.any_kind.is_empty() || atom.any_kind.iter().any(|k| k == given.kind));
        // Unchecked means that its validator could not be asked, not that it said no.
        let checked = if atom.checked && !given.checked { Tri::Unknown } else { Tri::True };
        let age = match atom.max_age_s {
            None => Tri::True,
            Some(max) => young_enough(given.at, max, input.now_ms),
        };
        let resource = self.resource.as_ref();
        let facts = atom.facts.iter();
        let facts =
            Tri::all(facts.map(|(name, test)| facts::fact(name, test, &given, resource, input)));
        Tri::all([kind, checked, age, facts])
    }

    fn source(&self, atom: &SourceAtom, input: &Input<'_>) -> Tri {
        let (ip, via) = match atom.at {
            SourceAt::Peer => (input.peer_ip, None),
            SourceAt::Origin => {
                let source = input.context.as_ref().and_then(|facts| facts.source);
                (source.map(|source| source.ip), source.map(|source| source.via))
            }
        };
        let Some(ip) = ip.map(|ip: IpAddr| ip.to_canonical()) else { return Tri::Unknown };
        let inside = atom.cidr_sets.is_empty() || self.nets.iter().any(|net| net.contains(&ip));
        let listed = atom.sources.is_empty()
            || via.is_some_and(|via| atom.sources.iter().any(|own| own == via));
        Tri::from(inside && listed)
    }
}

/// The instant a `time` atom looks at, Unix milliseconds.
pub(crate) fn instant(atom: &TimeAtom, input: &Input<'_>) -> Option<i64> {
    match atom.evaluate_at {
        EvaluateAt::Now => Some(input.now_ms),
        EvaluateAt::Entry => {
            i64::try_from(input.context.as_ref()?.issued_at).ok()?.checked_mul(1000)
        }
    }
}

/// Whether something that happened at `at_s` is at most `max_s` old.
pub(crate) fn young_enough(at_s: Option<u64>, max_s: u64, now_ms: i64) -> Tri {
    let age = at_s
        .and_then(|at| i64::try_from(at).ok()?.checked_mul(1000))
        .and_then(|at| now_ms.checked_sub(at))
        .filter(|age| *age >= -SKEW_MS);
    let max = i64::try_from(max_s).ok().and_then(|max| max.checked_mul(1000));
    Tri::of(age.zip(max).map(|(age, max)| age <= max))
}

fn groups(atom: &UserAtom, user: &UserFacts<'_>) -> Tri {
    if atom.any_group.is_empty() && atom.all_groups.is_empty() {
        return Tri::True;
    }
    let Some(groups) = user.groups else { return Tri::Unknown };
    let any = atom.any_group.is_empty() || atom.any_group.iter().any(|g| groups.contains(g));
    Tri::from(any && atom.all_groups.iter().all(|group| groups.contains(group)))
}

pub(crate) fn claim(name: &str, any_of: &[ClaimValue], user: &UserFacts<'_>) -> Tri {
    let Some(value) = user.claims.and_then(|claims| claims.get(name)) else {
        return Tri::Unknown;
    };
    let text =
        |wanted: &str| any_of.iter().any(|v| matches!(v, ClaimValue::Text(t) if t == wanted));
    match value {
        Value::String(own) => Tri::from(text(own)),
        Value::Array(items) => Tri::from(items.iter().filter_map(Value::as_str).any(text)),
        Value::Bool(own) => Tri::from(any_of.contains(&ClaimValue::Bool(*own))),
        Value::Number(own) => {
            Tri::of(own.as_i64().map(|own| any_of.contains(&ClaimValue::Int(own))))
        }
        Value::Null | Value::Object(_) => Tri::Unknown,
    }
}

fn token(atom: &TokenAtom, facts: &ContextFacts<'_>, input: &Input<'_>) -> Tri {
    let has = |scope: &String| facts.scope.contains(scope);
    let any = atom.any_scope.is_empty() || atom.any_scope.iter().any(has);
    let scopes = Tri::from(any && atom.all_scopes.iter().all(has));
    let origin =
        Tri::from(atom.origins.is_empty() || atom.origins.iter().any(|o| o == facts.origin));
    let age = match atom.max_age_s {
        None => Tri::True,
        Some(max) => young_enough(Some(facts.issued_at), max, input.now_ms),
    };
    let covered = |id: &WorkloadId| atom.services.iter().any(|pattern| pattern.matches(id));
    let service = Tri::from(atom.services.is_empty() || facts.service.is_some_and(covered));
    Tri::all([scopes, origin, service, age])
}

/// One header condition.
pub(crate) fn header(matcher: &HeaderMatch, request: &Request<'_>) -> Tri {
    let accepted = |value: &[u8]| matcher.any_of.iter().any(|own| own.as_bytes() == value);
    let (mut lines, mut commas) = (0usize, false);
    let (mut any, mut every) = (false, true);
    request.headers.each(&matcher.name, &mut |line| {
        lines += 1;
        commas |= line.contains(&b',');
        for value in line.split(|byte| *byte == b',') {
            let good = accepted(value.trim_ascii());
            any |= good;
            every &= good;
        }
    });
    match (matcher.values, lines) {
        (_, 0) => Tri::False,
        (HeaderValues::Single, 1) if !commas => Tri::from(any),
        (HeaderValues::Single, _) => Tri::Unknown,
        (HeaderValues::AnyValue, _) => Tri::from(any),
        (HeaderValues::EveryValue, _) => Tri::from(every),
    }
}
