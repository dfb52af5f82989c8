//! Which rules a request could fall under, found without looking at each rule.
//!
//! Rules have dense ids, deny rules first. The path is walked through a trie per effect: allow
//! rules compare bytes; deny rules compare segments percent-decoded, in lower case and without
//! one trailing slash, so that no other spelling escapes a guardrail.

use std::collections::HashMap;

use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::{
    doc::{AccessPolicy, CallerMatch, Effect, GrpcMatch, Match, PathPattern, ProtocolMatch, Rule},
    input::{Caller, Input},
    pace::Pace,
    path::{CanonicalPath, Segment, percent_decoded},
};

/// Words of the largest rule set.
pub(crate) const WORDS_MAX: usize = crate::parse::RULES_MAX.div_ceil(64);

/// Bit sets by caller and port, tries by path.
#[derive(Debug)]
pub(crate) struct Index {
    words: usize,
    own_domain: TrustDomain,
    /// The rules that name a caller, beside those about everybody of its kind. Lists, for a set of
    /// bits per caller would grow with callers times rules.
    named: HashMap<WorkloadId, Vec<usize>>,
    /// Rules about whoever is of our trust domain, unnamed.
    in_mesh: Box<[u64]>,
    /// The same for other trust domains.
    foreign: Box<[u64]>,
    unauthenticated: Box<[u64]>,
    ports: HashMap<u16, Box<[u64]>>,
    other_ports: Box<[u64]>,
    /// Rules that say nothing about the path.
    any_path: Box<[u64]>,
    /// Rules that could match a connection without a request: those about any protocol, those
    /// about opaque connections, and every deny rule, which could be unknown.
    opaque: Box<[u64]>,
    deny_paths: Trie,
    allow_paths: Trie,
}

impl Index {
    /// Indexes rules; the position in `rules` is the id.
    pub(crate) fn new(
        own_domain: &TrustDomain,
        rules: &[(&AccessPolicy, &Rule)],
        pace: Pace<'_>,
    ) -> Self {
        let words = rules.len().div_ceil(64);
        let empty = || vec![0u64; words].into_boxed_slice();
        let mut index = Self {
            words,
            own_domain: own_domain.clone(),
            named: HashMap::new(),
            in_mesh: empty(),
            foreign: empty(),
            unauthenticated: empty(),
            ports: HashMap::new(),
            other_ports: empty(),
            any_path: empty(),
            opaque: empty(),
            deny_paths: Trie::default(),
            allow_paths: Trie::default(),
        };
        for port in rules.iter().flat_map(|(policy, _)| &policy.ports) {
            index.ports.entry(*port).or_insert_with(empty);
        }
        for (id, (policy, rule)) in rules.iter().enumerate() {
            index.add_caller(id, &rule.matcher);
            index.add_ports(id, &policy.ports);
            index.add_paths(id, rule);
            pace.step(2 + index.ports.len() as u32);
        }
        index.deny_paths.settle(words);
        index.allow_paths.settle(words);
        index
    }

    fn add_caller(&mut self, id: usize, matcher: &Match) {
        match &matcher.caller {
            None => {
                set(&mut self.foreign, id);
                set(&mut self.unauthenticated, id);
                set(&mut self.in_mesh, id);
            }
            Some(CallerMatch::AnyInMesh) => set(&mut self.in_mesh, id),
            Some(CallerMatch::Unauthenticated) => set(&mut self.unauthenticated, id),
            Some(CallerMatch::AnyOf(callers)) => {
                for caller in callers {
                    self.named.entry(caller.clone()).or_default().push(id);
                }
            }
        }
    }

    fn add_ports(&mut self, id: usize, ports: &[u16]) {
        if ports.is_empty() {
            set(&mut self.other_ports, id);
            self.ports.values_mut().for_each(|bits| set(bits, id));
        }
        for port in ports {
            if let Some(bits) = self.ports.get_mut(port) {
                set(bits, id);
            }
        }
    }

