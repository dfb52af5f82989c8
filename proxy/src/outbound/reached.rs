//! What a connection or exchange of the app was let out for, held against the documents in force
//! for as long as it lasts.
//!
//! Invariant: it goes on only while the documents give the same answer to the same question: who
//! is behind what the app dialled. An endpoint that is gone from its list drains: what it proved
//! still counts while its destination expects it anywhere.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_policy::DenyReason;
use countersign_policy::doc::Unknown;

use crate::judged::{callee_counts, peer_counts};
use crate::live::Snapshot;
use crate::outbound::destinations::{Destination, Destinations, Found, ToPeer};
use crate::registry::{Against, EndReason, Judged, Standing, Verdict};
use crate::tls::outside::OutsideTls;
use crate::tls::peer::MeshPeer;
use crate::tls::verify::ExpectedIds;

/// Where something leads.
pub struct Reached {
    /// The address the app dialled; `None` in explicit mode.
    pub dialled: Option<SocketAddr>,
    /// The endpoint.
    pub addr: SocketAddr,
    /// Who is there.
    pub to: To,
    /// Whether it is a response, as opposed to a connection.
    pub exchange: bool,
}

/// Who is at the other end, and why it was expected.
pub enum To {
    /// Nobody known: the mesh lets the address pass.
    Passed {
        /// The host the request named, if it was a request.
        host: Option<Box<str>>,
        /// Of this workload.
        namespace: Box<str>,
    },
    /// A service outside the mesh, by its names and roots.
    Outside(Name, Arc<OutsideTls>),
    /// A workload that proved who it is.
    Mesh(Name, MeshPeer),
}

/// The destination it was opened for.
pub struct Name {
    /// `namespace/name:port` of the document; `None` for this pod itself.
    document: Option<Arc<str>>,
    /// Only the dialled address says what it leads to, so once that is gone nothing does.
    by_address: bool,
}

impl Name {
    /// Of a destination; `by_address` if nothing but a service's own address led there.
    pub fn of(destination: &Destination, by_address: bool) -> Name {
        Name { document: destination.document.clone(), by_address }
    }

    /// What the documents say now.
    fn find(&self, dialled: Option<SocketAddr>, all: &Destinations) -> Option<Found> {
        if let Some(found) = dialled.and_then(|addr| all.by_address(addr)) {
            return Some(found);
        }
        match &self.document {
            Some(_) if self.by_address => None,
            Some(document) => {
                let destination = Arc::clone(all.by_name(document)?);
                Some(Found { destination, only: None })
            }
            None => all.at_own(dialled?),
        }
    }
}

impl Reached {
    fn is_as_before(&self, snap: &Snapshot) -> bool {
        let all = &*snap.destinations;
        match &self.to {
            To::Passed { host, namespace } => {
                let passes = snap.documents.mesh.outbound_unknown(namespace) == Unknown::Pass;
                passes && self.is_unknown(host.as_deref(), all)
            }
            To::Outside(name, _) | To::Mesh(name, _) => {
                let found = name.find(self.dialled, all);
                found.is_some_and(|found| self.is_expected(&found.destination))
            }
        }
    }

    fn is_unknown(&self, host: Option<&str>, all: &Destinations) -> bool {
        let by_host = host.and_then(|host| all.by_host(host, Some(self.addr.port())));
        by_host.is_none() && all.by_address(self.addr).is_none()
    }

    fn is_expected(&self, destination: &Destination) -> bool {
        match (&self.to, &destination.peer) {
            (To::Outside(_, tls), ToPeer::Outside(now)) => tls == now,
            (To::Mesh(_, peer), ToPeer::Mesh) => {
                let allows = |expected: &Option<Arc<ExpectedIds>>| {
                    expected.as_ref().is_some_and(|ids| ids.allows(peer.id()))
                };
                let endpoints = &destination.endpoints;
                match destination.known(self.addr) {
                    Some(endpoint) => allows(&endpoint.expected),
                    None => {
                        allows(&destination.expected)
                            || endpoints.iter().any(|endpoint| allows(&endpoint.expected))
                    }
                }
            }
            _ => false,
        }
    }
}

impl Judged for Reached {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        match &self.to {
            To::Mesh(_, peer) if self.exchange => callee_counts(peer, against)?,
            To::Mesh(_, peer) => peer_counts(Some(peer), against)?,
            _ => {}
        }
        if self.is_as_before(against.snap) {
            return Ok(Standing::default());
        }
        Err(EndReason::Policy(DenyReason::NoMatch).into())
    }

    fn is_exchange(&self) -> bool {
        self.exchange
    }
}

#[cfg(test)]
#[path = "../tests/reached.rs"]
mod tests;
