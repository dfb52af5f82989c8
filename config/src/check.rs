//! Checks that compare one field of a `ProxyConfig` with another, or with the documents.
//! Each check is one function; they run after reading, so every value they see is well formed.

mod captured;

use countersign_policy::doc::{ContextPolicy, ContextRole, DestinationPort, DeviceSource};
use countersign_policy::yaml::{Findings, Span, did_you_mean};
use countersign_policy::{Documents, Named};

use crate::proxy::{DestinationRef, ListenMode, ProxyConfig, covers};
use crate::read::{Places, Written, nearest};

/// Checks that need nothing but the `ProxyConfig`.
pub(crate) fn alone(written: &Written, findings: &mut Findings<'_>) {
    let Written { config, places } = written;
    listeners_differ(places, findings);
    let Some(config) = config else { return };
    app_is_somebody_else(config, places, findings);
    inbound_ports_lead_somewhere(config, places, findings);
    captured::alone(config, places, findings);
    gateway_is_whole(config, places, findings);
}

/// Checks against the documents in force.
pub(crate) fn against(written: &Written, documents: &Documents, findings: &mut Findings<'_>) {
    let Written { config: Some(config), places } = written else { return };
    destinations_exist(config, places, documents, findings);
    identity_fits(config, places, documents, findings);
    gateway_is_selected(config, places, documents, findings);
    captured::against(config, places, documents, findings);
    listeners_name_federated_domains(places, documents, findings);
}

/// No two listeners want the same address.
fn listeners_differ(places: &Places, findings: &mut Findings<'_>) {
    for (at, (field, address, span)) in places.listeners.iter().enumerate() {
        let mut earlier = places.listeners.iter().take(at);
        let clash = earlier
            .find(|(_, other, _)| covers(*other, *address, &[]) || covers(*address, *other, &[]));
        if let Some((other, other_address, _)) = clash {
            let message = format!(
                "`{field}` would listen on {address}, as `{other}` does on {other_address}"
            );
            findings.error("P002", *span, message).hint("give each listener its own port");
        }
    }
}

/// Handing a request to the app must not bring it back to us.
fn app_is_somebody_else(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    for (app, span) in config.app.iter().zip(&places.app) {
        if let Some(address) = app.address
            && config.is_own(address, &[])
        {
            let message =
                format!("the app address {address} is one of this process's own listeners");
            findings.error("P003", *span, message).hint("name the port the app itself listens on");
        }
    }
}

/// An explicit inbound listener finds its app by its own port.
fn inbound_ports_lead_somewhere(
    config: &ProxyConfig,
    places: &Places,
    findings: &mut Findings<'_>,
) {
    for (listener, span) in config.inbound.iter().zip(&places.inbound) {
        let port = listener.address.port();
        if listener.mode == ListenMode::Explicit && !config.app_answers(port) {
            let message = format!("nothing says where requests to port {port} go");
            let hint = format!("add `app: [{{port: {port}, address: \"127.0.0.1:PORT\"}}]`");
            findings.error("P004", *span, message).hint(hint);
        }
    }
}

/// Public listeners and routes need each other.
fn gateway_is_whole(config: &ProxyConfig, places: &Places, findings: &mut Findings<'_>) {
    let serves = config.gateway.iter().any(|listener| !listener.redirect_to_https);
    if let Some(span) = places.gateway.first()
        && serves
        && config.routes.is_empty()
    {
        let hint = "add `gateway: {routes: [{destination: NAMESPACE/NAME}]}`";
        findings
            .error("P005", *span, "a gateway listener without routes answers 404 to everything")
            .hint(hint);
    }
    if let Some(span) = places.routes.first()
        && !serves
    {
        let hint = "add `listeners: {gateway: [{address: …}]}` or remove the routes";
        findings
            .error("P005", *span, "routes without a gateway listener are never used")
            .hint(hint);
    }
    let https = config.gateway.iter().any(|listener| listener.tls.is_some());
    for (listener, span) in config.gateway.iter().zip(&places.gateway) {
        if listener.redirect_to_https && !https {
            findings
                .error(
                    "P005",
                    *span,
                    "`redirectToHttps` leads nowhere: no gateway listener has `tls`",
                )
                .hint("add a listener with `tls: {certificate: PATH, key: PATH}`");
        }
    }
}

/// Every Destination that is named is a document, and is not ourselves.
fn destinations_exist(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    let names: Vec<String> =
        documents.destinations.iter().map(|d| format!("{}/{}", d.namespace, d.name)).collect();
    for (reference, span) in &places.destinations {
        let Some(found) = documents.destination(&reference.namespace, &reference.name) else {
            let name = format!("{}/{}", reference.namespace, reference.name);
            let message = format!("there is no Destination `{name}`");
            let hint = nearest(&name, names.iter().map(String::as_str));
            findings.error("E005", *span, message).hint(hint);
            continue;
        };
        port_is_named(reference, *span, &found.spec.ports, findings);
        let own = found.spec.endpoints.iter().find(|e| config.is_own(e.socket_addr(), &[]));
        if let Some(endpoint) = own {
            let address = endpoint.socket_addr();
            let message =
                format!("`{reference}` leads to {address}, one of this process's own listeners");
            findings
                .error("P003", *span, message)
                .hint("a process cannot call itself through itself");
        }
    }
}

