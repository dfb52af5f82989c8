//! What can be called, as the documents say it: by host, by address, by name.
//!
//! Invariant: each endpoint carries who must answer there, fixed when the documents were read: mesh
//! identities, or the names and roots of an outside service. Nothing is learned at run time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use countersign_config::ProxyConfig;
use countersign_policy::Documents;
use countersign_policy::doc::{DestinationPeer, PortProtocol};
use countersign_workload_id::WorkloadId;

use crate::tls::outside::OutsideTls;
use crate::tls::verify::ExpectedIds;

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
    /// The port clients call.
    pub port: u16,
    /// How its other end is spoken to.
    pub peer: ToPeer,
    /// Who may answer where an endpoint does not say otherwise; `None` outside the mesh.
    pub expected: Option<Arc<ExpectedIds>>,
    /// Whether HTTP/1.1 is kept between the sidecars.
    pub preserve_http1: bool,
    /// Whether only gRPC is spoken.
    pub grpc: bool,
    /// Where it runs.
    pub endpoints: Vec<Endpoint>,
}

impl Destination {
    /// Whether its other end is a sidecar, the only kind of peer that ever gets a context.
    pub fn is_mesh(&self) -> bool {
        matches!(self.peer, ToPeer::Mesh)
    }

    /// The endpoint at `addr`. Outside the mesh the names decide, so any address will do.
    pub fn endpoint(&self, addr: SocketAddr) -> Option<Endpoint> {
        let known = self.endpoints.iter().find(|endpoint| endpoint.addr == addr).cloned();
        known.or_else(|| (!self.is_mesh()).then_some(Endpoint { addr, expected: None }))
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
    own: Vec<SocketAddr>,
}

impl Destinations {
    /// Reads the documents; `me` is who answers at the pod's own addresses.
    ///
    /// # Errors
    /// A sentence naming the document that cannot be used.
    pub fn build(
        documents: &Documents,
        config: &ProxyConfig,
        _me: Option<&WorkloadId>,
    ) -> Result<Destinations, String> {
        let outbound = config.outbound.iter().map(|listener| listener.address);
        let gateway = config.gateway.iter().map(|listener| listener.address);
        let mut all = Destinations { own: outbound.chain(gateway).collect(), ..Default::default() };
        for named in &documents.destinations {
            let name: Arc<str> = format!("{}/{}", named.namespace, named.name).into();
            let DestinationPeer::Mesh { identities } = &named.spec.peer else {
                return Err(format!("Destination {name} is outside the mesh: not carried out yet"));
            };
            let own = named.spec.endpoints.iter().any(|endpoint| !endpoint.identities.is_empty());
            let tcp = named.spec.ports.iter().any(|port| port.protocol == PortProtocol::Tcp);
            if own || tcp {
                return Err(format!(
                    "Destination {name}: tcp and identities of endpoints come later"
                ));
            }
            let expected = ExpectedIds::new(identities.clone())
                .ok_or_else(|| format!("Destination {name} names no identity that may answer"))?;
            let expected = Arc::new(expected);
            for port in &named.spec.ports {
                let of_port = named.spec.endpoints.iter().filter(|e| e.port == port.port);
                let mut endpoints: Vec<_> = of_port.map(|e| e.socket_addr()).collect();
                if endpoints.is_empty() {
                    endpoints = named.spec.endpoints.iter().map(|e| e.socket_addr()).collect();
                }
                let expected = Some(Arc::clone(&expected));
                let at = |addr| Endpoint { addr, expected: expected.clone() };
                all.add(
                    &named.spec.hosts,
                    Destination {
                        name: Arc::clone(&name),
                        port: port.port,
                        peer: ToPeer::Mesh,
                        preserve_http1: port.preserve_http1,
                        grpc: port.protocol == PortProtocol::Grpc,
                        endpoints: endpoints.into_iter().map(at).collect(),
                        expected: expected.clone(),
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

    /// The destination of a document, by `namespace/name`.
    pub fn by_name(&self, name: &str, port: Option<u16>) -> Option<&Arc<Destination>> {
        choose(self.by_name.get(name)?, port)
    }

    /// The destination behind an address the app dialled: an address of the service, one of its
    /// endpoints, or an address of this pod.
    pub fn by_address(&self, addr: SocketAddr) -> Option<Found> {
        self.by_address.get(&addr).cloned()
    }

    /// An unknown address that policy lets pass: plaintext, bytes only, no context.
    pub fn passed(addr: SocketAddr) -> Found {
        let destination = Destination {
            name: "-".into(),
            port: addr.port(),
            peer: ToPeer::Plain,
            expected: None,
            preserve_http1: true,
            grpc: false,
            endpoints: vec![Endpoint { addr, expected: None }],
        };
        Found { destination: Arc::new(destination), only: Some(addr) }
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
