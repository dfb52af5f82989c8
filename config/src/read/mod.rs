//! From the YAML tree of one file to a [`ProxyConfig`], with the place of everything that later
//! checks may complain about.
//!
//! Every field is asked for by name, so a field nobody asked for is reported; reading goes on after
//! a problem, so that one run reports all of them. Nothing here opens a file.

mod identity;
mod issuer;
mod listeners;
mod local;
mod pod;
mod process;
mod signer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use countersign_policy::yaml::{Fields, Findings, Node, Span, Value, did_you_mean, read};
use countersign_workload_id::TrustDomain;

use crate::proxy::{DestinationRef, ProxyConfig};

/// The one version of the format.
const API_VERSION: &str = "countersign.dev/v1alpha1";

pub(crate) use signer::signer_config;

/// What was read, with the places later checks point to.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// `None` if the essentials are missing; then `findings` says so.
    pub(crate) config: Option<ProxyConfig>,
    pub(crate) places: Places,
}

/// Where values stand that are compared with other values or documents.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The whole `spec`.
    pub(crate) spec: Option<Span>,
    pub(crate) expected_id: Option<Span>,
    /// Own addresses with the field that holds them.
    pub(crate) listeners: Vec<(&'static str, SocketAddr, Span)>,
    /// One per `inbound` listener.
    pub(crate) inbound: Vec<Span>,
    /// One per `outbound` listener.
    pub(crate) outbound: Vec<Span>,
    /// One per `gateway` listener.
    pub(crate) gateway: Vec<Span>,
    /// One per route.
    pub(crate) routes: Vec<Span>,
    /// One per `app` entry.
    pub(crate) app: Vec<Span>,
    /// `interception`, if it is written.
    pub(crate) interception: Option<Span>,
    /// Every entry of `listeners.inbound[].trustDomains`.
    pub(crate) trust_domains: Vec<(TrustDomain, Span)>,
    /// Every reference to a Destination.
    pub(crate) destinations: Vec<(DestinationRef, Span)>,
    /// Every entry of `documents.files`.
    pub(crate) documents: Vec<(PathBuf, Span)>,
}

/// What a process finds around it; the file may say otherwise.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// `$SPIFFE_ENDPOINT_SOCKET`.
    pub(crate) spiffe_socket: Option<String>,
    /// `$COUNTERSIGN_POD_IPS`.
    pub(crate) pod_ips: Option<String>,
    /// The API server, if we run in Kubernetes: `https://HOST:PORT`.
    pub(crate) kubernetes: Option<String>,
}

/// What every reading function needs.
pub(crate) struct Reader<'f, 's> {
    pub(crate) findings: &'f mut Findings<'s>,
    /// The folder relative paths are relative to.
    base: &'f Path,
    /// `$SPIFFE_ENDPOINT_SOCKET`.
    default_socket: Option<&'f str>,
    /// `$COUNTERSIGN_POD_IPS`.
    pod_ips: Option<&'f str>,
    /// `$KUBERNETES_SERVICE_HOST` and its port, as a URL.
    kubernetes: Option<&'f str>,
    places: Places,
}

/// Whether a document says it is a `ProxyConfig`.
pub(crate) fn is_proxy_config(node: &Node) -> bool {
    node.get("kind").and_then(Node::text) == Some("ProxyConfig")
}

/// Whether a document says it is a `SignerConfig`.
pub(crate) fn is_signer_config(node: &Node) -> bool {
    node.get("kind").and_then(Node::text) == Some("SignerConfig")
}

/// Reads the one document of a file. Problems leave defaults behind and are in `findings`.
pub(crate) fn proxy_config(
    file: &Path,
    nodes: &[Node],
    environment: &Environment,
    findings: &mut Findings<'_>,
) -> Written {
    let Some(spec) = envelope(nodes, "a ProxyConfig", findings) else { return Written::default() };
    let base = file.parent().unwrap_or(Path::new(""));
    let default_socket = environment.spiffe_socket.as_deref();
    let pod_ips = environment.pod_ips.as_deref();
    let kubernetes = environment.kubernetes.as_deref();
    let places = Places::default();
    let mut reader = Reader { findings, base, default_socket, pod_ips, kubernetes, places };
    let config = reader.spec(file, spec);
    Written { config, places: reader.places }
}

/// The `spec` of the one document, after a look at what is around it.
fn envelope<'n>(
    nodes: &'n [Node],
    what: &'static str,
    findings: &mut Findings<'_>,
) -> Option<&'n Node> {
    let [node] = nodes else {
        let start = Span { source: 0, start: 0, end: 0, line: 1, column: 1 };
        let span = nodes.get(1).map_or(start, |second| second.span);
        let message = format!("{what} is one document, this file has {}", nodes.len());
        findings.error("E013", span, message);
        return None;
    };
    let mut fields = Fields::of(node, what, findings)?;
    if let Some(version) = fields.required("apiVersion", findings) {
        let _ = read::one_of(version, &[(API_VERSION, ())], findings);
    }
    if let Some(written) = fields.required("kind", findings) {
        let _ = read::one_of(written, &[(what.trim_start_matches("a "), ())], findings);
    }
    if let Some(metadata) = fields.optional("metadata")
        && let Some(mut inner) = Fields::of(metadata, "`metadata`", findings)
    {
        if let Some(name) = inner.optional("name") {
            let _ = read::short_string(name, 253, findings);
        }
        inner.finish(findings);
    }
    let spec = fields.required("spec", findings);
    fields.finish(findings);
    spec
}

