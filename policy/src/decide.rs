//! The decision: candidates in name order, each atom at most once, deny before allow.
//!
//! Invariant: a deny rule matches unless it is false; an allow rule needs true; nothing that goes
//! wrong in between permits. Takes no lock, does no I/O and, on an allow, does not allocate.

use std::sync::Arc;

use crate::{
    compile::{Compiled, CompiledRule},
    decision::{Decision, DenyReason, Outcome},
    doc::{Atom, AuditLevel, ContextNeed, Effect, ProtocolMatch},
    eval::{self, BoundAtom},
    explain::{self, Explanation},
    index::{self, WORDS_MAX},
    input::{HeaderLookup, Input, InputOwned, Protocol, Request},
    parse::ATOMS_MAX,
    tri::Tri,
};

const SMALL_WORDS: usize = 8;
const LARGE_WORDS: usize = ATOMS_MAX.div_ceil(32);

impl Compiled {
    /// Decides on one request or opaque connection.
    pub fn decide(&self, input: &Input<'_>) -> Decision {
        if self.atoms.len() <= SMALL_WORDS * 32 {
            self.decide_with(input, &mut Memo([0; SMALL_WORDS]))
        } else {
            self.decide_with(input, &mut Memo([0; LARGE_WORDS]))
        }
    }

    /// A copy of an input that can be explained later, with the headers the rules name.
    pub fn keep(&self, input: &Input<'_>) -> InputOwned {
        let kept = InputOwned::from(input);
        let Some(request) = &input.request else { return kept };
        kept.with_headers(self.headers.iter().map(String::as_str), request.headers)
    }

    /// The values of the headers that rules name; empty where no rule names any.
    pub fn named_headers(&self, headers: &dyn HeaderLookup) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        for name in &self.headers {
            headers.each(name, &mut |value| found.push((name.clone(), value.to_vec())));
        }
        found
    }

    /// Why [`Compiled::decide`] answers as it does.
    pub fn explain(&self, input: &Input<'_>) -> Explanation {
        explain::explain(self, input, &self.decide(input))
    }

    /// Whether some rule for this port looks into requests: then a connection on it whose bytes
    /// show no request must not pass as opaque.
    pub fn has_l7_rules(&self, port: u16) -> bool {
        self.l7_everywhere || self.l7_ports.contains(&port)
    }

    /// How many rules apply to the workload.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    fn decide_with<const WORDS: usize>(
        &self,
        input: &Input<'_>,
        memo: &mut Memo<WORDS>,
    ) -> Decision {
        let mut words = [0u64; WORDS_MAX];
        let candidates = self.index.candidates(input, &mut words);
        let mut closest = Closest { reason: DenyReason::NoMatch, rule: None, short: usize::MAX };
        for id in index::ids(candidates) {
            let Some(rule) = self.rules.get(id) else { continue };
            if id < self.denies {
                if self.deny_result(rule, input, memo) != Tri::False {
                    return rule.refuse(DenyReason::DenyRule);
                }
                continue;
            }
            match self.allow_result(rule, input, memo) {
                AllowResult::Allows => return self.permit(rule, input),
                AllowResult::Fails { reason, short } => closest.consider(id, reason, short),
                AllowResult::NotAbout => {}
            }
        }
        match closest.rule.and_then(|id| self.rules.get(id)) {
            Some(rule) => rule.refuse(closest.reason),
            None => Decision::no_match(),
        }
    }

    fn deny_result<const WORDS: usize>(
        &self,
        rule: &CompiledRule,
        input: &Input<'_>,
        memo: &mut Memo<WORDS>,
    ) -> Tri {
        let matched = rule.matches(input);
        if matched == Tri::False {
            return Tri::False;
        }
        let mut all = |ids: &[usize]| Tri::all(ids.iter().map(|id| self.atom(*id, input, memo)));
        let required = all(&rule.require);
        let excepted = rule.unless.iter().fold(Tri::False, |any, set| any.or(all(set)));
        matched.and(required).and(!excepted)
    }

    fn allow_result<const WORDS: usize>(
        &self,
        rule: &CompiledRule,
        input: &Input<'_>,
        memo: &mut Memo<WORDS>,
    ) -> AllowResult {
        let matched = rule.matches(input);
        if matched == Tri::False {
            return AllowResult::NotAbout;
        }
        let missing = rule.rule.context == ContextNeed::Required && input.context.is_none();
        let mut tally =
            Tally { result: matched, without_context: matched, without_params: matched, short: 0 };
        for id in &rule.require {
            let result = self.atom(*id, input, memo);
            tally.add(result, self.atoms.get(*id));
        }
        tally.outcome(missing)
    }

    fn atom<const WORDS: usize>(
        &self,
        id: usize,
        input: &Input<'_>,
        memo: &mut Memo<WORDS>,
    ) -> Tri {
        match self.atoms.get(id) {
            Some(atom) => memo.get(id, || atom.eval(input)),
            // An id outside its table is a defect of ours: unknown, so an allow fails.
            None => Tri::Unknown,
        }
    }

    fn permit(&self, rule: &CompiledRule, input: &Input<'_>) -> Decision {
        // `maxStreamAge` is about streams of HTTP; an opaque connection has none.
        let stream_ms = i64::try_from(rule.rule.obligations.max_stream_age_s)
            .ok()
            .filter(|_| input.request.is_some())
            .and_then(|age| age.checked_mul(1000))
            .and_then(|age| input.now_ms.checked_add(age));
        let atoms = rule.require.iter().filter_map(|id| self.atoms.get(*id));
        let valid_until = atoms.filter_map(|atom| atom.true_until(input)).chain(stream_ms).min();
        Decision {
            outcome: Outcome::Allow,
            rule: Some(rule.name.clone()),
            valid_until,
            audit: rule.rule.obligations.audit,
            message: None,
            context: rule.rule.context,
            claims: rule.rule.claims.clone(),
            once: rule.rule.once,
            resource: rule.resource.clone(),
            route: rule.route(input),
        }
    }
}