/// Which port of a destination is meant: the one that is named, port 80, or the only one.
fn port_is_named(
    reference: &DestinationRef,
    span: Span,
    ports: &[DestinationPort],
    findings: &mut Findings<'_>,
) {
    let all: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
    let wanted = reference.port.unwrap_or(80);
    if ports.iter().any(|port| port.port == wanted) || (reference.port.is_none() && all.len() < 2) {
        return;
    }
    let (namespace, name, all) = (&reference.namespace, &reference.name, all.join(", "));
    let message = match reference.port {
        Some(port) => format!("`{namespace}/{name}` has no port {port}; it has {all}"),
        None => format!("`{namespace}/{name}` has the ports {all}, and none of them is 80"),
    };
    let hint = format!("name one of them, as in `{namespace}/{name}:PORT`");
    findings.error("E005", span, message).hint(hint);
}

/// The identity is of this mesh, and of the namespace that selectors compare.
fn identity_fits(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    let (Some(id), Some(span)) = (&config.expected_id, places.expected_id) else { return };
    let mesh = &documents.mesh.trust_domain;
    if id.trust_domain() != mesh {
        let message = format!("`{id}` is not of this mesh, whose trust domain is `{mesh}`");
        let near = did_you_mean(id.trust_domain().as_str(), [mesh.as_str()]);
        findings.error("P006", span, message).maybe_hint(near);
    }
    if let Some(namespace) = id.namespace()
        && namespace != config.namespace
    {
        let message = format!(
            "policies are selected for namespace `{}`, but the identity is of namespace `{namespace}`",
            config.namespace
        );
        findings.warn("P007", span, message).hint("write the same namespace in both places");
    }
}

/// A listener accepts other trust domains only where the mesh is federated with them. Without that
/// nobody of that domain gets in, so it is no error: an entry that is taken out of the mesh cuts a
/// partner off, whatever listeners name.
fn listeners_name_federated_domains(
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    let mesh = &documents.mesh;
    for (domain, span) in &places.trust_domains {
        if *domain == mesh.trust_domain {
            let message =
                format!("`{domain}` is this mesh itself, whose workloads may always call");
            findings.error("P011", *span, message).hint("name other trust domains only");
        } else if !mesh.is_federated_with(domain) {
            let message = format!(
                "the mesh is not federated with `{domain}`, so none of its workloads gets in"
            );
            let known = mesh.federation.iter().map(|entry| entry.trust_domain.as_str());
            let near = did_you_mean(domain.as_str(), known).unwrap_or_else(|| {
                format!("add `federation: [{{trustDomain: {domain}, bundle: …}}]` to MeshConfig")
            });
            findings.warn("P011", *span, message).hint(near);
        }
    }
}

/// A gateway mints by exactly one ContextPolicy.
fn gateway_is_selected(
    config: &ProxyConfig,
    places: &Places,
    documents: &Documents,
    findings: &mut Findings<'_>,
) {
    let Some(span) = places.gateway.first() else { return };
    let mine: Vec<&Named<ContextPolicy>> = documents
        .gateways
        .iter()
        .filter(|g| g.spec.role == ContextRole::Gateway)
        .filter(|g| g.namespace == config.namespace && g.spec.selector.selects(&config.labels))
        .collect();
    match mine.as_slice() {
        [one] => trust_bundles_exist(config, &one.spec, *span, findings),
        [] => {
            let message = "no ContextPolicy selects this gateway, so it could mint nothing";
            let hint = format!(
                "add one in namespace `{}` whose selector matches the labels of this process",
                config.namespace
            );
            findings.error("P008", *span, message).hint(hint);
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|g| format!("`{}/{}`", g.namespace, g.name)).collect();
            let message = format!(
                "{} ContextPolicies select this gateway: {}",
                names.len(),
                names.join(", ")
            );
            findings.error("P008", *span, message).hint("make their selectors exclude each other");
        }
    }
}

/// A listener knows the authorities that devices and proxies are told by.
fn trust_bundles_exist(
    config: &ProxyConfig,
    policy: &ContextPolicy,
    span: Span,
    findings: &mut Findings<'_>,
) {
    let tls = || config.gateway.iter().filter_map(|listener| listener.tls.as_ref());
    let devices = policy.device.sources.iter().filter_map(|source| match source {
        DeviceSource::ClientCertificate { trust_bundle, .. } => Some(trust_bundle),
        DeviceSource::Header { .. } | DeviceSource::Claim { .. } => None,
    });
    let mut wanted: Vec<&String> =
        policy.proxies.iter().map(|proxy| &proxy.trust_bundle).chain(devices).collect();
    wanted.sort();
    wanted.dedup();
    for name in wanted {
        if tls().any(|tls| tls.client_roots.contains_key(name)) {
            continue;
        }
        let known = tls().flat_map(|tls| tls.client_roots.keys());
        let hint = did_you_mean(name, known.map(String::as_str));
        let hint =
            hint.unwrap_or_else(|| format!("add `clientRoots: {{{name}: PATH}}` to its `tls`"));
        let message = format!(
            "the ContextPolicy names the trust bundle `{name}`, and no gateway listener has it in \
             `tls.clientRoots`"
        );
        findings.error("E005", span, message).hint(hint);
    }
}
