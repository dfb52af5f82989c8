//! Reads `Destination`.

use super::{known::Known, scalars};
use crate::{
    doc::{Destination, Endpoint, PortProtocol, destination::DestinationPort},
    yaml::{Fields, Findings, Node, read},
};

pub(super) fn read(
    node: &Node,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<Destination> {
    let mut fields = Fields::of(node, "Destination", findings)?;
    let hosts_node = fields.optional("hosts");
    fields.not_yet("addresses", findings);
    let ports: Vec<DestinationPort> =
        read::filled_list(fields.required("ports", findings), findings)
            .iter()
            .filter_map(|node| port(node, findings))
            .collect();
    let hosts = hosts(hosts_node, &ports, known, findings);
    let endpoints = read::filled_list(fields.required("endpoints", findings), findings)
        .iter()
        .filter_map(|node| endpoint(node, findings))
        .collect();
    let peer = fields.required("peer", findings);
    fields.finish(findings);
    let identities = mesh_peer(peer?, known, findings)?;
    Some(Destination { hosts, ports, endpoints, identities })
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
            if let Some(first) = known.hosts.get(&key) {
                let place = findings.place(*first);
                let message = format!("`{host}:{}` belongs to a destination already", port.port);
                findings
                    .error("E019", node.span, message)
                    .hint(format!("the first one is at {}:{}", place.file, place.line));
            } else {
                known.hosts.insert(key, node.span);
            }
        }
        hosts.push(host);
    }
    hosts
}

fn port(node: &Node, findings: &mut Findings<'_>) -> Option<DestinationPort> {
    let mut fields = Fields::of(node, "a port", findings)?;
    let port = fields.required("port", findings).and_then(|node| read::port(node, findings));
    let protocol = fields.required("protocol", findings).and_then(|node| {
        if node.text() == Some("tcp") {
            findings.error("E013", node.span, "`protocol: tcp` is not supported yet");
            return None;
        }
        let protocols = [("http", PortProtocol::Http), ("grpc", PortProtocol::Grpc)];
        read::one_of(node, &protocols, findings)
    });
    let preserve = fields.optional("preserveHttp1").and_then(|node| read::boolean(node, findings));
    fields.finish(findings);
    let preserve_http1 = preserve.unwrap_or(false);
    Some(DestinationPort { port: port?, protocol: protocol?, preserve_http1 })
}

fn endpoint(node: &Node, findings: &mut Findings<'_>) -> Option<Endpoint> {
    let mut fields = Fields::of(node, "an endpoint", findings)?;
    let address = fields.required("address", findings).and_then(|n| scalars::ip(n, findings));
    let port = fields.required("port", findings).and_then(|node| read::port(node, findings));
    fields.finish(findings);
    Some(Endpoint { address: address?, port: port? })
}

/// `peer: {mesh: {identities: […]}}`.
fn mesh_peer(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<Vec<countersign_workload_id::WorkloadId>> {
    let mut fields = Fields::of(node, "peer", findings)?;
    fields.not_yet("tls", findings);
    fields.not_yet("plaintext", findings);
    let later = ["tls", "plaintext"].iter().any(|name| node.get(name).is_some());
    let mesh = if later { fields.optional("mesh") } else { fields.required("mesh", findings) };
    fields.finish(findings);
    let mut fields = Fields::of(mesh?, "mesh", findings)?;
    let identities = fields.required("identities", findings);
    fields.finish(findings);
    let mut out = Vec::new();
    for node in read::filled_list(identities, findings) {
        let Some(id) = scalars::workload_id(node, findings) else { continue };
        let domain = id.trust_domain();
        match &known.trust_domain {
            Some(own) if own != domain => {
                let message = format!(
                    "trust domain `{}` is not this mesh's own, `{}`",
                    domain.as_str(),
                    own.as_str()
                );
                findings.error("E005", node.span, message);
            }
            _ => out.push(id),
        }
    }
    Some(out)
}
