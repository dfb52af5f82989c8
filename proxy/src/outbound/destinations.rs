//! What can be called, as the documents say it: by host, by address, by name.
//!
//! Invariant: each endpoint carries who must answer there, fixed when the documents were read: mesh
//! identities, or the names and roots of an outside service. Nothing is learned at run time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use countersign_config::{AppPort, ProxyConfig, limits};
use countersign_policy::Documents;
use countersign_policy::doc::{self, DestinationPeer, PortProtocol, TlsRoots};
use countersign_workload_id::WorkloadId;

use crate::http::upgrade::Allowed;
use crate::tls::outside::{OutsideRoots, OutsideTls};
use crate::tls::verify::ExpectedIds;
use crate::upstream::target::{EndpointKey, Who};

/// How the other end of a destination is spoken to.
#[derive(Clone, Debug)]
pub enum ToPeer {
    /// Another sidecar: mutual TLS, the endpoint's identities may answer.
    Mesh,
    /// A service outside the mesh: TLS verified by its names and roots; no context ever leaves.
    Outside(Arc<OutsideTls>),
    /// An unknown address that policy lets pass: plaintext, no context.
    Plain,
}

/// One place a destination runs at.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What is dialled.
    pub addr: SocketAddr,
    /// Who may answer; `None` outside the mesh.
    pub expected: Option<Arc<ExpectedIds>>,
}

/// One port of something that can be called.
#[derive(Debug)]
pub struct Destination {
    /// `namespace/name` of its document.
    pub name: Arc<str>,
    /// `namespace/name:port` of its document; `None` where no document describes it.
    pub document: Option<Arc<str>>,
    /// The port clients call.
    pub port: u16,
    /// What is spoken there; `None`: nothing is declared.
    pub protocol: Option<PortProtocol>,
    /// How its other end is spoken to.
    pub peer: ToPeer,
    /// Whether it is of another trust domain.
    pub foreign: bool,
    /// Whether our context is handed to that domain all the same.
    pub hands_over: bool,
    /// Who may answer where an endpoint does not say otherwise; `None` outside the mesh, or where
    /// each endpoint says.
    pub expected: Option<Arc<ExpectedIds>>,
    /// Whether HTTP/1.1 is kept between the sidecars.
    pub preserve_http1: bool,
    /// Whether only gRPC is spoken.
    pub grpc: bool,
    /// Tokens of `Upgrade`, lower case, that may pass beside `websocket`.
    pub upgrades: Vec<String>,
    /// Whether CONNECT may pass.
    pub connect: bool,
    /// Where it runs, in order of addresses. Empty: where the app dialled.
    pub endpoints: Vec<Endpoint>,
}

impl Destination {
    /// Whether its other end is a sidecar.
    pub fn is_mesh(&self) -> bool {
        matches!(self.peer, ToPeer::Mesh)
    }

    /// Whether a context may go there: to sidecars of our own trust domain, and of those that a
    /// document hands context to.
    pub fn takes_context(&self) -> bool {
        self.is_mesh() && (!self.foreign || self.hands_over)
    }

    /// What may pass beside requests and answers.
    pub fn switches(&self) -> Allowed<'_> {
        Allowed { upgrades: &self.upgrades, connect: self.connect }
    }

    /// The endpoint that a document names at `addr`.
    pub fn known(&self, addr: SocketAddr) -> Option<&Endpoint> {
        let at = self.endpoints.partition_point(|endpoint| endpoint.addr < addr);
        self.endpoints.get(at).filter(|endpoint| endpoint.addr == addr)
    }

    /// The endpoint at `addr`. Outside the mesh the names decide, so any address will do.
    pub fn endpoint(&self, addr: SocketAddr) -> Option<Endpoint> {
        let known = self.known(addr).cloned();
        known.or_else(|| (!self.is_mesh()).then_some(Endpoint { addr, expected: None }))
    }

    /// What names an endpoint of this destination in pools and counts.
    pub fn key(&self, endpoint: &Endpoint) -> EndpointKey {
        let who = match (&self.peer, &endpoint.expected) {
            (ToPeer::Outside(tls), _) => Who::Outside(Arc::clone(tls)),
            (ToPeer::Mesh, Some(expected)) => Who::Mesh(Arc::clone(expected)),
            (ToPeer::Mesh | ToPeer::Plain, _) => Who::Plain,
        };
        EndpointKey { addr: endpoint.addr, who }
    }
}

/// What a call leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The destination.
    pub destination: Arc<Destination>,
    /// The one endpoint the app dialled itself; no other will do.
    pub only: Option<SocketAddr>,
}

/// All destinations of the documents in force.
#[derive(Debug, Default)]
pub struct Destinations {
    by_host: HashMap<String, Vec<Arc<Destination>>>,
    by_name: HashMap<String, Vec<Arc<Destination>>>,
    by_address: HashMap<SocketAddr, Found>,
    preserve_http1: bool,
    listeners: Vec<SocketAddr>,
    pod: Pod,
}

