//! Hands a context on: the token, to the one callee that proved itself on the connection.
//!
//! Invariant: a context goes only to a peer that proved an expected identity, marked so that HPACK
//! never indexes it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use crate::context_index::Held;
use crate::http::hygiene::TXN_TOKEN;
use crate::refusal::{Refusal, Refused, Stage};
use crate::upstream::mesh::MeshEnds;

/// The context a request is to carry.
pub enum Carries {
    /// None.
    Nothing,
    /// One made a moment ago, for the callee of the connection it goes out on.
    Minted(HeaderValue),
    /// That of an inbound request, which this workload may hand on.
    Held(Arc<Held>),
}

/// Writes what hands the context on over this connection, in place of what stood there for another.
///
/// # Errors
/// `upstream_failed` outside the mesh, where none may go.
pub(super) fn attach(
    headers: &mut HeaderMap,
    carries: &Carries,
    ends: Option<&MeshEnds>,
) -> Result<(), Refused> {
    headers.remove(TXN_TOKEN);
    let token = match carries {
        Carries::Nothing => return Ok(()),
        Carries::Minted(token) => token,
        Carries::Held(held) => &held.token,
    };
    if ends.is_none() {
        let detail = "no context leaves the mesh";
        return Err(Refused::new(Refusal::UpstreamFailed, Stage::Forward, detail));
    }
    headers.insert(TXN_TOKEN, token.clone());
    Ok(())
}
