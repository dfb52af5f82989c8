//! From YAML trees to typed documents, all problems of all documents in one pass.
//!
//! Kinds are read in the order in which they refer to each other: the mesh, identity providers,
//! destinations, gateways, access policies. What one kind declares is remembered in [`Known`],
//! also when it was faulty, so that one mistake is one message.

mod access;
mod atoms;
mod attributes;
mod binding;
mod callers;
mod chain;
mod destination;
mod device;
mod facts;
mod federation;
mod gateway;
mod groups;
mod jwks;
mod known;
mod ldap;
mod matchers;
mod mesh;
mod provider;
mod revocation;
pub(crate) mod scalars;
mod sender;
mod shown;
mod token_service;
mod window;

use std::collections::BTreeMap;

pub(crate) use access::{ATOMS_MAX, RULES_MAX};
use known::Known;
pub(crate) use window::instant;

use crate::{
    Documents, Named, Pace, Problems, Source,
    case::PolicyTest,
    doc::{
        AccessPolicy, AttributeProvider, CallerMatch, ContextPolicy, Destination, IdentityProvider,
        MeshConfig, Revocation,
    },
    snapshot,
    yaml::{self, Fields, Findings, Node, Span, Value, did_you_mean, read},
};

/// The one version of documents.
pub(crate) const API_VERSION: &str = "countersign.dev/v1alpha1";

/// Most entries of all `caller.anyOf` together: each distinct one has a bit set.
const CALLERS_MAX: usize = 65_536;

const KINDS: &[(&str, Kind)] = &[
    ("MeshConfig", Kind::Mesh),
    ("IdentityProvider", Kind::Provider),
    ("Destination", Kind::Destination),
    ("ContextPolicy", Kind::Gateway),
    ("AccessPolicy", Kind::Access),
    ("PolicyTest", Kind::Test),
    ("ProxyConfig", Kind::Proxy),
    ("AttributeProvider", Kind::Attributes),
    ("BuildTrust", Kind::Later),
    ("Revocation", Kind::Revocation),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Mesh,
    Provider,
    Destination,
    Attributes,
    Gateway,
    Access,
    Revocation,
    Test,
    Proxy,
    Later,
}

/// A document whose envelope was understood.
struct Envelope<'n> {
    kind: Kind,
    namespace: String,
    name: String,
    name_span: Span,
    spec: &'n Node,
}

/// What has been read so far.
#[derive(Default)]
struct Collected {
    mesh: Option<MeshConfig>,
    mesh_span: Option<Span>,
    access: Vec<AccessPolicy>,
    providers: Vec<Named<IdentityProvider>>,
    attributes: Vec<Named<AttributeProvider>>,
    gateways: Vec<Named<ContextPolicy>>,
    destinations: Vec<Named<Destination>>,
    revocations: Vec<Named<Revocation>>,
    names: BTreeMap<(Kind, String, String), Span>,
}