/// This pod as a destination: its app calls its own address.
#[derive(Debug, Default)]
struct Pod {
    addresses: Vec<IpAddr>,
    me: Option<Arc<ExpectedIds>>,
    ports: Vec<AppPort>,
}

impl Destinations {
    /// Reads the documents; `me` is who answers at the pod's own addresses.
    ///
    /// # Errors
    /// A sentence naming the document that cannot be used.
    pub fn build(
        documents: &Documents,
        config: &ProxyConfig,
        me: Option<&WorkloadId>,
        roots: &mut OutsideRoots,
    ) -> Result<Destinations, String> {
        let count = documents.destinations.len();
        if count > limits::SERVICES_MAX {
            return Err(format!("{count} Destinations, SERVICES_MAX is {}", limits::SERVICES_MAX));
        }
        let outbound = config.outbound.iter().map(|listener| listener.address);
        let gateway = config.gateway.iter().map(|listener| listener.address);
        let mut all = Destinations {
            listeners: outbound.chain(gateway).collect(),
            pod: Pod {
                addresses: config.interception.pod_ips.clone(),
                me: me.and_then(|me| ExpectedIds::new(vec![me.clone()])).map(Arc::new),
                ports: config.app.clone(),
            },
            ..Destinations::default()
        };
        roots.again();
        for named in &documents.destinations {
            let name: Arc<str> = format!("{}/{}", named.namespace, named.name).into();
            let unusable = |why: String| format!("Destination {name}: {why}");
            let read = Read::of(&named.spec, &documents.mesh, roots).map_err(unusable)?;
            for port in &named.spec.ports {
                all.add(&named.spec, read.port(&name, &named.spec, port));
            }
        }
        Ok(all)
    }

    fn add(&mut self, spec: &doc::Destination, destination: Destination) {
        self.preserve_http1 |= destination.preserve_http1;
        let destination = Arc::new(destination);
        for host in &spec.hosts {
            self.by_host.entry(host.clone()).or_default().push(Arc::clone(&destination));
        }
        for address in &spec.addresses {
            let addr = SocketAddr::new(address.to_canonical(), destination.port);
            let found = Found { destination: Arc::clone(&destination), only: None };
            // A service's own address says more than an endpoint that happens to have the same.
            match self.by_address.entry(addr) {
                Entry::Occupied(mut known) if known.get().only.is_some() => {
                    known.insert(found);
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(found);
                }
            }
        }
        for endpoint in &destination.endpoints {
            let only = Some(endpoint.addr);
            let found = Found { destination: Arc::clone(&destination), only };
            self.by_address.entry(endpoint.addr).or_insert(found);
        }
        self.by_name.entry(destination.name.to_string()).or_default().push(destination);
    }

    /// The destination that is called as `host` (canonical) and `port`. Without a port: the one
    /// on port 80, or the only one.
    pub fn by_host(&self, host: &str, port: Option<u16>) -> Option<&Arc<Destination>> {
        choose(self.by_host.get(host)?, port)
    }

    /// The destination of a document, by `namespace/name` or `namespace/name:port`. Without a port:
    /// the one on port 80, or the only one.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Destination>> {
        let (name, port) = match name.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (name, None),
        };
        choose(self.by_name.get(name)?, port)
    }

    /// Whether a call may lead where the case of header names counts.
    pub fn keep_header_case(&self) -> bool {
        self.preserve_http1
    }

    /// The destination behind an address the app dialled: an address of the service, one of its
    /// endpoints, or an address of this pod.
    pub fn by_address(&self, addr: SocketAddr) -> Option<Found> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if self.pod.addresses.contains(&addr.ip()) {
            return self.pod.at(addr);
        }
        self.by_address.get(&addr).cloned()
    }

    /// An address of this pod that no configuration names.
    pub fn at_own(&self, addr: SocketAddr) -> Option<Found> {
        self.pod.at(addr)
    }

    /// An unknown address that policy lets pass: plaintext, bytes only, no context.
    pub fn passed(addr: SocketAddr) -> Found {
        let endpoints = vec![Endpoint { addr, expected: None }];
        let destination = undeclared("-", addr.port(), ToPeer::Plain, endpoints);
        Found { destination: Arc::new(destination), only: Some(addr) }
    }

    /// Whether an address is one of our own outbound or gateway listeners: dialling it would loop.
    pub fn loops(&self, address: SocketAddr) -> bool {
        self.listeners.contains(&address)
    }
}

