//! One connection to another sidecar, as the requests on it see it: who answers, as whom this end
//! came, and what the other end has been shown.
//!
//! Invariant: both ends are those of the handshake; a record that is signed for this connection is
//! signed with the key, and names the certificate, that its other end has seen.

use std::fmt;
use std::sync::Arc;

use countersign_certs_client::Identity;

use crate::tls::peer::MeshPeer;

/// Both ends of a mutual TLS connection, for as long as it lasts.
pub struct MeshEnds {
    peer: MeshPeer,
    own: Arc<Identity>,
}

impl MeshEnds {
    /// Of a finished handshake.
    pub fn new(peer: MeshPeer, own: Arc<Identity>) -> MeshEnds {
        MeshEnds { peer, own }
    }

    /// Who answers.
    pub fn peer(&self) -> &MeshPeer {
        &self.peer
    }

    /// As whom this end came.
    pub fn own(&self) -> &Arc<Identity> {
        &self.own
    }
}

impl fmt::Debug for MeshEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshEnds({} to {})", self.own.id, self.peer.id())
    }
}