pub(crate) fn documents(sources: &[Source<'_>], pace: Pace<'_>) -> Result<Documents, Problems> {
    let mut findings = Findings::new(sources).paced(pace);
    let nodes: Vec<Node> =
        (0..sources.len()).flat_map(|source| yaml::documents(&mut findings, source)).collect();
    let mut envelopes: Vec<Envelope<'_>> =
        nodes.iter().filter_map(|node| envelope(node, &mut findings)).collect();
    envelopes.sort_by_key(|envelope| envelope.kind);

    let mut all = Collected::default();
    let mut known = Known::default();
    for envelope in &envelopes {
        all.unique(
            envelope.kind,
            &envelope.namespace,
            &envelope.name,
            envelope.name_span,
            &mut findings,
        );
    }
    let mesh_node = envelopes.iter().find(|envelope| envelope.kind == Kind::Mesh);
    if let Some(envelope) = mesh_node {
        all.mesh_span = Some(envelope.name_span);
        all.mesh = mesh::read(envelope.spec, &mut known, &mut findings);
    }
    let inline = mesh_node.map(|envelope| inline(envelope.spec, &mut findings)).unwrap_or_default();
    for entry in &inline {
        all.unique(entry.kind, &entry.namespace, &entry.name, entry.name_span, &mut findings);
    }
    let mut bodies: Vec<&Envelope<'_>> = envelopes.iter().chain(&inline).collect();
    bodies.sort_by_key(|envelope| envelope.kind);
    for envelope in bodies {
        all.body(envelope, &mut known, &mut findings);
        findings.step(8);
    }
    if mesh_node.is_none() && !sources.is_empty() {
        let span = Span { source: 0, start: 0, end: 0, line: 1, column: 1 };
        findings
            .error("E005", span, "there is no MeshConfig among the documents")
            .hint("add one (kind: MeshConfig, metadata: {name: default})");
    }
    let hash = snapshot::hash(&nodes, pace);
    for node in nodes {
        drop(node);
        pace.step(8);
    }
    all.finish(&known, findings, hash)
}

impl Collected {
    /// Reports a second document of the same kind and name.
    fn unique(
        &mut self,
        kind: Kind,
        namespace: &str,
        name: &str,
        span: Span,
        findings: &mut Findings<'_>,
    ) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let Some(first) = self.names.get(&key) else {
            self.names.insert(key, span);
            return;
        };
        let place = findings.place(*first);
        let full =
            if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        findings
            .error("E019", span, format!("{} `{full}` exists already", kind_name(kind)))
            .hint(format!("the first one is at {}:{}", place.file, place.line));
    }

    fn body(&mut self, envelope: &Envelope<'_>, known: &mut Known, findings: &mut Findings<'_>) {
        let spec = envelope.spec;
        match envelope.kind {
            Kind::Provider => {
                let provider = provider::read(spec, envelope, known, findings);
                self.providers.extend(provider.map(|spec| envelope.named(spec, findings)));
            }
            Kind::Destination => {
                let destination = destination::read(spec, known, findings);
                self.destinations.extend(destination.map(|spec| envelope.named(spec, findings)));
            }
            Kind::Attributes => {
                let read = attributes::read(spec, envelope, known, findings);
                self.attributes.extend(read.map(|spec| envelope.named(spec, findings)));
            }
            Kind::Gateway => {
                let gateway = gateway::read(spec, known, findings);
                self.gateways.extend(gateway.map(|spec| envelope.named(spec, findings)));
            }
            Kind::Access => {
                let place = findings.place(envelope.name_span);
                let (namespace, name) = (envelope.namespace.clone(), envelope.name.clone());
                let policy = access::read(spec, namespace, name, place, known, findings);
                self.access.extend(policy);
            }
            Kind::Revocation => {
                let revocation = revocation::read(spec, known, findings);
                self.revocations.extend(revocation.map(|spec| envelope.named(spec, findings)));
            }
            Kind::Test => {
                PolicyTest::check(spec, findings);
            }
            Kind::Mesh | Kind::Proxy | Kind::Later => {}
        }
    }

    /// Bounds that the tables of the compiled form rely on.
    fn check_sizes(&self, findings: &mut Findings<'_>) {
        let Some(span) = self.mesh_span else { return };
        let rules = || self.access.iter().flat_map(|policy| &policy.rules);
        let (count, atoms) = (
            rules().count(),
            rules()
                .map(|r| r.require.len() + r.unless.iter().map(Vec::len).sum::<usize>())
                .sum::<usize>(),
        );
        if count > RULES_MAX {
            findings.error("E017", span, format!("{count} rules, more than {RULES_MAX}"));
        }
        let revoked: usize = self.revocations.iter().map(|named| named.spec.len()).sum();
        if revoked > revocation::ENTRIES_MAX {
            let most = revocation::ENTRIES_MAX;
            let message = format!("{revoked} entries in Revocation documents, more than {most}");
            findings.error("E017", span, message);
        }
        let callers: usize = rules()
            .map(|rule| match &rule.matcher.caller {
                Some(CallerMatch::AnyOf(ids)) => ids.len(),
                Some(CallerMatch::AnyInMesh | CallerMatch::Unauthenticated) | None => 0,
            })
            .sum();
        if callers > CALLERS_MAX {
            findings.error("E017", span, format!("{callers} callers, more than {CALLERS_MAX}"));
        }
        if atoms > ATOMS_MAX {
            findings.error("E017", span, format!("{atoms} atoms, more than {ATOMS_MAX}"));
        }
    }

    /// A gateway that takes callers from outside the mesh makes tokens for services: somebody must
    /// be trusted to sign them.
    fn check_callers(&self, findings: &mut Findings<'_>) {
        let (Some(mesh), Some(span)) = (&self.mesh, self.mesh_span) else { return };
        let Some(gateway) = self.gateways.iter().find(|named| !named.spec.callers.is_empty())
        else {
            return;
        };
        let may_sign = mesh.issuers.iter().any(|issuer| {
            issuer.origins.iter().any(|origin| origin == "service")
                && issuer.subjects.iter().any(|subject| subject.starts_with("svc:"))
        });
        if !may_sign {
            let (namespace, name) = (&gateway.namespace, &gateway.name);
            let message = format!(
                "gateway `{namespace}/{name}` takes callers, and no issuer may sign for services"
            );
            findings.error("E013", span, message).hint(
                "add `service` to `allow.origin` and `svc:*` to `allow.sub` of that gateway in \
                 `context.issuers`",
            );
        }
    }

    fn finish(
        mut self,
        known: &Known,
        mut findings: Findings<'_>,
        sha256: [u8; 32],
    ) -> Result<Documents, Problems> {
        let by_name = |a: (&str, &str), b: (&str, &str)| a.cmp(&b);
        self.access.sort_by(|a, b| by_name((&a.namespace, &a.name), (&b.namespace, &b.name)));
        self.providers.sort_by(|a, b| a.name.cmp(&b.name));
        self.attributes.sort_by(|a, b| a.name.cmp(&b.name));
        self.gateways.sort_by(|a, b| by_name((&a.namespace, &a.name), (&b.namespace, &b.name)));
        self.destinations.sort_by(|a, b| by_name((&a.namespace, &a.name), (&b.namespace, &b.name)));
        self.revocations.sort_by(|a, b| a.name.cmp(&b.name));
        self.check_sizes(&mut findings);
        self.check_callers(&mut findings);
        known.check_destinations(&self.destinations, &mut findings);
        let warnings = findings.finish()?;
        let Some(mesh) = self.mesh else { return Err(Problems(warnings)) };
        Ok(Documents {
            mesh,
            access: self.access,
            providers: self.providers,
            attributes: self.attributes,
            gateways: self.gateways,
            destinations: self.destinations,
            revocations: self.revocations,
            warnings,
            sha256,
        })
    }
}

