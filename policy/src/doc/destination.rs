//! `Destination`: a host, where it runs, and which identities may answer for it.

use std::net::{IpAddr, SocketAddr};

use countersign_workload_id::WorkloadId;

/// Something a workload may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Canonical host names.
    pub hosts: Vec<String>,
    /// Ports and what is spoken on them.
    pub ports: Vec<DestinationPort>,
    /// Where it runs.
    pub endpoints: Vec<Endpoint>,
    /// `peer.mesh.identities`: who may answer, over mesh mTLS.
    pub identities: Vec<WorkloadId>,
}

/// One port of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationPort {
    /// The port callers name.
    pub port: u16,
    /// What is spoken.
    pub protocol: PortProtocol,
    /// Keep HTTP/1 between sidecars.
    pub preserve_http1: bool,
}

/// What a port speaks. Never sniffed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP/1.1 or HTTP/2.
    Http,
    /// gRPC over HTTP/2.
    Grpc,
}

/// One place a destination runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address to dial.
    pub address: IpAddr,
    /// Port to dial.
    pub port: u16,
}

impl Endpoint {
    /// What to dial.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}
