//! The fields of `spec` about traffic: listeners, routes, the app's addresses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use countersign_policy::host::canonical_host;
use countersign_policy::path::{CanonicalOptions, CanonicalPath};
use countersign_policy::yaml::{Fields, Node, Value, read};
use countersign_workload_id::TrustDomain;
use ipnet::IpNet;

use super::Reader;
use crate::limits::CLIENT_ROOTS_MAX;
use crate::proxy::{
    ClientCertificates, CorsPreflight, GatewayListener, InboundListener, ListenMode,
    OutboundListener, Route, ServerCertificate,
};

type Modes = &'static [(&'static str, ListenMode)];

const INBOUND_MODES: Modes = &[
    ("explicit", ListenMode::Explicit),
    ("redirect", ListenMode::Redirect),
    ("tproxy", ListenMode::Tproxy),
];
const OUTBOUND_MODES: Modes =
    &[("explicit", ListenMode::Explicit), ("redirect", ListenMode::Redirect)];

type Listeners = (Vec<InboundListener>, Vec<OutboundListener>, Vec<GatewayListener>);

impl Reader<'_, '_> {
    /// `listeners`, all three directions.
    pub(super) fn listeners(&mut self, node: Option<&Node>) -> Listeners {
        let Some(mut fields) = self.fields(node, "`listeners`") else {
            return Listeners::default();
        };
        let (inbound, outbound) = (fields.optional("inbound"), fields.optional("outbound"));
        let gateway = fields.optional("gateway");
        if inbound.is_none() && outbound.is_none() && gateway.is_none() {
            let hint = "name at least one of `inbound`, `outbound`, `gateway`";
            self.findings.error("E001", fields.span(), "nothing listens").hint(hint);
        }
        self.finish(fields);
        let mut all = Listeners::default();
        for item in read::filled_list(inbound, self.findings) {
            all.0.extend(self.inbound(item));
        }
        for item in read::filled_list(outbound, self.findings) {
            all.1.extend(self.outbound(item));
        }
        for item in read::filled_list(gateway, self.findings) {
            all.2.extend(self.gateway(item));
        }
        all
    }

    fn inbound(&mut self, node: &Node) -> Option<InboundListener> {
        let mut fields = Fields::of(node, "an inbound listener", self.findings)?;
        let address = self.own_address("listeners.inbound", &mut fields);
        let mode = self.mode(&mut fields, INBOUND_MODES);
        let trust_domains = self.trust_domains(fields.optional("trustDomains"));
        self.finish(fields);
        let listener = InboundListener { address: address?, mode, trust_domains };
        self.places.inbound.push(node.span);
        Some(listener)
    }

    /// Other trust domains by name, sorted; remembered with their places.
    fn trust_domains(&mut self, node: Option<&Node>) -> Vec<TrustDomain> {
        let mut domains = Vec::new();
        for item in read::filled_list(node, self.findings) {
            let Some(text) = read::short_string(item, 255, self.findings) else { continue };
            match TrustDomain::parse(&text) {
                Ok(domain) if domains.contains(&domain) => {
                    let message = format!("{} stands in the list twice", item.describe());
                    self.findings.error("E019", item.span, message);
                }
                Ok(domain) => {
                    self.places.trust_domains.push((domain.clone(), item.span));
                    domains.push(domain);
                }
                Err(error) => {
                    let message = format!("`{text}` is not a trust domain: {error}");
                    self.error(item.span, message, "as in `partner.example`");
                }
            }
        }
        domains.sort();
        domains
    }

    fn outbound(&mut self, node: &Node) -> Option<OutboundListener> {
        let mut fields = Fields::of(node, "an outbound listener", self.findings)?;
        let address = self.own_address("listeners.outbound", &mut fields);
        let mode = self.mode(&mut fields, OUTBOUND_MODES);
        let destination = fields.optional("destination").and_then(|node| self.destination(node));
        self.finish(fields);
        let listener = OutboundListener { address: address?, mode, destination };
        self.places.outbound.push(node.span);
        Some(listener)
    }

    fn mode(&mut self, fields: &mut Fields<'_>, words: Modes) -> ListenMode {
        let node = fields.optional("mode");
        let mode = node.and_then(|node| read::one_of(node, words, self.findings));
        mode.unwrap_or(ListenMode::Explicit)
    }

    fn gateway(&mut self, node: &Node) -> Option<GatewayListener> {
        let mut fields = Fields::of(node, "a gateway listener", self.findings)?;
        let address = self.own_address("listeners.gateway", &mut fields);
        let tls = fields.optional("tls").and_then(|node| self.server_certificate(node));
        let proxy_protocol_from = self.proxy_protocol(fields.optional("proxyProtocol"));
        let redirect = fields.optional("redirectToHttps");
        let redirect_to_https = redirect
            .is_some_and(|node| read::only_true(node, "redirectToHttps", self.findings).is_some());
        self.finish(fields);
        if let (Some(redirect), Some(_)) = (redirect, &tls) {
            let message = "a listener with `tls` cannot redirect to HTTPS: it is HTTPS";
            self.error(redirect.span, message, "remove `tls` or `redirectToHttps`");
        }
        let listener =
            GatewayListener { address: address?, tls, proxy_protocol_from, redirect_to_https };
        self.places.gateway.push(node.span);
        Some(listener)
    }