impl Envelope<'_> {
    fn named<T>(&self, spec: T, findings: &Findings<'_>) -> Named<T> {
        Named {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            spec,
            place: findings.place(self.name_span),
        }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, own)| *own == kind).map_or("document", |(name, _)| name)
}

/// Reads `apiVersion`, `kind` and `metadata`.
fn envelope<'n>(node: &'n Node, findings: &mut Findings<'_>) -> Option<Envelope<'n>> {
    if matches!(&node.value, Value::Scalar { text, plain: true } if text.is_empty()) {
        return None;
    }
    let mut fields = Fields::of(node, "a document", findings)?;
    let version = fields.required("apiVersion", findings);
    if let Some(version) = version {
        read::one_of(version, &[(API_VERSION, ())], findings);
    }
    let kind_node = fields.required("kind", findings);
    let is_test = kind_node.and_then(Node::text) == Some("PolicyTest");
    let metadata = match is_test {
        true => fields.optional("metadata"),
        false => fields.required("metadata", findings),
    };
    let spec = fields.required("spec", findings);
    fields.finish(findings);
    let kind = kind(kind_node?, findings)?;
    let (namespace, name, name_span) = match (kind, metadata) {
        (Kind::Test, None) => (String::new(), String::new(), node.span),
        (_, metadata) => names(metadata?, kind, findings)?,
    };
    Some(Envelope { kind, namespace, name, name_span, spec: spec? })
}

