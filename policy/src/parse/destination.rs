//! Reads `Destination`, and checks that what leads somewhere leads to one place only.

use std::net::IpAddr;

use countersign_workload_id::WorkloadId;

use super::{known::Known, scalars};
use crate::{
    doc::{Destination, DestinationPeer, DestinationPort, Endpoint, PortProtocol, TlsRoots},
    http1,
    yaml::{Fields, Findings, Node, Span, read},
};

/// Most endpoints of one destination, and most names of one server.
const ENTRIES_MAX: usize = 4096;

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<Destination> {
    let mut fields = Fields::of(node, "Destination", findings)?;
    let hosts_node = fields.optional("hosts");
    let addresses_node = fields.optional("addresses");
    let ports_node = fields.required("ports", findings);
    let endpoints_node = fields.optional("endpoints");
    let peer_node = fields.required("peer", findings);
    let span = fields.span();
    fields.finish(findings);
    let ports = ports(ports_node, findings);
    let hosts = hosts(hosts_node, &ports, known, findings);
    let addresses = addresses(addresses_node, &ports, known, findings);
    let endpoints = endpoints(endpoints_node, known, findings);
    let peer = peer(peer_node?, &endpoints, known, findings)?;
    let outside = matches!(peer, DestinationPeer::Tls { .. });
    if endpoints_node.is_none() && !outside {
        findings
            .error("E013", span, "Destination needs `endpoints`")
            .hint("a destination of the mesh is dialled at addresses of its own pods only");
    }
    if outside {
        outside_fits(endpoints_node, ports_node, findings);
    }
    if hosts_node.is_none() && addresses_node.is_none() && endpoints_node.is_none() {
        findings
            .error("E013", span, "nothing leads to this destination")
            .hint("name `hosts`, `addresses` or `endpoints`");
    }
    let destination = Destination { hosts, addresses, ports, endpoints, peer };
    if !is_of_one_domain(&destination) {
        let message = "identities of two trust domains cannot answer for one destination";
        findings.error("E013", peer_node?.span, message).hint("write two destinations");
    }
    Some(destination)
}

fn is_of_one_domain(destination: &Destination) -> bool {
    let mut domains = destination.identities().map(WorkloadId::trust_domain);
    let first = domains.next();
    domains.all(|domain| Some(domain) == first)
}

/// A host and a port lead to one destination only.
fn hosts(
    node: Option<&Node>,
    ports: &[DestinationPort],
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Vec<String> {
    let mut hosts = Vec::new();
    for node in read::filled_list(node, findings) {
        let Some(host) = scalars::host(node, findings) else { continue };
        for port in ports {
            let key = (host.clone(), port.port);
            match known.hosts.get(&key) {
                Some(first) => taken(&format!("{host}:{}", port.port), *first, node, findings),
                None => {
                    known.hosts.insert(key, node.span);
                }
            }
        }
        hosts.push(host);
    }
    hosts
}

/// An address and a port lead to one destination only.
fn addresses(
    node: Option<&Node>,
    ports: &[DestinationPort],
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for node in read::filled_list(node, findings) {
        let Some(address) = scalars::ip(node, findings) else { continue };
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            findings
                .error("E013", node.span, format!("{address} is not an address of a service"))
                .hint("name the virtual address that apps dial");
            continue;
        }
        for port in ports {
            let key = (address, port.port);
            match known.addresses.get(&key) {
                Some(first) => {
                    let place = std::net::SocketAddr::from(key).to_string();
                    taken(&place, *first, node, findings);
                }
                None => {
                    known.addresses.insert(key, node.span);
                }
            }
        }
        addresses.push(address);
    }
    addresses
}

fn taken(what: &str, first: Span, node: &Node, findings: &mut Findings<'_>) {
    let place = findings.place(first);
    findings
        .error("E019", node.span, format!("`{what}` belongs to a destination already"))
        .hint(format!("the first one is at {}:{}", place.file, place.line));
}

fn ports(node: Option<&Node>, findings: &mut Findings<'_>) -> Vec<DestinationPort> {
    let mut ports: Vec<DestinationPort> = Vec::new();
    for node in read::filled_list(node, findings) {
        let Some(entry) = port(node, findings) else { continue };
        if ports.iter().any(|other| other.port == entry.port) {
            let message = format!("port {} stands in this destination twice", entry.port);
            findings.error("E019", node.span, message);
        } else {
            ports.push(entry);
        }
    }
    ports
}

fn port(node: &Node, findings: &mut Findings<'_>) -> Option<DestinationPort> {
    let mut fields = Fields::of(node, "a port", findings)?;
    let port = fields.required("port", findings).and_then(|node| read::port(node, findings));
    let protocol = fields
        .required("protocol", findings)
        .and_then(|node| read::one_of(node, PortProtocol::WORDS, findings));
    let preserve_node = fields.optional("preserveHttp1");
    let upgrades_node = fields.optional("upgrades");
    let connect_node = fields.optional("connect");
    fields.finish(findings);
    let preserve = preserve_node.and_then(|node| read::boolean(node, findings));
    let upgrades = upgrades_node.map(|node| http1::upgrades(node, findings));
    let connect = connect_node.and_then(|node| read::boolean(node, findings));
    let protocol = protocol?;
    let http_only =
        [("preserveHttp1", preserve_node), ("upgrades", upgrades_node), ("connect", connect_node)];
    http1::only_for_http(protocol, &http_only, findings);
    Some(DestinationPort {
        port: port?,
        protocol,
        preserve_http1: preserve.unwrap_or(false),
        upgrades: upgrades.unwrap_or_default(),
        connect: connect.unwrap_or(false),
    })
}

