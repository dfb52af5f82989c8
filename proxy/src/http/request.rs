//! A request head after hygiene: one authority, one canonical path, reserved fields set apart.
//!
//! Invariant: what policy sees and what is forwarded are the same canonical form; a head with more
//! than one reading never gets this far.

use std::str::FromStr as _;
use std::sync::Arc;

use countersign_config::limits;
use countersign_policy::host::{canonical_authority, canonical_host};
use countersign_policy::path::{CanonicalPath, PathError};
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, request};

use crate::http::hygiene::{self, CleanRequest, HopByHop, HygieneError, Presented, Sender};
use crate::inbound::accept::Connection;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::RemovedFrom;

/// What the stages read of a request.
pub struct Head {
    /// The one authority, as sent.
    pub authority: Authority,
    /// Lower-case host, without port but for CONNECT, which is about one: what policy compares.
    pub host: Arc<str>,
    /// The canonical path and query.
    pub path: CanonicalPath,
    /// Reserved fields the sender presented.
    pub presented: Presented,
    /// What the hop-by-hop fields said.
    pub hop: HopByHop,
    /// Whether the message is gRPC.
    pub grpc: bool,
}

impl Head {
    /// Cleans a request that reached the inbound side.
    ///
    /// # Errors
    /// The refusal of whatever is ambiguous or forbidden.
    pub fn inbound(
        parts: &mut request::Parts,
        conn: &Connection,
        snap: &Snapshot,
        journal: &mut Journal,
    ) -> Result<Head, Refused> {
        let sender =
            if conn.peer().mesh().is_some() { Sender::Mesh } else { Sender::Unauthenticated };
        let clean = hygiene::inbound_request(parts, sender).map_err(of_hygiene)?;
        Head::of(parts, clean, snap, journal)
    }

    /// Cleans a request from outside the mesh.
    ///
    /// # Errors
    /// The refusal of whatever is ambiguous or forbidden.
    pub fn gateway(
        parts: &mut request::Parts,
        snap: &Snapshot,
        journal: &mut Journal,
    ) -> Result<Head, Refused> {
        let clean = hygiene::gateway_request(parts).map_err(of_hygiene)?;
        Head::of(parts, clean, snap, journal)
    }

    fn of(
        parts: &mut request::Parts,
        clean: CleanRequest,
        snap: &Snapshot,
        journal: &mut Journal,
    ) -> Result<Head, Refused> {
        let CleanRequest { mut authority, presented, hop } = clean;
        journal.reserved_removed(RemovedFrom::Header, presented.dropped);
        refuse_oversized(&parts.headers)?;
        let invalid =
            |error: &dyn std::error::Error| refused(Refusal::HostInvalid, error.to_string());
        let host = canonical_host(authority.as_str()).map_err(|error| invalid(&error))?;
        let mut host: Arc<str> = host.into();
        let target = target_of(&parts.uri, &parts.method);
        let options = snap.documents.mesh.paths;
        let path = CanonicalPath::from_target(parts.method.as_str(), target, &host, options)
            .map_err(of_path);
        if parts.method == Method::CONNECT {
            host = canonical_authority(authority.as_str()).map_err(|error| invalid(&error))?.into();
            // What is decided on is what is forwarded.
            authority = Authority::from_str(&host).map_err(|error| invalid(&error))?;
            parts.uri = Uri::from(authority.clone());
            if let Some(field) = parts.headers.get_mut(HOST) {
                *field = HeaderValue::from_str(&host).map_err(|error| invalid(&error))?;
            }
        }
        journal.host = Some(Arc::clone(&host));
        let path = path?;
        journal.path = Some(path.clone());
        let grpc = hygiene::is_grpc(&parts.headers);
        Ok(Head { authority, host, path, presented, hop, grpc })
    }
}

/// Over HTTP/2 no head check has measured the single fields.
///
/// # Errors
/// `header_too_large`, which says which and how large.
pub fn refuse_oversized(headers: &HeaderMap) -> Result<(), Refused> {
    let max = limits::HEADER_VALUE_BYTES_MAX;
    match headers.iter().find(|(_, value)| value.len() > max) {
        None => Ok(()),
        Some((name, value)) => {
            let detail = format!("header `{name}` has {} bytes, the limit is {max}", value.len());
            Err(refused(Refusal::HeaderTooLarge, detail))
        }
    }
}

/// The origin form of the target: hygiene has checked that an absolute form names the same host.
fn target_of<'u>(uri: &'u Uri, method: &Method) -> &'u str {
    match uri.path_and_query() {
        Some(target) => target.as_str(),
        None if method == Method::OPTIONS => "*",
        None => "/",
    }
}

fn refused(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Accept, detail)
}

/// Which refusal a hygiene error is.
pub fn of_hygiene(error: HygieneError) -> Refused {
    let refusal = match error {
        HygieneError::HeaderForbidden => Refusal::HeaderForbidden,
        HygieneError::TokenDuplicated => Refusal::TokenDuplicated,
        HygieneError::TokenParts => Refusal::TokenMalformed,
        HygieneError::AuthorityMismatch
        | HygieneError::HostMalformed
        | HygieneError::HostMissing
        | HygieneError::HostRepeated
        | HygieneError::UserinfoPresent => Refusal::HostInvalid,
        HygieneError::LengthAmbiguous
        | HygieneError::MethodCase
        | HygieneError::SchemeUnsupported
        | HygieneError::TargetForm
        | HygieneError::TrailersTooLarge => Refusal::RequestMalformed,
    };
    refused(refusal, error.to_string())
}

fn of_path(error: PathError) -> Refused {
    let refusal = match error {
        PathError::TooLong => Refusal::UriTooLong,
        _ => Refusal::PathNotCanonical,
    };
    refused(refusal, error.to_string()).with_sub(error.reason())
}
