//! What can be called: host → destination → endpoints and the identities that may answer.
//!
//! Invariant: destinations come from documents, never from DNS or a request; each carries the
//! identities expected of its servers, so nothing is dialled without knowing who must answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_config::ProxyConfig;
use countersign_policy::Documents;
use countersign_policy::doc::PortProtocol;
use countersign_policy::host::canonical_host;
use http::uri::Authority;

use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::accept::Connection;
use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::verify::ExpectedIds;

/// One port of something that can be called.
#[derive(Debug)]
pub struct Destination {
    /// `namespace/name` of its document.
    pub name: Arc<str>,
    /// The port clients call.
    pub port: u16,
    /// Who may answer.
    pub expected: Arc<ExpectedIds>,
    /// Whether HTTP/1.1 is kept between the sidecars.
    pub preserve_http1: bool,
    /// Whether only gRPC is spoken.
    pub grpc: bool,
    endpoints: Vec<SocketAddr>,
    next: AtomicUsize,
}

impl Destination {
    /// Endpoints in the order to try them: each call starts one further.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.endpoints.len();
        (0..count).filter_map(move |step| self.endpoints.get((start + step) % count).copied())
    }
}

/// All destinations of the documents in force.
#[derive(Debug, Default)]
pub struct Destinations {
    by_host: HashMap<String, Vec<Arc<Destination>>>,
    by_name: HashMap<String, Vec<Arc<Destination>>>,
    own: Vec<SocketAddr>,
}

impl Destinations {
    /// Reads the documents.
    ///
    /// # Errors
    /// A sentence naming the document that cannot be used.
    pub fn build(documents: &Documents, config: &ProxyConfig) -> Result<Destinations, String> {
        let outbound = config.outbound.iter().map(|listener| listener.address);
        let gateway = config.gateway.iter().map(|listener| listener.address);
        let mut all = Destinations { own: outbound.chain(gateway).collect(), ..Default::default() };
        for named in &documents.destinations {
            let name: Arc<str> = format!("{}/{}", named.namespace, named.name).into();
            let expected = ExpectedIds::new(named.spec.identities.clone())
                .ok_or_else(|| format!("Destination {name} names no identity that may answer"))?;
            let expected = Arc::new(expected);
            for port in &named.spec.ports {
                let of_port = named.spec.endpoints.iter().filter(|e| e.port == port.port);
                let mut endpoints: Vec<_> = of_port.map(|e| e.socket_addr()).collect();
                if endpoints.is_empty() {
                    endpoints = named.spec.endpoints.iter().map(|e| e.socket_addr()).collect();
                }
                all.add(
                    &named.spec.hosts,
                    Destination {
                        name: Arc::clone(&name),
                        port: port.port,
                        expected: Arc::clone(&expected),
                        preserve_http1: port.preserve_http1,
                        grpc: port.protocol == PortProtocol::Grpc,
                        endpoints,
                        next: AtomicUsize::new(0),
                    },
                );
            }
        }
        Ok(all)
    }

    fn add(&mut self, hosts: &[String], destination: Destination) {
        let destination = Arc::new(destination);
        for host in hosts {
            self.by_host.entry(host.clone()).or_default().push(Arc::clone(&destination));
        }
        self.by_name.entry(destination.name.to_string()).or_default().push(destination);
    }

    /// The destination that is called as `host` (canonical) and `port`. Without a port: the one
    /// on port 80, or the only one.
    pub fn by_host(&self, host: &str, port: Option<u16>) -> Option<&Arc<Destination>> {
        choose(self.by_host.get(host)?, port)
    }

    /// The destination of a document, by `namespace/name`.
    pub fn by_name(&self, name: &str, port: Option<u16>) -> Option<&Arc<Destination>> {
        choose(self.by_name.get(name)?, port)
    }

    /// Whether an address is one of our own outbound or gateway listeners: dialling it would loop.
    pub fn loops(&self, address: SocketAddr) -> bool {
        self.own.contains(&address)
    }
}

fn choose(ports: &[Arc<Destination>], port: Option<u16>) -> Option<&Arc<Destination>> {
    match (port, ports) {
        (Some(port), _) if ports.iter().any(|d| d.port == port) => {
            ports.iter().find(|destination| destination.port == port)
        }
        (Some(_), _) => None,
        (None, [only]) => Some(only),
        (None, _) => ports.iter().find(|destination| destination.port == 80),
    }
}

/// The destination of a call: the one the listener is bound to, else the one of its authority.
///
/// # Errors
/// `destination_unknown`; names are never resolved by DNS.
pub fn destination(
    conn: &Connection,
    authority: &Authority,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Arc<Destination>, Refused> {
    let unknown =
        |detail: String| Refused::new(Refusal::DestinationUnknown, Stage::Discover, detail);
    let found = match conn.bound_to() {
        Some(name) => snap
            .destinations
            .by_name(name, None)
            .ok_or_else(|| unknown(format!("no Destination document {name}")))?,
        None => {
            let host = canonical_host(authority.as_str()).map_err(|error| {
                Refused::new(Refusal::HostInvalid, Stage::Discover, error.to_string())
            })?;
            let found = snap.destinations.by_host(&host, authority.port_u16());
            journal.host = Some(host.into());
            found.ok_or_else(|| {
                unknown(format!("no Destination has the host and port of `{authority}`"))
            })?
        }
    };
    Ok(Arc::clone(found))
}
