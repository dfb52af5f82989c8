//! How connections come in: listening sockets, what the first bytes are, and the facts captured
//! about each connection. Explicit mode today; the transparent redirect plugs in here.
//!
//! Invariant: [`Captured`] is made here and nowhere else.

pub mod detect;
pub mod listen;
pub mod prefixed;

use std::net::SocketAddr;

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

    /// Who connected.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// What they meant to reach.
    pub fn orig_dst(&self) -> OrigDst {
        self.orig_dst
    }
}
