//! What is dialled and who must answer: the whole of it is the key of a pooled connection.
//!
//! Invariant: keys are equal only if address, expected other end, protocol and generation are; the
//! hash looks at less, and decides nothing.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use countersign_config::ProxyConfig;

use crate::registry::Registry;
use crate::tls::outside::OutsideTls;
use crate::tls::verify::ExpectedIds;
use crate::tls::{Alpn, MeshTls};
use crate::upstream::dial::Way;

/// Where a request goes.
#[derive(Clone)]
pub enum Target {
    /// The app of this pod.
    App {
        /// Its address.
        addr: SocketAddr,
        /// Whether it is spoken to in HTTP/2.
        h2: bool,
        /// How it is dialled.
        way: Way,
        /// On whose behalf.
        client: SocketAddr,
        /// Whether its HTTP/1 header names keep the case they were written in.
        keep_case: bool,
    },
    /// Another sidecar.
    Mesh {
        /// Its address.
        addr: SocketAddr,
        /// Who may answer.
        expected: Arc<ExpectedIds>,
        /// Protocol inside TLS.
        alpn: Alpn,
        /// The TLS material of this generation.
        tls: Arc<MeshTls>,
        /// Certificate and trust generation.
        generation: u64,
        /// Tells the connection when its other end no longer counts.
        registry: Registry,
    },
    /// A service outside the mesh.
    Outside {
        /// Its address.
        addr: SocketAddr,
        /// How it is recognised.
        tls: Arc<OutsideTls>,
        /// Protocols it may choose from.
        offer: Offer,
    },
    /// An unknown address that policy lets pass, in plaintext.
    Plain {
        /// The address.
        addr: SocketAddr,
        /// Whether it is spoken to in HTTP/2.
        h2: bool,
    },
}

/// The protocols a server may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// Either; a connection shows which.
    Either,
}

/// Who is at the other end, as far as connections and counts must not be shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The app of this pod; which client it sees, where it sees any but us.
    App(Option<IpAddr>),
    /// A workload with one of these identities.
    Mesh(Arc<ExpectedIds>),
    /// An outside service with these names and roots.
    Outside(Arc<OutsideTls>),
    /// Nobody in particular.
    Plain,
}

/// One endpoint, whatever the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointKey {
    /// Its address.
    pub addr: SocketAddr,
    /// Who must be there.
    pub who: Who,
}

/// One number for an IPv4 address, because every request looks a few of them up. The client is part
/// of it where the app sees one: then thousands of keys have the app's address.
impl Hash for EndpointKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = self.addr.port();
        match self.addr.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 16 | u64::from(port)),
            IpAddr::V6(ip) => {
                state.write_u128(ip.to_bits());
                state.write_u16(port);
            }
        }
        if let Who::App(Some(client)) = &self.who {
            client.hash(state);
        }
    }
}

/// What a pooled connection was opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) endpoint: EndpointKey,
    pub(super) offer: Offer,
    pub(super) generation: u64,
    keep_case: bool,
}

impl Target {
    /// What is dialled.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Target::App { addr, .. }
            | Target::Mesh { addr, .. }
            | Target::Outside { addr, .. }
            | Target::Plain { addr, .. } => *addr,
        }
    }

    /// Which protocols the connection may speak.
    pub fn offer(&self) -> Offer {
        let of = |h2: bool| if h2 { Offer::Http2 } else { Offer::Http1 };
        match self {
            Target::App { h2, .. } | Target::Plain { h2, .. } => of(*h2),
            Target::Mesh { alpn, .. } => of(*alpn == Alpn::H2),
            Target::Outside { offer, .. } => *offer,
        }
    }

    /// The app of this pod, as this process dials it for `client`.
    pub fn app(config: &ProxyConfig, addr: SocketAddr, h2: bool, client: SocketAddr) -> Target {
        Target::App { addr, h2, way: Way::of(config), client, keep_case: false }
    }

    /// The same, keeping the case of header names.
    #[must_use]
    pub fn keeping_case(mut self, keep: bool) -> Target {
        if let Target::App { keep_case, .. } = &mut self {
            *keep_case = keep;
        }
        self
    }

    pub(super) fn is_app(&self) -> bool {
        matches!(self, Target::App { .. })
    }

    pub(super) fn key(&self) -> Key {
        let (who, generation) = match self {
            Target::App { way, client, .. } => {
                let seen = *way == Way::AsClient;
                (Who::App(seen.then(|| client.ip())), 0)
            }
            Target::Mesh { expected, generation, .. } => {
                (Who::Mesh(Arc::clone(expected)), *generation)
            }
            Target::Outside { tls, .. } => (Who::Outside(Arc::clone(tls)), 0),
            Target::Plain { .. } => (Who::Plain, 0),
        };
        let endpoint = EndpointKey { addr: self.addr(), who };
        let keep_case = matches!(self, Target::App { keep_case: true, .. });
        Key { endpoint, offer: self.offer(), generation, keep_case }
    }
}

/// Of what differs between many: few have the same endpoint.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.endpoint.hash(state);
    }
}

impl Key {
    /// Of connections to other sidecars.
    #[cfg(test)]
    pub(super) fn mesh(addr: SocketAddr, expected: &Arc<ExpectedIds>, generation: u64) -> Key {
        let endpoint = EndpointKey { addr, who: Who::Mesh(Arc::clone(expected)) };
        Key { endpoint, offer: Offer::Http2, generation, keep_case: false }
    }

    /// Whether it is a mesh connection of another generation.
    pub(super) fn is_of_another(&self, generation: u64) -> bool {
        matches!(self.endpoint.who, Who::Mesh(_)) && self.generation != generation
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    /// Keys that differ only in what their hash leaves out meet in one place of a table, and every
    /// look-up passes all of them.
    #[test]
    fn keys_there_may_be_thousands_of_have_hashes_of_their_own() {
        let hasher = std::hash::RandomState::new();
        let distinct = |keys: Vec<EndpointKey>| {
            let hashes: std::collections::HashSet<u64> =
                keys.iter().map(|key| hasher.hash_one(key)).collect();
            (hashes.len(), keys.len())
        };
        let at = |ip: IpAddr, port, who| EndpointKey { addr: (ip, port).into(), who };
        let ip = |bits: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
        let wide = |bits: u128| IpAddr::from(std::net::Ipv6Addr::from_bits(bits));
        let app = (0..1_000).map(|n| at(ip(1), 80, Who::App(Some(ip(n)))));
        let endpoints = (0..1_000).map(|n| at(ip(n), 80, Who::Plain));
        let ports = (0..1_000).map(|n| at(ip(7_000), n, Who::Plain));
        let v6 = (0..1_000).map(|n| at(wide(n << 64), 80, Who::Plain));
        let v6_ports = (0..1_000).map(|n| at(wide(7_000), n, Who::Plain));
        let all = app.chain(endpoints).chain(ports).chain(v6).chain(v6_ports);
        assert_eq!(distinct(all.collect()), (5_000, 5_000));
    }
}