fn kind(node: &Node, findings: &mut Findings<'_>) -> Option<Kind> {
    let written = node.text().unwrap_or_default();
    let found = KINDS.iter().find(|(name, _)| *name == written).map(|(_, kind)| *kind);
    match found {
        None => {
            let names = KINDS.iter().map(|(name, _)| *name);
            let hint = did_you_mean(written, names);
            findings
                .error("E013", node.span, format!("unknown kind {}", node.describe()))
                .maybe_hint(hint);
            None
        }
        Some(Kind::Later) => {
            findings.error("E013", node.span, format!("kind `{written}` is not supported yet"));
            None
        }
        Some(Kind::Proxy) => {
            findings
                .error(
                    "E013",
                    node.span,
                    "ProxyConfig configures one process and is no document of the mesh",
                )
                .hint(
                    "give it to the proxy with --config, and keep it out of the document folders",
                );
            None
        }
        found => found,
    }
}

/// `metadata`: namespace, name, and where the name stands.
fn names(node: &Node, kind: Kind, findings: &mut Findings<'_>) -> Option<(String, String, Span)> {
    let mut fields = Fields::of(node, "metadata", findings)?;
    let name = fields.required("name", findings);
    let namespaced = matches!(kind, Kind::Destination | Kind::Gateway | Kind::Access);
    let namespace = match namespaced {
        true => fields.required("namespace", findings),
        false => None,
    };
    for free in ["labels", "annotations"] {
        if let Some(map) = fields.optional(free) {
            scalars::string_map(map, free, findings);
        }
    }
    fields.finish(findings);
    let name_node = name?;
    let name = scalars::dns_label(name_node, findings)?;
    let namespace = match (namespaced, namespace) {
        (true, namespace) => scalars::dns_label(namespace?, findings)?,
        (false, _) => String::new(),
    };
    if kind == Kind::Mesh && name != "default" {
        findings.error("E013", name_node.span, "the one MeshConfig is named `default`");
    }
    Some((namespace, name, name_node.span))
}

/// The documents that a `MeshConfig` holds inline. The lists themselves were accepted by
/// `mesh::read`; here each entry becomes an envelope.
fn inline<'n>(spec: &'n Node, findings: &mut Findings<'_>) -> Vec<Envelope<'n>> {
    let lists = [
        ("identityProviders", Kind::Provider),
        ("attributeProviders", Kind::Attributes),
        ("gateways", Kind::Gateway),
        ("destinations", Kind::Destination),
    ];
    let mut out = Vec::new();
    for (list, kind) in lists {
        for entry in read::list(spec.get(list), findings) {
            out.extend(inline_entry(entry, kind, findings));
        }
    }
    out
}

fn inline_entry<'n>(
    node: &'n Node,
    kind: Kind,
    findings: &mut Findings<'_>,
) -> Option<Envelope<'n>> {
    let mut fields = Fields::of(node, "an inline document", findings)?;
    let name = fields.required("name", findings);
    let namespaced = !matches!(kind, Kind::Provider | Kind::Attributes);
    let namespace = if namespaced { fields.required("namespace", findings) } else { None };
    let spec = fields.required("spec", findings);
    fields.finish(findings);
    let name_node = name?;
    let name = scalars::dns_label(name_node, findings)?;
    let namespace = match namespaced {
        true => scalars::dns_label(namespace?, findings)?,
        false => String::new(),
    };
    Some(Envelope { kind, namespace, name, name_span: name_node.span, spec: spec? })
}