impl Pod {
    /// A call of the app to its own pod: an ordinary mesh call to ourselves, so policy sees it.
    /// `None` without a certificate: then nobody can answer.
    fn at(&self, addr: SocketAddr) -> Option<Found> {
        let expected = Some(Arc::clone(self.me.as_ref()?));
        let endpoints = vec![Endpoint { addr, expected: expected.clone() }];
        let mut destination = undeclared("self", addr.port(), ToPeer::Mesh, endpoints);
        destination.expected = expected;
        if let Some(app) = self.ports.iter().find(|app| app.port == addr.port()) {
            destination.protocol = app.protocol;
            destination.grpc = app.protocol == Some(PortProtocol::Grpc);
            destination.upgrades.clone_from(&app.upgrades);
            destination.connect = app.connect;
        }
        Some(Found { destination: Arc::new(destination), only: Some(addr) })
    }
}

/// A destination no document describes.
fn undeclared(name: &str, port: u16, peer: ToPeer, endpoints: Vec<Endpoint>) -> Destination {
    Destination {
        name: name.into(),
        document: None,
        port,
        protocol: None,
        peer,
        foreign: false,
        hands_over: false,
        expected: None,
        preserve_http1: false,
        grpc: false,
        upgrades: Vec::new(),
        connect: false,
        endpoints,
    }
}

/// What all ports of a document share.
struct Read {
    peer: ToPeer,
    foreign: bool,
    hands_over: bool,
    expected: Option<Arc<ExpectedIds>>,
    /// Equal lists are kept once, so that comparing them is comparing pointers.
    endpoints: Vec<Endpoint>,
}

impl Read {
    fn of(
        spec: &doc::Destination,
        mesh: &doc::MeshConfig,
        outside: &mut OutsideRoots,
    ) -> Result<Read, String> {
        let count = spec.endpoints.len();
        if count > limits::ENDPOINTS_PER_SERVICE_MAX {
            let max = limits::ENDPOINTS_PER_SERVICE_MAX;
            return Err(format!("{count} endpoints, ENDPOINTS_PER_SERVICE_MAX is {max}"));
        }
        let (peer, expected) = match &spec.peer {
            DestinationPeer::Mesh { identities } => {
                (ToPeer::Mesh, ExpectedIds::new(identities.clone()).map(Arc::new))
            }
            DestinationPeer::Tls { server_names, roots } => {
                let file = match roots {
                    TlsRoots::System => None,
                    TlsRoots::File(file) => Some(file.resolve()),
                };
                let tls = outside.tls(server_names, file.as_deref())?;
                (ToPeer::Outside(Arc::new(tls)), None)
            }
        };
        let foreign = spec.identities().any(|id| *id.trust_domain() != mesh.trust_domain);
        let hands_over = spec.identities().all(|id| mesh.hands_over_to(id.trust_domain()));
        let mut read =
            Read { peer, foreign, hands_over, expected, endpoints: Vec::with_capacity(count) };
        let mut lists: HashMap<&[WorkloadId], Arc<ExpectedIds>> = HashMap::new();
        for endpoint in &spec.endpoints {
            let expected = match (&read.peer, endpoint.identities.as_slice()) {
                (ToPeer::Outside(_) | ToPeer::Plain, _) => None,
                (ToPeer::Mesh, []) => {
                    let none = || format!("nobody may answer at {}", endpoint.socket_addr());
                    Some(Arc::clone(read.expected.as_ref().ok_or_else(none)?))
                }
                (ToPeer::Mesh, own) => match lists.get(own) {
                    Some(known) => Some(Arc::clone(known)),
                    None => {
                        let ids = ExpectedIds::new(own.to_vec()).map(Arc::new);
                        ids.inspect(|ids| drop(lists.insert(own, Arc::clone(ids))))
                    }
                },
            };
            let addr = endpoint.socket_addr();
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            read.endpoints.push(Endpoint { addr, expected });
        }
        // Of two entries for one address the first one counts.
        read.endpoints.sort_by_key(|endpoint| endpoint.addr);
        Ok(read)
    }

    fn port(
        &self,
        name: &Arc<str>,
        spec: &doc::Destination,
        port: &doc::DestinationPort,
    ) -> Destination {
        let of_port = |endpoint: &&Endpoint| endpoint.addr.port() == port.port;
        let mut endpoints: Vec<_> = self.endpoints.iter().filter(of_port).cloned().collect();
        if endpoints.is_empty() || spec.ports.len() == 1 {
            endpoints.clone_from(&self.endpoints);
        }
        Destination {
            name: Arc::clone(name),
            document: Some(format!("{name}:{}", port.port).into()),
            port: port.port,
            protocol: Some(port.protocol),
            peer: self.peer.clone(),
            foreign: self.foreign,
            hands_over: self.hands_over,
            expected: self.expected.clone(),
            preserve_http1: port.preserve_http1,
            grpc: port.protocol == PortProtocol::Grpc,
            upgrades: port.upgrades.clone(),
            connect: port.connect,
            endpoints,
        }
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

#[cfg(test)]
#[path = "../tests/destinations.rs"]
mod tests;
