//! Hands a context on: the token, with one record more that says to whom, and the certificates of
//! earlier holders that the callee has not been shown on this connection.
//!
//! Invariant: a context goes only to a peer that proved an expected identity; the record is
//! addressed to exactly that peer, and signed with the key of the certificate it has seen of us.
//! Everything is marked so that HPACK never indexes it, but the header of a token, which is no
//! secret and goes in a field of its own to whoever takes it so.

use std::sync::Arc;

use countersign_ctxtoken::{HopError, NewHop, UnixTime, append};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::clock::Now;
use crate::context_index::Held;
use crate::http::certs::{self, Thumbprint};
use crate::http::hygiene::{CERTS, HOPS, TOKEN_HEADER, TXN_TOKEN};
use crate::http::token_parts::TAKES_PARTS;
use crate::refusal::{Refusal, Refused, Stage};
use crate::signers::Signer;
use crate::upstream::mesh::MeshEnds;

/// The context a request is to carry.
pub enum Carries {
    /// None.
    Nothing,
    /// One made a moment ago, for the callee of the connection it goes out on: its token is record
    /// enough.
    Minted(HeaderValue),
    /// That of an inbound request, which this workload may hand on.
    Held(Arc<Held>),
}

/// Which certificates of earlier holders go along.
#[derive(Clone, Copy)]
pub(super) enum Bring<'a> {
    /// What the callee has not been shown on this connection.
    Unshown,
    /// What it asked for.
    Asked(&'a [Thumbprint]),
}

/// Writes what hands the context on over this connection, in place of what stood there for another.
/// Gives the certificates that go along.
///
/// # Errors
/// `hops_too_many` and `context_too_large` for a path that is too long, `identity_unavailable` when
/// our key does not sign, `upstream_failed` outside the mesh, where no context may go.
pub(super) fn attach(
    headers: &mut HeaderMap,
    carries: &Carries,
    ends: Option<&MeshEnds>,
    bring: Bring<'_>,
) -> Result<Vec<Thumbprint>, Refused> {
    for name in [TXN_TOKEN, TOKEN_HEADER, HOPS, CERTS] {
        headers.remove(name);
    }
    let outside = || refused(Refusal::UpstreamFailed, "no context leaves the mesh");
    match carries {
        Carries::Nothing => Ok(Vec::new()),
        Carries::Minted(token) => {
            write_token(headers, token, ends.ok_or_else(outside)?);
            Ok(Vec::new())
        }
        Carries::Held(held) => {
            let ends = ends.ok_or_else(outside)?;
            let hops = with_our_record(held, ends)?;
            write_token(headers, &held.token, ends);
            headers.insert(HOPS, sensitive(hops)?);
            let brought = brought(held, ends, bring);
            if !brought.is_empty() {
                let field = certs::write_chains(brought.iter().map(|signer| signer.der()));
                headers.insert(CERTS, sensitive(field)?);
            }
            Ok(brought.iter().map(|signer| signer.thumbprint()).collect())
        }
    }
}

/// In two fields where the other end takes them.
fn write_token(headers: &mut HeaderMap, token: &HeaderValue, ends: &MeshEnds) {
    let Some((header, rest)) = ends.token_parts(token) else {
        headers.insert(TXN_TOKEN, token.clone());
        return;
    };
    headers.insert(TOKEN_HEADER, header);
    headers.insert(TXN_TOKEN, rest);
}

/// Notes what the callee's proxy says of tokens in two fields. Its app cannot: the proxy takes the
/// field out of what its app writes.
pub(super) fn learn<B>(ends: &MeshEnds, response: &Response<B>) {
    if !ends.takes_parts()
        && response.headers().get(TOKEN_HEADER).is_some_and(|it| it == TAKES_PARTS)
    {
        ends.note_takes_parts();
    }
}

/// The records so far, and ours.
fn with_our_record(held: &Held, ends: &MeshEnds) -> Result<String, Refused> {
    let own = ends.own();
    let hop = NewHop {
        sub: &own.id,
        aud: ends.peer().id(),
        iat: UnixTime(Now::read().secs()),
        token_sha256: &held.token_sha256(),
        scope: held.narrowed(),
    };
    append(held.hops.as_deref(), &hop, &own.key, &own.leaf_sha256)
        .map_err(|error| of_hop_error(&error))
}

/// Whose certificates go along: never our own, which the handshake has shown.
fn brought<'h>(held: &'h Held, ends: &MeshEnds, bring: Bring<'_>) -> Vec<&'h Signer> {
    let wanted = |thumbprint: &Thumbprint| match bring {
        Bring::Unshown => !ends.has_shown(thumbprint),
        Bring::Asked(asked) => asked.contains(thumbprint),
    };
    let of_others = |signer: &&Signer| signer.thumbprint() != ends.own().leaf_sha256;
    let signers = held.signers.iter().map(|signer| &**signer).filter(of_others);
    signers.filter(|signer| wanted(&signer.thumbprint())).collect()
}

/// The certificates that the callee's proxy lacks, if that is what it answers. Only a mesh peer's
/// proxy can: it takes the field out of what its app writes.
pub(super) fn asked<B>(response: &Response<B>) -> Option<Vec<Thumbprint>> {
    let headers = response.headers();
    let mut fields = headers.get_all(CERTS).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let refused = response.status() == StatusCode::UNAUTHORIZED
        || headers.get("grpc-status").is_some_and(|status| status == "16");
    if !refused {
        return None;
    }
    certs::read_thumbprints(field.as_bytes()).ok()
}

/// Whether the callee's proxy has looked at the certificates of the request it answers like this.
/// One that refuses early has not, such as a presenter (403); what is brought once too often does
/// no harm.
pub(super) fn has_looked<B>(response: &Response<B>) -> bool {
    let grpc = response.headers().get("grpc-status");
    let refused = grpc.is_some_and(|status| status != "0");
    !refused && !matches!(response.status().as_u16(), 400 | 401 | 403 | 408 | 413..=431 | 499..)
}

/// The refusal of a request whose callee lacks certificates that it cannot be sent again with.
pub(super) fn missed(why: &str) -> Refused {
    refused(Refusal::HopsCertMissed, why)
}

fn sensitive(text: String) -> Result<HeaderValue, Refused> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|error| refused(Refusal::ContextTooLarge, error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn of_hop_error(error: &HopError) -> Refused {
    let refusal = match error {
        HopError::TooMany { .. } => Refusal::HopsTooMany,
        HopError::TooLarge { .. } => Refusal::ContextTooLarge,
        HopError::NotTheHolder | HopError::ScopeInvalid | HopError::Sign(_) => {
            Refusal::IdentityUnavailable
        }
    };
    refused(refusal, error.to_string())
}

fn refused(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Forward, detail)
}

#[cfg(test)]
#[path = "../tests/hand_on.rs"]
mod tests;