/// What is known about why nothing allowed, better reasons replacing worse ones.
#[derive(Clone, Copy)]
struct Closest {
    reason: DenyReason,
    rule: Option<usize>,
    short: usize,
}

/// How an allow rule fared.
enum AllowResult {
    Allows,
    /// Its `match` is true or unknown, but the rule as a whole is not true.
    Fails {
        reason: DenyReason,
        short: usize,
    },
    NotAbout,
}

/// Sums up the atoms of an allow rule.
struct Tally {
    /// AND of everything.
    result: Tri,
    /// AND of everything that does not look at the context token.
    without_context: Tri,
    /// AND of everything but bound parameters.
    without_params: Tri,
    /// How many atoms are not true.
    short: usize,
}

impl Tally {
    fn add(&mut self, result: Tri, atom: Option<&BoundAtom>) {
        self.result = self.result.and(result);
        if !atom.is_some_and(|atom| matches!(atom.atom, Atom::Params(_))) {
            self.without_params = self.without_params.and(result);
        }
        if !atom.is_some_and(BoundAtom::needs_context) {
            self.without_context = self.without_context.and(result);
        }
        self.short += usize::from(result != Tri::True);
    }

    /// `missing`: a context token is needed and there is none.
    fn outcome(&self, missing: bool) -> AllowResult {
        let short = self.short.max(1);
        match (self.result, missing) {
            (Tri::True, false) => AllowResult::Allows,
            (_, true) if self.without_context == Tri::True => {
                AllowResult::Fails { reason: DenyReason::TokenMissing, short }
            }
            (_, false) if self.without_params == Tri::True => {
                AllowResult::Fails { reason: DenyReason::ParameterMismatch, short }
            }
            (Tri::Unknown, false) => AllowResult::Fails { reason: DenyReason::Unknown, short },
            (Tri::True | Tri::Unknown, true) | (Tri::False, _) => {
                AllowResult::Fails { reason: DenyReason::NoMatch, short }
            }
        }
    }
}

impl Closest {
    /// A missing token is the most useful answer, then a parameter, then an unknown fact, then the fewest false
    /// atoms; of equals the first in name order.
    fn consider(&mut self, id: usize, reason: DenyReason, short: usize) {
        let rank = |reason: DenyReason| match reason {
            DenyReason::TokenMissing => 0,
            DenyReason::ParameterMismatch => 1,
            DenyReason::Unknown => 2,
            DenyReason::NoMatch | DenyReason::DenyRule => 3,
        };
        if (rank(reason), short) < (rank(self.reason), self.short) {
            *self = Self { reason, rule: Some(id), short };
        }
    }
}

impl Decision {
    fn no_match() -> Self {
        Self {
            outcome: Outcome::Deny(DenyReason::NoMatch),
            rule: None,
            valid_until: None,
            audit: AuditLevel::Normal,
            message: None,
            context: ContextNeed::Required,
            claims: None,
            once: false,
            resource: None,
            route: None,
        }
    }
}

