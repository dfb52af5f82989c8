//! The reserved names: who may say what, moved out of the header map before anything reads it.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::HygieneError;
use super::names::{Class, notable};
use crate::audit::DecisionId;
use crate::http::token_parts;

/// `Txn-Token`.
pub const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
/// `Countersign-Token-Header`, the first part of a token that comes in two fields.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("countersign-token-header");
/// `Countersign-Hops`.
pub const HOPS: HeaderName = HeaderName::from_static("countersign-hops");
/// `Countersign-Certs`.
pub const CERTS: HeaderName = HeaderName::from_static("countersign-certs");
/// `Countersign-Context`, the handle an app carries on.
pub const CONTEXT: HeaderName = HeaderName::from_static("countersign-context");
/// `Countersign-Http1`, what HTTP/2 cannot say.
pub const HTTP1: HeaderName = HeaderName::from_static("countersign-http1");
/// `Countersign-Justification`.
pub const JUSTIFICATION: HeaderName = HeaderName::from_static("countersign-justification");
/// `Countersign-Decision`.
pub const DECISION: HeaderName = HeaderName::from_static("countersign-decision");

/// One reserved field as the sender presented it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field {
    /// Not sent.
    #[default]
    Absent,
    /// Sent on exactly one line.
    One(HeaderValue),
    /// Sent on more than one line.
    Repeated,
}

impl Field {
    /// The value, if there is exactly one.
    pub fn one(&self) -> Option<&HeaderValue> {
        match self {
            Self::One(value) => Some(value),
            Self::Absent | Self::Repeated => None,
        }
    }

    fn add(&mut self, value: HeaderValue) {
        *self = match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// The reserved fields a sender presented, moved out of the header map.
#[derive(Clone, Debug, Default)]
pub struct Presented {
    /// `Txn-Token`, one line without a comma, put together where it came in two fields; read it through
    /// [`Presented::token`].
    pub txn_token: Field,
    /// `Countersign-Token-Header`: of a request until the token is put together.
    pub token_header: Field,
    /// Whether the token came in two fields.
    pub in_parts: bool,
    /// `Countersign-Hops`.
    pub hops: Field,
    /// `Countersign-Certs`.
    pub certs: Field,
    /// `Countersign-Context`, the handle of the app.
    pub handle: Field,
    /// `Countersign-Http1`, what HTTP/2 cannot say.
    pub http1: Field,
    /// `Countersign-Justification`.
    pub justification: Field,
    /// Lines that were dropped unread: every other reserved name and every odd spelling.
    pub dropped: usize,
}

/// The reserved fields a direction may read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    All,
    /// A request from outside: the justification.
    Edge,
    /// A request of the own app: handle and forwarded token.
    App,
    /// A request of a mesh peer.
    Peer,
    /// A request of anybody else: the token, so that it can be refused.
    Stranger,
    /// A response of a mesh peer.
    PeerResponse,
    Nothing,
}

impl Presented {
    /// The token: one line without a comma, or none.
    pub fn token(&self) -> Result<Option<&HeaderValue>, HygieneError> {
        match &self.txn_token {
            Field::Absent => Ok(None),
            Field::One(value) => Ok(Some(value)),
            Field::Repeated => Err(HygieneError::TokenDuplicated),
        }
    }

    /// Puts a token together that came in two fields.
    pub(super) fn join_token(&mut self) -> Result<(), HygieneError> {
        let header = match std::mem::take(&mut self.token_header) {
            Field::Absent => return Ok(()),
            Field::One(header) => header,
            Field::Repeated => return Err(HygieneError::TokenParts),
        };
        let rest = self.txn_token.one().ok_or(HygieneError::TokenParts)?;
        let token = token_parts::join(&header, rest).ok_or(HygieneError::TokenParts)?;
        self.txn_token = Field::One(token);
        self.in_parts = true;
        Ok(())
    }

    fn slot(&mut self, name: &HeaderName, reads: Reads) -> Option<&mut Field> {
        use Reads::{All, App, Edge, Peer, PeerResponse, Stranger};
        let (slot, readers): (_, &[Reads]) = match name.as_str() {
            "txn-token" => (&mut self.txn_token, &[All, App, Peer, Stranger]),
            "countersign-token-header" => (&mut self.token_header, &[All, Peer, PeerResponse]),
            "countersign-hops" => (&mut self.hops, &[All, Peer]),
            "countersign-certs" => (&mut self.certs, &[All, Peer, PeerResponse]),
            "countersign-context" => (&mut self.handle, &[All, App]),
            "countersign-http1" => (&mut self.http1, &[All, Peer, PeerResponse]),
            "countersign-justification" => (&mut self.justification, &[All, Edge]),
            _ => return None,
        };
        readers.contains(&reads).then_some(slot)
    }
}

/// Moves the reserved fields out of the map.
pub fn take_reserved(headers: &mut HeaderMap) -> Presented {
    let notable = notable(headers);
    take(headers, &notable, Reads::All)
}

/// Removes every reserved field, unread. Returns how many lines were dropped.
pub fn strip_reserved(headers: &mut HeaderMap) -> usize {
    let notable = notable(headers);
    take(headers, &notable, Reads::Nothing).dropped
}

pub(super) fn take(
    headers: &mut HeaderMap,
    notable: &[(HeaderName, Class)],
    reads: Reads,
) -> Presented {
    let mut presented = Presented::default();
    for (name, _) in notable.iter().filter(|(_, class)| *class == Class::Reserved) {
        for value in take_all(headers, name) {
            match presented.slot(name, reads) {
                Some(slot) => slot.add(value),
                None => presented.dropped += 1,
            }
        }
    }
    // A comma is another line, in the form that lists are joined in.
    if presented.txn_token.one().is_some_and(|token| token.as_bytes().contains(&b',')) {
        presented.txn_token = Field::Repeated;
    }
    presented
}

/// Takes the decision id out of a response, if it is the only one and has the syntax of one.
pub(super) fn take_decision(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(DECISION).iter();
    let (value, None) = (lines.next()?.clone(), lines.next()) else {
        return None;
    };
    if !DecisionId::is_id(value.as_bytes()) {
        return None;
    }
    headers.remove(DECISION);
    Some(value)
}

fn take_all(headers: &mut HeaderMap, name: &HeaderName) -> Vec<HeaderValue> {
    match headers.entry(name) {
        http::header::Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
        http::header::Entry::Vacant(_) => Vec::new(),
    }
}
