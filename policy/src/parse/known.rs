//! What documents declared so far, so that references can be checked where they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use countersign_workload_id::TrustDomain;
use jiff::civil::Date;

use crate::{
    Named,
    doc::{ClaimDeclaration, ClaimRole, ClaimType, Destination, DestinationName, FactType},
    yaml::{Findings, Node, Span, suggest},
};

/// Declared names, with their places.
#[derive(Default)]
pub(crate) struct Known {
    /// `None` if the mesh's own is faulty: then IDs are not compared with it.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// Other trust domains, with their places.
    pub(crate) federated: BTreeMap<TrustDomain, Span>,
    pub(crate) cidr_sets: BTreeMap<String, Span>,
    pub(crate) calendars: BTreeMap<String, (Span, Vec<Date>)>,
    pub(crate) providers: BTreeMap<String, KnownProvider>,
    /// Kinds of justification, each with the facts its validators add; `None`: nobody is asked
    /// about this kind.
    pub(crate) justification_kinds: BTreeMap<String, Option<BTreeMap<String, FactType>>>,
    pub(crate) attributes: BTreeMap<String, KnownAttributes>,
    /// Proxies that vouch for headers.
    pub(crate) proxies: BTreeSet<String>,
    /// Groups that directories and proxies may name.
    pub(crate) outside_groups: BTreeSet<String>,
    /// Prefix of `sub`, and the provider that took it.
    pub(crate) prefixes: BTreeMap<String, String>,
    /// Issuer URL, and the provider that it belongs to.
    pub(crate) issuers: BTreeMap<String, String>,
    /// Hosts of destinations, with a port.
    pub(crate) hosts: BTreeMap<(String, u16), Span>,
    /// Virtual addresses of destinations, with a port.
    pub(crate) addresses: BTreeMap<(IpAddr, u16), Span>,
    /// Destinations that are named before they are read.
    pub(crate) referred: Vec<(DestinationName, Span)>,
}

/// What an `AttributeProvider` may say.
pub(crate) struct KnownAttributes {
    pub(crate) span: Span,
    /// Of one that checks; `None` for others, and while it is not understood.
    pub(crate) facts: Option<BTreeMap<String, FactType>>,
    /// Of a directory.
    pub(crate) groups: Option<Vec<String>>,
}

/// What rules may ask of a provider's users.
pub(crate) struct KnownProvider {
    pub(crate) span: Span,
    pub(crate) claims: BTreeMap<String, ClaimDeclaration>,
}

impl KnownProvider {
    pub(crate) fn claim_for(&self, role: ClaimRole) -> Option<&ClaimDeclaration> {
        self.claims.values().find(|claim| claim.role == Some(role))
    }

    pub(crate) fn claim_type(&self, name: &str) -> Option<ClaimType> {
        self.claims.get(name).map(|claim| claim.kind)
    }
}

impl Known {
    /// Checks that every destination that was named is a document of the mesh.
    pub(crate) fn check_destinations(
        &self,
        destinations: &[Named<Destination>],
        findings: &mut Findings<'_>,
    ) {
        for (named, span) in &self.referred {
            let own = |d: &&Named<Destination>| {
                (&d.namespace, &d.name) == (&named.namespace, &named.name)
            };
            let names: Vec<_> =
                destinations.iter().map(|d| format!("{}/{}", d.namespace, d.name)).collect();
            match destinations.iter().find(own) {
                None => {
                    let wanted = named.to_string();
                    let near = suggest(&wanted, names.iter().map(String::as_str));
                    let hint = near.map(|near| format!("did you mean `{near}`?"));
                    findings
                        .error("E005", *span, format!("Destination `{wanted}` does not exist"))
                        .maybe_hint(hint);
                }
                Some(found) if found.spec.identities().next().is_none() => {
                    let message = format!("Destination `{named}` is not of the mesh");
                    findings
                        .error("E013", *span, message)
                        .hint("whoever answers there must prove an identity: `peer: {mesh: {identities: […]}}`");
                }
                Some(_) => {}
            }
        }
    }

    /// Checks that a name was declared; the message tells the nearest one and its place.
    pub(crate) fn check<T>(
        node: &Node,
        name: &str,
        what: &str,
        declared: &BTreeMap<String, T>,
        place: impl Fn(&T) -> Span,
        findings: &mut Findings<'_>,
    ) -> bool {
        if declared.contains_key(name) {
            return true;
        }
        let near = suggest(name, declared.keys().map(String::as_str));
        let hint = match near.and_then(|near| declared.get_key_value(near)) {
            Some((near, entry)) => {
                let place = findings.place(place(entry));
                Some(format!("did you mean `{near}` ({}:{})?", place.file, place.line))
            }
            None if declared.is_empty() => Some(format!("no {what} is declared")),
            None => None,
        };
        let message = format!("{what} `{name}` does not exist");
        findings.error("E005", node.span, message).maybe_hint(hint);
        false
    }
}