    fn add_paths(&mut self, id: usize, rule: &Rule) {
        let trie = match rule.effect {
            Effect::Deny => &mut self.deny_paths,
            Effect::Allow => &mut self.allow_paths,
        };
        let key = match rule.effect {
            Effect::Deny => folded_key,
            Effect::Allow => plain_key,
        };
        if rule.effect == Effect::Deny
            || matches!(rule.matcher.protocol, None | Some(ProtocolMatch::Tcp))
        {
            set(&mut self.opaque, id);
        }
        match &rule.matcher.protocol {
            None => set(&mut self.any_path, id),
            Some(ProtocolMatch::Tcp) => {}
            Some(ProtocolMatch::Http(http)) if http.paths.is_empty() => {
                set(&mut self.any_path, id);
            }
            Some(ProtocolMatch::Http(http)) => {
                for pattern in &http.paths {
                    let (steps, open) = steps(pattern, rule.effect, key);
                    trie.add(steps, open, id);
                }
            }
            Some(ProtocolMatch::Grpc(grpc)) => {
                for (steps, open) in grpc_steps(grpc, rule.effect, key) {
                    trie.add(steps, open, id);
                }
            }
        }
    }

    /// Writes the candidates of a request or connection into `out`; returns the words used.
    pub(crate) fn candidates<'o>(
        &self,
        input: &Input<'_>,
        out: &'o mut [u64; WORDS_MAX],
    ) -> &'o mut [u64] {
        let used = self.words.min(WORDS_MAX);
        let (out, _) = out.split_at_mut(used);
        let first = if input.request.is_some() { &self.any_path } else { &self.opaque };
        for (word, first) in out.iter_mut().zip(first) {
            *word = *first;
        }
        if let Some(request) = &input.request {
            self.allow_paths.collect_plain(request.path, out);
            self.deny_paths.collect_folded(request.path, out);
        }
        let ports = self.ports.get(&input.port).unwrap_or(&self.other_ports);
        let (of_kind, by_name) = self.caller(input.caller);
        let mut callers = [0u64; WORDS_MAX];
        for (word, of_kind) in callers.iter_mut().zip(of_kind) {
            *word = *of_kind;
        }
        by_name.iter().for_each(|id| set(&mut callers, *id));
        for ((word, caller), port) in out.iter_mut().zip(&callers).zip(ports) {
            *word &= *caller & *port;
        }
        out
    }

    /// The rules about callers of this kind, and those that name this one.
    fn caller(&self, caller: Caller<'_>) -> (&[u64], &[usize]) {
        match caller {
            Caller::Unauthenticated(_) => (&self.unauthenticated, &[]),
            Caller::Mesh(id) => {
                let ours = *id.trust_domain() == self.own_domain;
                let of_kind = if ours { &self.in_mesh } else { &self.foreign };
                (of_kind, self.named.get(id).map_or(&[], Vec::as_slice))
            }
        }
    }
}

fn set(bits: &mut [u64], id: usize) {
    if let Some(word) = bits.get_mut(id / 64) {
        *word |= 1 << (id % 64);
    }
}

/// The ids in a set, in order.
pub(crate) fn ids(bits: &[u64]) -> impl Iterator<Item = usize> + '_ {
    bits.iter().enumerate().flat_map(|(at, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            let bit = usize::try_from(rest.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
            rest &= rest - 1;
            Some(at * 64 + bit)
        })
    })
}

/// One step through the trie.
enum Step {
    Literal(Box<[u8]>),
    /// One non-empty segment.
    Any,
}

type Key = fn(&str) -> Box<[u8]>;

fn plain_key(segment: &str) -> Box<[u8]> {
    segment.as_bytes().into()
}

fn folded_key(segment: &str) -> Box<[u8]> {
    percent_decoded(segment).map(|byte| byte.to_ascii_lowercase()).collect()
}

fn steps(pattern: &PathPattern, effect: Effect, key: Key) -> (Vec<Step>, bool) {
    let literal = |path: &str| -> Vec<Step> {
        path.split('/').skip(1).map(|segment| Step::Literal(key(segment))).collect()
    };
    let (mut steps, open) = match pattern {
        PathPattern::Exact(path) => (literal(path), false),
        PathPattern::Prefix(path) => (literal(path.trim_end_matches('/')), true),
        PathPattern::Template(template) => {
            let steps = template.segments().iter().map(|segment| match segment {
                Segment::Literal(text) => Step::Literal(key(text)),
                Segment::Param(_) => Step::Any,
            });
            (steps.collect(), template.is_open())
        }
    };
    let slash = matches!(steps.last(), Some(Step::Literal(last)) if last.is_empty());
    if effect == Effect::Deny && slash {
        steps.pop();
    }
    (steps, open)
}

fn grpc_steps(grpc: &GrpcMatch, effect: Effect, key: Key) -> Vec<(Vec<Step>, bool)> {
    let service = || Step::Literal(key(&grpc.service));
    match (grpc.methods.is_empty(), effect) {
        (true, Effect::Deny) => vec![(vec![service()], true)],
        (true, Effect::Allow) => vec![(vec![service(), Step::Any], false)],
        (false, _) => {
            let methods = grpc.methods.iter();
            methods.map(|m| (vec![service(), Step::Literal(key(m))], false)).collect()
        }
    }
}