    fn server_certificate(&mut self, node: &Node) -> Option<ServerCertificate> {
        let mut fields = Fields::of(node, "`tls`", self.findings)?;
        let certificate = self.required_path(&mut fields, "certificate");
        let key = self.required_path(&mut fields, "key");
        let client_roots = self.client_roots(fields.optional("clientRoots"));
        let words = [("roots", ClientCertificates::Roots), ("any", ClientCertificates::Any)];
        let client_certificates = fields
            .optional("clientCertificates")
            .and_then(|node| read::one_of(node, &words, self.findings))
            .unwrap_or_default();
        self.finish(fields);
        Some(ServerCertificate { certificate, key, client_roots, client_certificates })
    }

    /// `{device-ca: devices.pem}`: files of authorities by the name documents use.
    fn client_roots(&mut self, node: Option<&Node>) -> BTreeMap<String, PathBuf> {
        let mut roots = BTreeMap::new();
        let Some(node) = node else { return roots };
        let Value::Map(entries) = &node.value else {
            let message = "`clientRoots` must be a mapping of names to files";
            self.error(node.span, message, "as in `{device-ca: devices.pem}`");
            return roots;
        };
        if entries.is_empty() || entries.len() > CLIENT_ROOTS_MAX {
            let message = format!("`clientRoots` has {} entries", entries.len());
            self.error(node.span, message, format!("name 1 to {CLIENT_ROOTS_MAX} authorities"));
        }
        for (key, value) in entries {
            let fits = (1..=64).contains(&key.text.len())
                && key.text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !fits {
                let message = format!("`{}` is no name of an authority", key.text);
                self.error(key.span, message, "up to 64 letters, digits and `-`");
            }
            if let Some(file) = self.path(value) {
                roots.insert(key.text.clone(), file);
            }
        }
        roots
    }

    fn proxy_protocol(&mut self, node: Option<&Node>) -> Vec<IpNet> {
        let Some(mut fields) = self.fields(node, "`proxyProtocol`") else { return Vec::new() };
        let from = fields.required("from", self.findings);
        self.finish(fields);
        let mut nets = Vec::new();
        for item in read::filled_list(from, self.findings) {
            nets.extend(self.network(item));
        }
        nets
    }

    /// An address range that does not stand for everybody.
    pub(super) fn network(&mut self, node: &Node) -> Option<IpNet> {
        let text = read::short_string(node, 64, self.findings)?;
        let Ok(net) = text.parse::<IpNet>() else {
            let hint = "write it as `10.20.1.0/24`; a single address is `10.20.1.7/32`";
            self.error(node.span, format!("`{text}` is not an address range"), hint);
            return None;
        };
        if net.trunc() != net {
            let hint = format!("write `{}`", net.trunc());
            self.error(node.span, format!("`{text}` has bits beyond its prefix"), hint);
            return None;
        }
        if net.prefix_len() == 0 {
            let hint = "name the addresses of your own load balancers";
            let message = format!("`{text}` would let every client choose its own address");
            self.findings.error("E009", node.span, message).hint(hint);
            return None;
        }
        Some(net)
    }

    /// `gateway.routes`.
    pub(super) fn routes(&mut self, node: Option<&Node>) -> Vec<Route> {
        let Some(mut fields) = self.fields(node, "`gateway`") else { return Vec::new() };
        let list = fields.required("routes", self.findings);
        self.finish(fields);
        let mut routes: Vec<Route> = Vec::new();
        for item in read::filled_list(list, self.findings) {
            let Some(route) = self.route(item) else { continue };
            if routes.iter().any(|r| r.host == route.host && r.prefix == route.prefix) {
                let host = route.host.as_deref().unwrap_or("every host");
                let message = format!("there are two routes for {host} and `{}`", route.prefix);
                self.findings.error("E019", item.span, message).hint("remove one of them");
            }
            routes.push(route);
            self.places.routes.push(item.span);
        }
        routes
    }

    fn route(&mut self, node: &Node) -> Option<Route> {
        let mut fields = Fields::of(node, "a route", self.findings)?;
        let host = fields.optional("host").and_then(|node| self.host(node));
        let prefix = self.prefix(fields.optional("path"));
        let destination = fields.required("destination", self.findings);
        let destination = destination.and_then(|node| self.destination(node));
        let words = [("pass", CorsPreflight::Pass), ("authenticate", CorsPreflight::Authenticate)];
        let cors_preflight = fields
            .optional("corsPreflight")
            .and_then(|node| read::one_of(node, &words, self.findings))
            .unwrap_or(CorsPreflight::Authenticate);
        self.finish(fields);
        Some(Route { host, prefix, destination: destination?, cors_preflight })
    }

    fn host(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 253, self.findings)?;
        match canonical_host(&text) {
            Ok(host) if host == text => Some(host),
            Ok(host) => {
                self.error(
                    node.span,
                    format!("`{text}` is not in canonical form"),
                    format!("write `{host}`"),
                );
                None
            }
            Err(error) => {
                let message = format!("`{text}` is not a host: {error}");
                self.error(
                    node.span,
                    message,
                    "a name or address without scheme, port and wildcard",
                );
                None
            }
        }
    }

    /// `{prefix: /v1/users}`; nothing is every path.
    fn prefix(&mut self, node: Option<&Node>) -> String {
        let all = "/".to_owned();
        let Some(mut fields) = self.fields(node, "`path`") else { return all };
        let prefix = fields.required("prefix", self.findings);
        self.finish(fields);
        let Some(node) = prefix else { return all };
        let Some(text) = read::short_string(node, 1024, self.findings) else { return all };
        let canonical = CanonicalPath::parse(&text, CanonicalOptions::default());
        match canonical {
            Ok(path) if path.path() == text => text,
            _ => {
                let message = format!("`{text}` is not a canonical path");
                let hint = "it starts with `/` and has no `//`, `.`, `..`, `?` or needless `%`";
                self.findings.error("E014", node.span, message).hint(hint);
                all
            }
        }
    }
}
