//! Checks of listeners that the kernel redirects to, and of ports that are never looked into.

use std::net::SocketAddr;

use countersign_policy::doc::{AccessPolicy, DestinationPeer, DestinationPort, PortProtocol, Rule};
use countersign_policy::yaml::{Findings, Span};
use countersign_policy::{Documents, Workload, selected_policies};

use crate::proxy::{ListenMode, ProxyConfig};
use crate::read::Places;

/// Checks that need nothing but the `ProxyConfig`.
pub(super) fn alone(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    one_table_serves_all(config, places, findings);
    addresses_fit(config, places, findings);
    ports_are_captured(config, places, findings);
    tls_fits_protocol(config, places, findings);
}

/// Checks against the documents in force.
pub(super) fn against(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    rules_can_be_enforced(config, places, documents, findings);
    gateways_lead_to_requests(config, places, documents, findings);
}

/// The rules in the kernel redirect both directions, each to one port.
fn one_table_serves_all(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    let inbound: Vec<(SocketAddr, ListenMode, Span)> = config
        .inbound
        .iter()
        .zip(&places.inbound)
        .filter(|(listener, _)| listener.mode.is_captured())
        .map(|(listener, span)| (listener.address, listener.mode, *span))
        .collect();
    let outbound: Vec<(SocketAddr, ListenMode, Span)> = config
        .outbound
        .iter()
        .zip(&places.outbound)
        .filter(|(listener, _)| listener.mode.is_captured())
        .map(|(listener, span)| (listener.address, listener.mode, *span))
        .collect();
    for (listeners, what) in [(&inbound, "inbound"), (&outbound, "outbound")] {
        let mut rest = listeners.iter();
        let Some((first, mode, _)) = rest.next() else { continue };
        for (address, other, span) in rest {
            if address.port() != first.port() {
                let message = format!(
                    "{what} connections are redirected to port {} already, not also to {}",
                    first.port(),
                    address.port()
                );
                findings.error("P009", *span, message).hint("use one port for all its addresses");
            }
            if other != mode {
                let message = format!("{what} connections are redirected in one way, here are two");
                findings.error("P009", *span, message).hint("use `redirect` or `tproxy` in all");
            }
        }
    }
    match (inbound.first(), outbound.first()) {
        (Some((_, _, span)), None) => {
            let message = "the redirect takes both directions, and nothing takes outbound ones";
            let hint = "add `outbound: [{address: \"127.0.0.1:15001\", mode: redirect}]`";
            findings.error("P009", *span, message).hint(hint);
        }
        (None, Some((_, _, span))) => {
            let message = "the redirect takes both directions, and nothing takes inbound ones";
            let hint = "add `inbound: [{address: \"[::]:15006\", mode: redirect}]`";
            findings.error("P009", *span, message).hint(hint);
        }
        (None, None) => {
            if let Some(span) = places.interception {
                let message = "nothing is redirected here, so `interception` has no effect";
                let hint = "remove it, or write `mode: redirect` for the listeners";
                findings.error("P009", span, message).hint(hint);
            }
        }
        (Some(_), Some(_)) => {}
    }
}

/// Where redirected connections arrive.
fn addresses_fit(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    for (listener, span) in config.inbound.iter().zip(&places.inbound) {
        let (address, port) = (listener.address, listener.address.port());
        if listener.mode.is_captured() && address.ip().is_loopback() {
            let message = format!("nothing from outside reaches {address}");
            findings.error("P009", *span, message).hint(format!("write `[::]:{port}`"));
        }
    }
    for (listener, span) in config.outbound.iter().zip(&places.outbound) {
        let (address, port) = (listener.address, listener.address.port());
        if !listener.mode.is_captured() {
            continue;
        }
        if !address.ip().is_loopback() {
            let message = format!("{address} would take calls of other pods as the app's own");
            let hint = format!("write `127.0.0.1:{port}`, and `[::1]:{port}` for IPv6");
            findings.error("P009", *span, message).hint(hint);
        }
        if let Some(destination) = &listener.destination {
            let message = format!(
                "a redirected connection names its own destination, not always `{destination}`"
            );
            findings
                .error("P009", *span, message)
                .hint("leave `destination` out, or write `mode: explicit`");
        }
    }
}