impl CompiledRule {
    /// Whether the policy is about this port.
    pub(crate) fn is_for_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// `match`, but for caller, port and path, which the index has decided.
    pub(crate) fn matches(&self, input: &Input<'_>) -> Tri {
        let request = match (&self.rule.matcher.protocol, &input.request) {
            (None, _) => return Tri::True,
            (Some(ProtocolMatch::Tcp), request) => return Tri::from(request.is_none()),
            (Some(ProtocolMatch::Http(_) | ProtocolMatch::Grpc(_)), Some(request)) => request,
            // What nobody looked into could be anything: not what an allow names, perhaps what
            // a deny names.
            (Some(ProtocolMatch::Http(_) | ProtocolMatch::Grpc(_)), None) => {
                return match self.rule.effect {
                    Effect::Allow => Tri::False,
                    Effect::Deny => Tri::Unknown,
                };
            }
        };
        match &self.rule.matcher.protocol {
            None | Some(ProtocolMatch::Tcp) => Tri::True,
            // A deny matches the path whatever the method or content type.
            Some(ProtocolMatch::Grpc(_)) if self.rule.effect == Effect::Deny => Tri::True,
            Some(ProtocolMatch::Grpc(_)) => {
                Tri::from(request.protocol == Protocol::Grpc && request.method == "POST")
            }
            Some(ProtocolMatch::Http(http)) => {
                if self.method_or_host_differs(request) {
                    return Tri::False;
                }
                Tri::all(http.headers.iter().map(|header| eval::header(header, request)))
            }
        }
    }

    /// Whether the request has a method or host that an `http` matcher does not name.
    pub(crate) fn method_or_host_differs(&self, request: &Request<'_>) -> bool {
        let Some(ProtocolMatch::Http(http)) = &self.rule.matcher.protocol else { return false };
        let same = |own: &String| match self.rule.effect {
            Effect::Allow => own == request.method,
            Effect::Deny => own.eq_ignore_ascii_case(request.method),
        };
        let method = http.methods.is_empty() || http.methods.iter().any(same);
        let host = http.hosts.is_empty()
            || http
                .hosts
                .iter()
                .any(|own| crate::host::covers(own, request.host, self.rule.effect));
        !(method && host)
    }

    fn route(&self, input: &Input<'_>) -> Option<Arc<str>> {
        let path = input.request?.path;
        let found = self.routes.iter().find(|(pattern, _)| pattern.matches_exactly(path));
        found.map(|(_, route)| Arc::clone(route))
    }

    fn refuse(&self, reason: DenyReason) -> Decision {
        let audit = match reason {
            DenyReason::DenyRule => self.rule.obligations.audit,
            DenyReason::NoMatch
            | DenyReason::Unknown
            | DenyReason::TokenMissing
            | DenyReason::ParameterMismatch => AuditLevel::Normal,
        };
        Decision {
            outcome: Outcome::Deny(reason),
            rule: Some(self.name.clone()),
            audit,
            message: self.rule.message.clone(),
            resource: self.resource.clone(),
            ..Decision::no_match()
        }
    }
}

/// Results of atoms, two bits each: 0 is "not yet".
struct Memo<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Memo<WORDS> {
    fn get(&mut self, id: usize, eval: impl FnOnce() -> Tri) -> Tri {
        let shift = (id % 32) * 2;
        let Some(word) = self.0.get_mut(id / 32) else { return eval() };
        match (*word >> shift) & 3 {
            1 => Tri::False,
            2 => Tri::Unknown,
            3 => Tri::True,
            _ => {
                let result = eval();
                let code = match result {
                    Tri::False => 1,
                    Tri::Unknown => 2,
                    Tri::True => 3,
                };
                *word |= code << shift;
                result
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_atom_has_a_place_of_its_own() {
        let mut memo = Memo([0; SMALL_WORDS]);
        let value = |id: usize| [Tri::False, Tri::Unknown, Tri::True][id % 3];
        for id in 0..SMALL_WORDS * 32 {
            assert_eq!(memo.get(id, || value(id)), value(id));
        }
        for id in 0..SMALL_WORDS * 32 {
            assert_eq!(memo.get(id, || panic!("{id} was evaluated twice")), value(id));
        }
        assert_eq!(memo.get(SMALL_WORDS * 32, || Tri::True), Tri::True);
    }
}