/// Segments to rule ids.
#[derive(Debug)]
struct Trie {
    nodes: Vec<TrieNode>,
}

#[derive(Debug, Default)]
struct TrieNode {
    literal: HashMap<Box<[u8]>, usize>,
    any: Option<usize>,
    /// Rules whose pattern ends here.
    ends: Ids,
    /// Rules that cover this and everything below.
    below: Ids,
}

/// The rules of one place in a trie: a list while they are few, else a set of bits, which is added
/// to candidates by the word.
#[derive(Debug)]
enum Ids {
    Few(Vec<usize>),
    Many(Box<[u64]>),
}

impl Default for Ids {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Ids {
    fn push(&mut self, id: usize) {
        match self {
            Self::Few(ids) => ids.push(id),
            Self::Many(bits) => set(bits, id),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(ids) if ids.is_empty())
    }

    /// Takes the form that is the faster one of so many words.
    fn settle(&mut self, words: usize) {
        let Self::Few(ids) = self else { return };
        if ids.len() > words {
            let mut bits = vec![0; words].into_boxed_slice();
            ids.iter().for_each(|id| set(&mut bits, *id));
            *self = Self::Many(bits);
        }
    }

    fn add_to(&self, out: &mut [u64]) {
        match self {
            Self::Few(ids) => ids.iter().for_each(|id| set(out, *id)),
            Self::Many(bits) => out.iter_mut().zip(bits).for_each(|(word, more)| *word |= *more),
        }
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![TrieNode::default()] }
    }
}

impl Trie {
    fn add(&mut self, steps: Vec<Step>, open: bool, id: usize) {
        let mut at = 0;
        for step in steps {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            let found = match step {
                Step::Literal(text) => *node.literal.entry(text).or_insert(next),
                Step::Any => *node.any.get_or_insert(next),
            };
            if found == next {
                self.nodes.push(TrieNode::default());
            }
            at = found;
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        if open { node.below.push(id) } else { node.ends.push(id) }
    }

    fn settle(&mut self, words: usize) {
        for node in &mut self.nodes {
            node.ends.settle(words);
            node.below.settle(words);
        }
    }

    fn is_empty(&self) -> bool {
        self.nodes.first().is_none_or(|root| {
            root.literal.is_empty()
                && root.any.is_none()
                && root.below.is_empty()
                && root.ends.is_empty()
        })
    }

    /// Byte for byte.
    fn collect_plain(&self, path: &CanonicalPath, out: &mut [u64]) {
        let Some(rest) = path.path().strip_prefix('/') else { return };
        if !self.is_empty() {
            self.walk(0, Some(rest), false, out);
        }
    }

    /// Decoded, lower case, one trailing slash ignored.
    fn collect_folded(&self, path: &CanonicalPath, out: &mut [u64]) {
        let text = path.path();
        if self.is_empty() || !text.starts_with('/') {
            return;
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        self.walk(0, trimmed.strip_prefix('/'), true, out);
    }

    /// `rest`: the segments not yet walked; `None` at the end of the path.
    fn walk(&self, at: usize, rest: Option<&str>, fold: bool, out: &mut [u64]) {
        let Some(node) = self.nodes.get(at) else { return };
        node.below.add_to(out);
        let Some(rest) = rest else {
            node.ends.add_to(out);
            return;
        };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        if !node.literal.is_empty() {
            let next =
                if fold { node.folded(segment) } else { node.literal.get(segment.as_bytes()) };
            if let Some(next) = next {
                self.walk(*next, rest, fold, out);
            }
        }
        if let (Some(next), false) = (node.any, segment.is_empty()) {
            self.walk(next, rest, fold, out);
        }
    }
}

impl TrieNode {
    /// Looks a segment up in its folded form, without allocating for ordinary lengths.
    fn folded(&self, segment: &str) -> Option<&usize> {
        let mut buffer = [0u8; 256];
        if segment.len() > buffer.len() {
            return self.literal.get(&folded_key(segment));
        }
        let mut length = 0;
        for (slot, byte) in buffer.iter_mut().zip(percent_decoded(segment)) {
            *slot = byte.to_ascii_lowercase();
            length += 1;
        }
        self.literal.get(buffer.get(..length)?)
    }
}
