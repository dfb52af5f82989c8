//! One connection to another sidecar, as the requests on it see it: who answers, as whom this end
//! came, and what the other end has been shown.
//!
//! Invariant: both ends are those of the handshake; a record that is signed for this connection is
//! signed with the key, and names the certificate, that its other end has seen.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use countersign_certs_client::Identity;
use countersign_config::limits;
use http::HeaderValue;

use crate::http::certs::Thumbprint;
use crate::http::token_parts;
use crate::tls::peer::MeshPeer;

/// Both ends of a mutual TLS connection, for as long as it lasts.
pub struct MeshEnds {
    peer: MeshPeer,
    own: Arc<Identity>,
    shown: RefCell<HashSet<Thumbprint>>,
    takes_parts: Cell<bool>,
    /// The header of the token that was sent last in two fields.
    token_header: RefCell<Option<HeaderValue>>,
}

impl MeshEnds {
    /// Of a finished handshake.
    pub fn new(peer: MeshPeer, own: Arc<Identity>) -> MeshEnds {
        MeshEnds {
            peer,
            own,
            shown: RefCell::default(),
            takes_parts: Cell::default(),
            token_header: RefCell::default(),
        }
    }

    /// Who answers.
    pub fn peer(&self) -> &MeshPeer {
        &self.peer
    }

    /// As whom this end came.
    pub fn own(&self) -> &Arc<Identity> {
        &self.own
    }

    /// Whether the other end has said that it takes tokens in two fields.
    pub fn takes_parts(&self) -> bool {
        self.takes_parts.get()
    }

    /// It has.
    pub fn note_takes_parts(&self) {
        self.takes_parts.set(true);
    }

    /// A token as the two fields it may be sent in; `None` if it is to be sent whole.
    pub fn token_parts(&self, token: &HeaderValue) -> Option<(HeaderValue, HeaderValue)> {
        if !self.takes_parts.get() {
            return None;
        }
        let mut last = self.token_header.borrow_mut();
        let (header, rest) = token_parts::split(token, last.as_ref())?;
        if last.as_ref() != Some(&header) {
            *last = Some(header.clone());
        }
        Some((header, rest))
    }

    /// Whether the other end has seen this certificate of an earlier holder on this connection.
    pub fn has_shown(&self, thumbprint: &Thumbprint) -> bool {
        self.shown.borrow().contains(thumbprint)
    }

    /// It has: a request that brought them was answered by somebody who had looked at them.
    pub fn note_shown(&self, thumbprints: &[Thumbprint]) {
        let mut shown = self.shown.borrow_mut();
        if shown.len() + thumbprints.len() > limits::HOP_CERTS_SHOWN_MAX {
            // What is forgotten here is shown again, and known there.
            shown.clear();
        }
        shown.extend(thumbprints);
    }

    /// It does not know them, or no longer.
    pub fn note_missing(&self, thumbprints: &[Thumbprint]) {
        let mut shown = self.shown.borrow_mut();
        for thumbprint in thumbprints {
            shown.remove(thumbprint);
        }
    }
}

impl fmt::Debug for MeshEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshEnds({} to {})", self.own.id, self.peer.id())
    }
}