/// What is said about a port needs the port's connections to come here.
fn ports_are_captured(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    let tproxy = config.inbound.iter().any(|listener| listener.mode == ListenMode::Tproxy);
    for (app, span) in config.app.iter().zip(&places.app) {
        if config.interception.skip_inbound_ports.contains(&app.port) {
            let message = format!("port {} is left out by `skipInboundPorts`", app.port);
            findings
                .error("P009", *span, message)
                .hint("connections to it never come here: remove one of the two");
        }
        if let Some(address) = app.address
            && tproxy
            && address.ip().is_loopback()
        {
            let message = format!(
                "under `tproxy` the app is called from the client's address, which cannot reach {address}"
            );
            findings.error("P009", *span, message).hint("leave `address` out, or use `redirect`");
        }
    }
}

/// A port where the app speaks TLS itself shows no HTTP.
fn tls_fits_protocol(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    for (app, span) in config.app.iter().zip(&places.app) {
        let Some(protocol @ (PortProtocol::Http | PortProtocol::Grpc)) = app.protocol else {
            continue;
        };
        if app.tls == crate::proxy::AppTls::Pass {
            let message = format!(
                "port {} is declared `{}`, and `tls: pass` hides what is inside",
                app.port,
                protocol.as_str()
            );
            findings.error("E004", *span, message).hint("write `protocol: tcp` or another `tls`");
        }
    }
}

/// A rule about requests says nothing about bytes that nobody looks into: one that names such a
/// port is refused.
fn rules_can_be_enforced(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    let workload = Workload { namespace: config.namespace.clone(), labels: config.labels.clone() };
    for policy in selected_policies(documents, &workload) {
        for rule in policy.rules.iter().filter(|rule| rule.reads_requests()) {
            for port in &policy.ports {
                if config.port_protocol(*port) == Some(PortProtocol::Tcp) {
                    unenforceable(config, places, policy, rule, *port, findings);
                }
            }
            if policy.ports.is_empty() {
                closes_opaque_ports(config, places, policy, rule, findings);
            }
        }
    }
}

/// Where a rule looks into requests, bytes that show none are refused.
fn closes_opaque_ports(
    config: &ProxyConfig,
    places: &Places,
    policy: &AccessPolicy,
    rule: &Rule,
    findings: &mut Findings<'_>,
) {
    for (app, span) in config.app.iter().zip(&places.app) {
        if config.port_protocol(app.port) != Some(PortProtocol::Tcp) {
            continue;
        }
        let message = format!(
            "rule `{}/{}/{}` ({}:{}) is about requests on every port, so port {}, which is `tcp`, takes no connection",
            policy.namespace, policy.name, rule.name, rule.place.file, rule.place.line, app.port
        );
        findings.warn("P010", *span, message).hint("give that policy the `ports` it is about");
    }
}

fn unenforceable(
    config: &ProxyConfig,
    places: &Places,
    policy: &AccessPolicy,
    rule: &Rule,
    port: u16,
    findings: &mut Findings<'_>,
) {
    let entry = config.app.iter().zip(&places.app).find(|(app, _)| app.port == port);
    let declared = entry.is_some_and(|(app, _)| app.protocol.is_some());
    let Some(span) = entry.map(|(_, span)| *span).or(places.spec) else { return };
    let why = if declared { "is declared `tcp`" } else { "is `tcp` unless declared" };
    let message = format!(
        "rule `{}/{}/{}` ({}:{}) is about requests, but port {port} {why}: nobody looks into its bytes",
        policy.namespace, policy.name, rule.name, rule.place.file, rule.place.line
    );
    let hint = format!(
        "declare `app: [{{port: {port}, protocol: http}}]`, or write the rule with `tcp: {{any: true}}`"
    );
    findings.error("E004", span, message).hint(hint);
}

/// A gateway speaks HTTP, to workloads of the mesh.
fn gateways_lead_to_requests(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    for (route, span) in config.routes.iter().zip(&places.routes) {
        let name = &route.destination;
        let Some(found) = documents.destination(&name.namespace, &name.name) else { continue };
        if matches!(found.spec.peer, DestinationPeer::Tls { .. }) {
            let message = format!("`{name}` is outside the mesh, and a gateway leads into it");
            let hint = "let a workload of the mesh call it, with a policy of its own";
            findings.error("E004", *span, message).hint(hint);
            continue;
        }
        let meant = |port: &&DestinationPort| name.port.is_none_or(|named| named == port.port);
        let mut meant = found.spec.ports.iter().filter(meant);
        if meant.all(|port| port.protocol == PortProtocol::Tcp) {
            let message = format!("`{name}` speaks no HTTP, and a gateway routes requests");
            findings.error("E004", *span, message).hint("declare its port `http` or `grpc`");
        }
    }
}
