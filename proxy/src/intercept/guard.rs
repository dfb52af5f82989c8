//! The loop guard: connections that must not be served, told from their addresses before a byte
//! is read.
//!
//! Invariant: nobody reaches one of our own ports through us, nothing is forwarded to an address
//! that is not this pod's, and a connection that was not redirected is not taken for one that was.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use countersign_config::ProxyConfig;

/// Ports of ours whatever the configuration says: admin, outbound, local API, inbound, metrics,
/// readiness.
const OWN_PORTS: &[u16] = &[15000, 15001, 15004, 15006, 15020, 15021];

/// Nobody binds this port. Only the redirect leads it to us, so an answer proves the redirect.
pub const READY_PORT: u16 = 15022;

/// Which listener took a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From outside the pod, on the inbound listener.
    Inbound,
    /// From the app, on an outbound listener.
    Outbound,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Somebody dialled one of our own ports.
    OwnPort,
    /// Inbound, but meant for an address that is not this pod's.
    ForeignDst,
    /// The connection came to our listener without a redirect.
    NotRedirected,
    /// The kernel does not know where it was meant to go.
    NoOriginal,
}

impl Closed {
    /// The label of `countersign_loop_guard_total`.
    pub fn reason(self) -> &'static str {
        match self {
            Closed::OwnPort => "own_port",
            Closed::ForeignDst => "foreign_dst",
            Closed::NotRedirected => "not_redirected",
            Closed::NoOriginal => "no_original",
        }
    }
}

/// What to do with a connection that may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Serve it.
    Serve,
    /// Answer whether the proxy is ready; no policy is asked.
    Ready,
}

/// Which addresses are this pod's: those configured, and those of its interfaces.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    seen: RefCell<Vec<IpAddr>>,
}

/// Addresses remembered; a pod has a handful.
const SEEN_MAX: usize = 64;

impl OwnAddresses {
    /// Whether `ip` is this pod's. Interfaces are asked by binding to the address, which needs no
    /// privilege and sees an address that was added a moment ago.
    pub fn contains(&self, ip: IpAddr, config: &ProxyConfig) -> bool {
        let known = config.interception.pod_ips.contains(&ip) || self.seen.borrow().contains(&ip);
        if known || UdpSocket::bind((ip, 0)).is_err() {
            return known;
        }
        let mut seen = self.seen.borrow_mut();
        if seen.len() < SEEN_MAX {
            seen.push(ip);
        }
        true
    }

    /// Forgets what was seen, so that an address taken away is noticed.
    pub fn forget(&self) {
        self.seen.borrow_mut().clear();
    }
}

/// Judges a redirected connection: `original` is what the client dialled, `listener` the socket's
/// own address, `is_local` says which addresses are this pod's.
///
/// # Errors
/// [`Closed`] with the reason.
pub fn check(
    side: Side,
    original: SocketAddr,
    listener: SocketAddr,
    config: &ProxyConfig,
    is_local: impl Fn(IpAddr) -> bool,
) -> Result<Passed, Closed> {
    let ip = original.ip();
    if side == Side::Outbound && original == listener {
        return Err(Closed::NotRedirected);
    }
    if is_own(original.port(), config) && (ip.is_loopback() || is_local(ip)) {
        return Err(Closed::OwnPort);
    }
    match side {
        Side::Outbound => Ok(Passed::Serve),
        Side::Inbound if ip.is_loopback() || ip.is_unspecified() || !is_local(ip) => {
            Err(Closed::ForeignDst)
        }
        Side::Inbound if original.port() == READY_PORT => Ok(Passed::Ready),
        Side::Inbound => Ok(Passed::Serve),
    }
}

fn is_own(port: u16, config: &ProxyConfig) -> bool {
    OWN_PORTS.contains(&port) || config.own_addresses().any(|(_, own)| own.port() == port)
}
