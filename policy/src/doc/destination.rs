//! `Destination`: a host, where it runs, and who may answer for it.

use std::net::{IpAddr, SocketAddr};

use countersign_workload_id::WorkloadId;

use super::FileRef;

/// Something a workload may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Canonical host names.
    pub hosts: Vec<String>,
    /// Virtual addresses an app may dial; with any of `ports` they lead here.
    pub addresses: Vec<IpAddr>,
    /// Ports and what is spoken on them.
    pub ports: Vec<DestinationPort>,
    /// Where it runs. Empty only outside the mesh: then the address that was dialled is used.
    pub endpoints: Vec<Endpoint>,
    /// Who may answer, and how that is proven.
    pub peer: DestinationPeer,
}

impl Destination {
    /// Everybody who may answer anywhere; all are of one trust domain.
    pub fn identities(&self) -> impl Iterator<Item = &WorkloadId> {
        let general = match &self.peer {
            DestinationPeer::Mesh { identities } => identities.as_slice(),
            DestinationPeer::Tls { .. } => &[],
        };
        general.iter().chain(self.endpoints.iter().flat_map(|endpoint| &endpoint.identities))
    }

    /// Who may answer at an endpoint, over mesh mTLS; empty outside the mesh.
    pub fn identities_at<'d>(&'d self, endpoint: &'d Endpoint) -> &'d [WorkloadId] {
        match &self.peer {
            DestinationPeer::Mesh { .. } if !endpoint.identities.is_empty() => &endpoint.identities,
            DestinationPeer::Mesh { identities } => identities,
            DestinationPeer::Tls { .. } => &[],
        }
    }
}

/// One port of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPort {
    /// The port callers name.
    pub port: u16,
    /// What is spoken.
    pub protocol: PortProtocol,
    /// Keep HTTP/1 between sidecars.
    pub preserve_http1: bool,
    /// Tokens of `Upgrade`, lower case, that may pass beside `websocket`.
    pub upgrades: Vec<String>,
    /// Whether CONNECT requests may pass.
    pub connect: bool,
}

/// What a port speaks. Never sniffed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
    /// Bytes of any other protocol.
    Tcp,
}

impl PortProtocol {
    /// Every protocol by its name in documents.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("http", Self::Http), ("grpc", Self::Grpc), ("tcp", Self::Tcp)];

    /// As written in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// One place a destination runs at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address to dial.
    pub address: IpAddr,
    /// Port to dial.
    pub port: u16,
    /// Who may answer here; empty: whoever may answer for the destination.
    pub identities: Vec<WorkloadId>,
}

impl Endpoint {
    /// What to dial.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// `peer`: who is on the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum DestinationPeer {
    /// A workload of this mesh, over mesh mTLS.
    Mesh {
        /// Who may answer. Empty only if every endpoint names its own.
        identities: Vec<WorkloadId>,
    },
    /// A server outside the mesh, over TLS; no context ever goes there.
    Tls {
        /// DNS names of which the server's certificate must carry one; the first is sent as SNI.
        server_names: Vec<String>,
        /// Who vouches for the certificate.
        roots: TlsRoots,
    },
}

/// `peer.tls.roots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsRoots {
    /// The certificate authorities of the operating system.
    System,
    /// A PEM file.
    File(FileRef),
}

/// Names a `Destination` in another document: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for DestinationName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
