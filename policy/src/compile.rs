//! The rules of one workload, selected and indexed.
//!
//! Done once per snapshot, off the data path: rules get dense ids (deny first, then by name),
//! references are resolved, equal atoms become one. `decide` answers requests from the result.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use countersign_workload_id::TrustDomain;
use ipnet::IpNet;

use crate::{
    decision::{ResourceName, ResourceRef, RuleName, RuleRef},
    doc::{
        AccessPolicy, Atom, Documents, Effect, PathPattern, ProtocolMatch, Rule,
        access::OwnerFromPath,
    },
    eval::BoundAtom,
    index::Index,
    input::Workload,
    pace::Pace,
};

/// A policy in this namespace may select workloads of every namespace.
pub(crate) const SYSTEM_NAMESPACE: &str = "countersign-system";

/// The rules of one workload, ready to decide. Cheap to share between threads.
#[derive(Debug)]
pub struct Compiled {
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) atoms: Vec<BoundAtom>,
    pub(crate) index: Index,
    /// Ids below this are deny rules.
    pub(crate) denies: usize,
    /// Header names that some rule looks at.
    pub(crate) headers: Vec<String>,
    /// Ports of the rules that look into requests.
    pub(crate) l7_ports: HashSet<u16>,
    /// Whether such a rule is for every port.
    pub(crate) l7_everywhere: bool,
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) name: RuleRef,
    pub(crate) ports: Vec<u16>,
    pub(crate) rule: Rule,
    pub(crate) own_domain: TrustDomain,
    /// Ids of `require`.
    pub(crate) require: Vec<usize>,
    /// Ids of the entries of `unless`.
    pub(crate) unless: Vec<Vec<usize>>,
    pub(crate) resource: Option<ResourceRef>,
    /// The rule's paths, as they are called in metrics.
    pub(crate) routes: Vec<(PathPattern, Arc<str>)>,
}

/// Selects and indexes the inbound rules of a workload.
pub fn compile(documents: &Documents, workload: &Workload) -> Compiled {
    compile_paced(documents, workload, Pace::default())
}

/// As [`compile`], at the pace of the caller.
pub fn compile_paced(documents: &Documents, workload: &Workload, pace: Pace<'_>) -> Compiled {
    let mut rules: Vec<(&AccessPolicy, &Rule)> = selected(documents, workload)
        .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
        .collect();
    rules.sort_by(|(p, a), (q, b)| {
        (a.effect, &p.namespace, &p.name, &a.name).cmp(&(b.effect, &q.namespace, &q.name, &b.name))
    });
    let index = Index::new(&documents.mesh.trust_domain, &rules, pace);
    let denies = rules.iter().filter(|(_, rule)| rule.effect == Effect::Deny).count();
    let l7 = || rules.iter().filter(|(_, rule)| rule.reads_requests()).map(|(policy, _)| policy);
    let l7_ports = l7().flat_map(|policy| policy.ports.iter().copied()).collect();
    let l7_everywhere = l7().any(|policy| policy.ports.is_empty());
    let mut atoms = AtomTable { documents, atoms: Vec::new(), known: HashMap::new() };
    let mut headers = Vec::new();
    let rules: Vec<CompiledRule> = rules
        .into_iter()
        .map(|(policy, rule)| {
            pace.step(2);
            if let Some(ProtocolMatch::Http(http)) = &rule.matcher.protocol {
                headers.extend(http.headers.iter().map(|header| header.name.clone()));
            }
            compile_rule(policy, rule, &mut atoms)
        })
        .collect();
    headers.sort();
    headers.dedup();
    Compiled { rules, atoms: atoms.atoms, index, denies, headers, l7_ports, l7_everywhere }
}

/// The policies that apply to a workload.
pub fn selected<'d>(
    documents: &'d Documents,
    workload: &'d Workload,
) -> impl Iterator<Item = &'d AccessPolicy> {
    documents.access.iter().filter(|policy| {
        let near = policy.namespace == workload.namespace || policy.namespace == SYSTEM_NAMESPACE;
        near && policy.selector.selects(&workload.labels)
    })
}

fn compile_rule(policy: &AccessPolicy, rule: &Rule, atoms: &mut AtomTable<'_>) -> CompiledRule {
    let name = RuleRef(Arc::new(RuleName {
        namespace: policy.namespace.clone(),
        policy: policy.name.clone(),
        rule: rule.name.clone(),
        effect: rule.effect,
        place: rule.place.clone(),
        id: format!("{}/{}/{}", policy.namespace, policy.name, rule.name),
    }));
    let resource = policy.resource.as_ref().map(|resource| {
        let owner = resource.owner.clone().map(|owner| (owner.template, owner.param));
        ResourceRef(Arc::new(ResourceName { kind: Arc::clone(&resource.kind), owner }))
    });
    let owner = policy.resource.as_ref().and_then(|resource| resource.owner.as_ref());
    let mut ids = |set: &[Atom]| -> Vec<usize> {
        set.iter().map(|atom| atoms.id(atom, owner, resource.as_ref())).collect()
    };
    let require = ids(&rule.require);
    let unless = rule.unless.iter().map(|set| ids(set)).collect();
    let routes = match &rule.matcher.protocol {
        Some(ProtocolMatch::Http(http)) => {
            http.paths.iter().map(|pattern| (pattern.clone(), pattern.route())).collect()
        }
        Some(ProtocolMatch::Grpc(_) | ProtocolMatch::Tcp) | None => Vec::new(),
    };
    let (ports, rule) = (policy.ports.clone(), rule.clone());
    let own_domain = atoms.documents.mesh.trust_domain.clone();
    CompiledRule { name, ports, rule, own_domain, require, unless, resource, routes }
}

/// Gives equal atoms one id.
struct AtomTable<'d> {
    documents: &'d Documents,
    atoms: Vec<BoundAtom>,
    known: HashMap<(Atom, Option<OwnerFromPath>), usize>,
}

impl AtomTable<'_> {
    fn id(
        &mut self,
        atom: &Atom,
        owner: Option<&OwnerFromPath>,
        resource: Option<&ResourceRef>,
    ) -> usize {
        let about_owner = atom.names_owner();
        let owner = if about_owner { owner.cloned() } else { None };
        let key = (atom.clone(), owner);
        if let Some(id) = self.known.get(&key) {
            return *id;
        }
        let id = self.atoms.len();
        self.atoms.push(BoundAtom {
            atom: atom.clone(),
            nets: self.nets(atom),
            resource: resource.filter(|_| about_owner).map(|resource| Arc::clone(&resource.0)),
        });
        self.known.insert(key, id);
        id
    }

    fn nets(&self, atom: &Atom) -> Vec<IpNet> {
        let Atom::Source(source) = atom else { return Vec::new() };
        let sets = source.cidr_sets.iter();
        sets.filter_map(|name| self.documents.mesh.cidr_sets.get(name)).flatten().copied().collect()
    }
}