fn endpoints(node: Option<&Node>, known: &Known, findings: &mut Findings<'_>) -> Vec<Endpoint> {
    let items = read::filled_list(node, findings);
    if let (Some(node), true) = (node, items.len() > ENTRIES_MAX) {
        findings.error("E017", node.span, format!("more than {ENTRIES_MAX} endpoints"));
    }
    items.iter().filter_map(|node| endpoint(node, known, findings)).collect()
}

fn endpoint(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Endpoint> {
    let mut fields = Fields::of(node, "an endpoint", findings)?;
    let address = fields.required("address", findings).and_then(|n| scalars::ip(n, findings));
    let port = fields.required("port", findings).and_then(|node| read::port(node, findings));
    let own = fields.optional("identities");
    fields.finish(findings);
    let identities = identities(own, known, findings);
    Some(Endpoint { address: address?, port: port?, identities })
}

/// `peer: {mesh: …}` or `peer: {tls: …}`.
fn peer(
    node: &Node,
    endpoints: &[Endpoint],
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<DestinationPeer> {
    let mut fields = Fields::of(node, "peer", findings)?;
    let mesh = fields.optional("mesh");
    let tls = fields.optional("tls");
    fields.not_yet("plaintext", findings);
    let (span, later) = (fields.span(), node.get("plaintext").is_some());
    fields.finish(findings);
    match (mesh, tls) {
        (Some(mesh), None) => mesh_peer(mesh, endpoints, known, findings),
        (None, Some(tls)) => tls_peer(tls, findings),
        (Some(_), Some(_)) => {
            let message = "a destination is in the mesh or outside it, here it is both";
            findings.error("E013", span, message).hint("keep `mesh` or `tls`");
            None
        }
        (None, None) if later => None,
        (None, None) => {
            findings
                .error("E013", span, "peer needs `mesh` or `tls`")
                .hint("write `{mesh: {identities: […]}}`, or `{tls: {serverNames: […], roots: system}}` for a service outside the mesh");
            None
        }
    }
}

fn mesh_peer(
    node: &Node,
    endpoints: &[Endpoint],
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<DestinationPeer> {
    let mut fields = Fields::of(node, "mesh", findings)?;
    let all_named = !endpoints.is_empty() && endpoints.iter().all(|e| !e.identities.is_empty());
    let listed = match all_named {
        true => fields.optional("identities"),
        false => fields.required("identities", findings),
    };
    fields.finish(findings);
    Some(DestinationPeer::Mesh { identities: identities(listed, known, findings) })
}

/// SPIFFE IDs of this mesh, or of one federated trust domain.
fn identities(node: Option<&Node>, known: &Known, findings: &mut Findings<'_>) -> Vec<WorkloadId> {
    let mut out: Vec<WorkloadId> = Vec::new();
    for node in read::filled_list(node, findings) {
        let Some(id) = scalars::workload_id(node, findings) else { continue };
        let domain = id.trust_domain();
        match &known.trust_domain {
            Some(own) if own != domain && !known.federated.contains_key(domain) => {
                let message = format!(
                    "trust domain `{domain}` is not this mesh's own, `{own}`, and not federated"
                );
                findings.error("E005", node.span, message).hint(format!(
                    "add `federation: [{{trustDomain: {domain}, bundle: …}}]` to MeshConfig"
                ));
            }
            _ => out.push(id),
        }
    }
    out
}

fn tls_peer(node: &Node, findings: &mut Findings<'_>) -> Option<DestinationPeer> {
    let mut fields = Fields::of(node, "tls", findings)?;
    let names = fields.required("serverNames", findings);
    let roots = fields.required("roots", findings);
    fields.finish(findings);
    let mut server_names: Vec<String> = Vec::new();
    for node in read::filled_list(names, findings) {
        let Some(name) = scalars::host(node, findings) else { continue };
        if server_names.contains(&name) {
            findings.error("E019", node.span, format!("`{name}` stands in the list twice"));
        } else {
            server_names.push(name);
        }
    }
    let roots = roots.and_then(|node| tls_roots(node, findings));
    Some(DestinationPeer::Tls { server_names, roots: roots? })
}

/// `system` or `{file: PATH}`.
pub(super) fn tls_roots(node: &Node, findings: &mut Findings<'_>) -> Option<TlsRoots> {
    if node.text() == Some("system") {
        return Some(TlsRoots::System);
    }
    if node.text().is_some() {
        findings
            .error("E013", node.span, format!("unknown value {}", node.describe()))
            .hint("write `system` or `{file: roots.pem}`");
        return None;
    }
    let mut fields = Fields::of(node, "roots", findings)?;
    let file = fields.required("file", findings);
    fields.finish(findings);
    scalars::file(file?, findings).map(TlsRoots::File)
}

/// What a destination outside the mesh cannot have.
fn outside_fits(endpoints: Option<&Node>, ports: Option<&Node>, findings: &mut Findings<'_>) {
    for endpoint in read::list(endpoints, findings) {
        if let Some(node) = endpoint.get("identities") {
            findings
                .error("E004", node.span, "a server outside the mesh has no mesh identity")
                .hint("its certificate is compared with `peer.tls.serverNames`");
        }
    }
    for port in read::list(ports, findings) {
        if let Some(node) = port.get("protocol").filter(|node| node.text() == Some("tcp")) {
            findings
                .error("E004", node.span, "bytes of an unknown protocol are not put into TLS for a server outside the mesh")
                .hint("let the app speak TLS itself, and its connection pass: `outbound: {unknown: pass}`");
        }
    }
}
