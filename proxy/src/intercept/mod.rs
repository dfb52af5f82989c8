//! How connections come in: listening sockets, what the first bytes are, and the facts captured
//! about each connection, whether it was dialled explicitly or redirected by the kernel.
//!
//! Invariant: [`Captured`] is made here and nowhere else, and holds no v4-mapped addresses.

pub mod arrival;
mod before;
pub mod detect;
pub mod guard;
pub mod init;
pub mod iptables;
pub mod listen;
pub mod nft;
pub mod orig_dst;
pub mod peek;
pub mod prefixed;
pub mod probes;
pub mod program;
pub mod ready;
pub mod rules;
pub mod self_test;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod watched;

use std::net::SocketAddr;

use countersign_config::{ListenMode, ProxyConfig};

/// How connections of the pod come to this process, for logs and status.
pub fn mode(config: &ProxyConfig) -> &'static str {
    let inbound = config.inbound.iter().map(|listener| listener.mode);
    let modes = inbound.chain(config.outbound.iter().map(|listener| listener.mode));
    modes.fold("explicit", |so_far, mode| match mode {
        ListenMode::Explicit => so_far,
        ListenMode::Redirect if so_far == "tproxy" => so_far,
        ListenMode::Redirect => "redirect",
        ListenMode::Tproxy => "tproxy",
    })
}

/// The address a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

/// The address the client meant to reach. In explicit mode: the listener's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrigDst(pub SocketAddr);

/// What is known about a connection before a byte is read.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    client: ClientAddr,
    orig_dst: OrigDst,
}

impl Captured {
    /// Facts of a connection accepted by an explicit listener: it was addressed to that listener.
    pub fn explicit(client: SocketAddr, listener: SocketAddr) -> Captured {
        Captured { client: ClientAddr(client), orig_dst: OrigDst(listener) }
    }

    /// Facts of a connection the kernel redirected to us: `orig_dst` is what the client dialled.
    pub fn redirected(client: SocketAddr, orig_dst: SocketAddr) -> Captured {
        let (client, orig_dst) = (canonical(client), canonical(orig_dst));
        Captured { client: ClientAddr(client), orig_dst: OrigDst(orig_dst) }
    }

    /// Who connected.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// What they meant to reach.
    pub fn orig_dst(&self) -> OrigDst {
        self.orig_dst
    }
}

/// An address as policy compares it: v4-mapped IPv6 is IPv4.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