impl Reader<'_, '_> {
    /// The fields of one mapping that may be left out.
    fn fields<'n>(&mut self, node: Option<&'n Node>, what: &'static str) -> Option<Fields<'n>> {
        Fields::of(node?, what, self.findings)
    }

    /// Reports fields nobody asked for.
    fn finish(&mut self, fields: Fields<'_>) {
        fields.finish(self.findings);
    }

    fn error(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.error("E013", span, message).hint(hint);
    }

    /// A path, relative to the file it stands in.
    fn path(&mut self, node: &Node) -> Option<PathBuf> {
        read::short_string(node, 4096, self.findings).map(|text| self.base.join(text))
    }

    /// A path that must be there.
    fn required_path(&mut self, fields: &mut Fields<'_>, name: &'static str) -> PathBuf {
        let node = fields.required(name, self.findings);
        node.and_then(|node| self.path(node)).unwrap_or_default()
    }

    /// An IP address and a port.
    fn address(&mut self, node: &Node) -> Option<SocketAddr> {
        let text = read::short_string(node, 256, self.findings)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Some(address),
            _ => {
                let (message, hint) = address_problem(&text);
                self.error(node.span, message, hint);
                None
            }
        }
    }

    /// An address we listen on, remembered with its place.
    fn own_address(&mut self, field: &'static str, fields: &mut Fields<'_>) -> Option<SocketAddr> {
        let node = fields.required("address", self.findings)?;
        let address = self.address(node)?;
        self.places.listeners.push((field, address, node.span));
        Some(address)
    }

    /// `namespace/name` or `namespace/name:port` of a Destination, remembered with its place.
    fn destination(&mut self, node: &Node) -> Option<DestinationRef> {
        let text = read::short_string(node, 512, self.findings)?;
        let Some(reference) = reference(&text) else {
            let message = format!("`{text}` does not name a Destination");
            let hint = "write `namespace/name`, as in `shop/orders`, or `shop/orders:8080`";
            self.error(node.span, message, hint);
            return None;
        };
        self.places.destinations.push((reference.clone(), node.span));
        Some(reference)
    }
}

/// `namespace/name`, or `namespace/name:port`.
fn reference(text: &str) -> Option<DestinationRef> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (text, None),
    };
    let (namespace, name) = name.split_once('/').filter(|(a, b)| is_name(a) && is_name(b))?;
    Some(DestinationRef { namespace: namespace.to_owned(), name: name.to_owned(), port })
}

/// A Kubernetes name: lower-case letters, digits, `-` and `.` inside.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let all = |b: u8| inner(b) || b == b'-' || b == b'.';
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.iter().all(|b| all(*b))
        && bytes.first().is_some_and(|b| inner(*b))
        && bytes.last().is_some_and(|b| inner(*b))
}

/// What is wrong with an address, and what to write.
fn address_problem(text: &str) -> (String, String) {
    let example = "write an IP address and a port, as in `127.0.0.1:15001` or `[::]:15006`";
    let Some((host, port)) = text.rsplit_once(':') else {
        return (format!("`{text}` is not an address with a port"), example.to_owned());
    };
    match port.parse::<u64>() {
        Ok(1..=65_535) if host.is_empty() => {
            let hint = format!("write `0.0.0.0:{port}` for IPv4 or `[::]:{port}` for both");
            (format!("`{text}` has no IP address"), hint)
        }
        Ok(1..=65_535) if host == "localhost" => {
            (format!("`{text}` has a name, not an IP address"), format!("write `127.0.0.1:{port}`"))
        }
        Ok(1..=65_535) => (format!("`{host}` is not an IP address"), example.to_owned()),
        Ok(number) => (format!("{number} is not a port (1-65535)"), example.to_owned()),
        Err(_) => (format!("`{text}` is not an address with a port"), example.to_owned()),
    }
}

/// The entries of a mapping whose keys are free.
fn entries<'n>(
    node: &'n Node,
    what: &str,
    findings: &mut Findings<'_>,
) -> &'n [(countersign_policy::yaml::Key, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        Value::Scalar { .. } | Value::List(_) => {
            let message = format!("{what} must be a mapping, this is {}", node.describe());
            findings.error("E013", node.span, message);
            &[]
        }
    }
}

/// "did you mean", or what there is.
pub(crate) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> String {
    did_you_mean(word, candidates.clone()).unwrap_or_else(|| {
        let all: Vec<String> = candidates.map(|name| format!("`{name}`")).collect();
        if all.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there is {}", all.join(", "))
        }
    })
}
