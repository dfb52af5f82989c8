//! What an onward call says about its cause, and what that comes to.

use std::sync::Arc;

use http::HeaderValue;

use super::kept::Kept;
use super::{Held, TraceId};

/// What was found for an onward call. The name is the label of `countersign_context_lookup_total`.
pub enum Lookup {
    /// By handle.
    Handle(Arc<Held>),
    /// By trace id.
    Traceparent(Arc<Held>),
    /// By the token itself.
    Token(Arc<Held>),
    /// Neither a handle nor a token nor a known trace id.
    None,
    /// A handle nobody knows, that has ended, or that was sent twice.
    UnknownHandle,
    /// A token that no request of this pod brought, or that was sent twice.
    UnknownToken,
    /// One trace id or token, several different contexts.
    Ambiguous,
    /// Handle, token and trace id lead to different tokens.
    Mismatch,
}

impl Lookup {
    /// The context to attach, if exactly one was found.
    pub fn held(&self) -> Option<&Arc<Held>> {
        match self {
            Lookup::Handle(held) | Lookup::Traceparent(held) | Lookup::Token(held) => Some(held),
            Lookup::None
            | Lookup::UnknownHandle
            | Lookup::UnknownToken
            | Lookup::Ambiguous
            | Lookup::Mismatch => None,
        }
    }
}

/// One header of the app's call.
pub enum Asked<T> {
    /// Not sent.
    Nothing,
    /// Sent once.
    Once(T),
    /// Sent several times, or not readable.
    Repeatedly,
}

/// What the app's call says about its cause.
pub struct Call<'a> {
    /// `Countersign-Context`.
    pub handle: Asked<&'a str>,
    /// `Txn-Token`.
    pub token: Asked<&'a HeaderValue>,
    /// The trace id of `traceparent`.
    pub trace: Option<TraceId>,
}

/// Which ways of finding a context are switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// By the `Countersign-Context` header.
    pub handle: bool,
    /// By the W3C trace id.
    pub traceparent: bool,
    /// By the token, which the app is given for that.
    pub token: bool,
}

/// What a name leads to is not one context.
pub(super) struct Ambiguous {
    /// Those it could be; requests that brought none, or one that has ended, are left out.
    pub(super) among: Vec<Kept>,
}

pub(super) type Found = Result<Option<Kept>, Ambiguous>;

/// Weighs what handle, token and trace id led to. The handle names one request, so it wins over
/// names that several requests share, unless those are the names of other tokens only.
pub(super) fn weigh(by_handle: Option<Kept>, by_token: Found, by_trace: Found) -> Lookup {
    if let Some(held) = by_handle {
        if contradicts(&by_token, &held) || contradicts(&by_trace, &held) {
            return Lookup::Mismatch;
        }
        return held.whole().map_or(Lookup::UnknownHandle, Lookup::Handle);
    }
    match (by_token, by_trace) {
        (Ok(Some(held)), by_trace) if contradicts(&by_trace, &held) => Lookup::Mismatch,
        (Ok(Some(held)), _) => held.whole().map_or(Lookup::UnknownToken, Lookup::Token),
        (Ok(None), Ok(Some(held))) => held.whole().map_or(Lookup::None, Lookup::Traceparent),
        (Ok(None), Ok(None)) => Lookup::None,
        (Ok(None), Err(Ambiguous { among })) if among.is_empty() => Lookup::None,
        (Err(_), _) | (Ok(None), Err(_)) => Lookup::Ambiguous,
    }
}

/// Whether a name is known, and not as one of this token.
fn contradicts(found: &Found, held: &Kept) -> bool {
    let is_other = |other: &Kept| !other.is_of_the_token_of(held);
    match found {
        Ok(None) => false,
        Ok(Some(other)) => is_other(other),
        Err(Ambiguous { among }) => among.iter().all(is_other),
    }
}
