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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

impl Hash for EndpointKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addr.hash(state);
        std::mem::discriminant(&self.who).hash(state);
    }
}

/// What a pooled connection was opened for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

impl Key {
    /// Whether it is a mesh connection of another generation.
    pub(super) fn is_of_another(&self, generation: u64) -> bool {
        matches!(self.endpoint.who, Who::Mesh(_)) && self.generation != generation
    }
}
