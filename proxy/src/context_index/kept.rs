//! What the index keeps of a context. While its request is open, all of it; in grace, where
//! thousands wait and hardly one is asked for again, what the token says is let go of and read once
//! more when somebody does ask, and a token shares its header with the one before it,
//! if it is of the same key.
//!
//! Invariant: what is read again comes out of the very bytes that were verified ([`Folded`]).

use std::sync::Arc;

use countersign_ctxtoken::Folded;
use http::HeaderValue;

use super::Held;

#[derive(Clone)]
pub(super) enum Kept {
    /// As it was proven.
    Whole(Arc<Held>),
    /// Without what its token says.
    Folded(Arc<Resting>),
}

/// A context that nobody asks for at the moment.
pub(super) struct Resting {
    /// The encoded header of the token and the rest of it, from its first dot on.
    token: (Arc<[u8]>, Box<[u8]>),
    context: Folded,
    /// All else; its token is empty.
    held: Held,
}

impl Kept {
    /// All but the token and what it says, which may be missing here.
    pub(super) fn held(&self) -> &Held {
        match self {
            Kept::Whole(held) => held,
            Kept::Folded(resting) => &resting.held,
        }
    }

    fn token(&self) -> (&[u8], &[u8]) {
        match self {
            Kept::Whole(held) => split(held.token.as_bytes()),
            Kept::Folded(resting) => (&resting.token.0, &resting.token.1),
        }
    }

    /// Whether it is a context of the same token, byte for byte.
    pub(super) fn is_of_the_token_of(&self, other: &Kept) -> bool {
        self.token() == other.token()
    }

    /// The whole context.
    pub(super) fn whole(&self) -> Option<Arc<Held>> {
        let resting = match self {
            Kept::Whole(held) => return Some(Arc::clone(held)),
            Kept::Folded(resting) => resting,
        };
        let Resting { token: (header, rest), context, held } = &**resting;
        let token = [&**header, &**rest].concat();
        let context = context.unfold(&token)?;
        let mut token = HeaderValue::try_from(token).ok()?;
        token.set_sensitive(true);
        Some(Arc::new(Held { token, context: Some(Arc::new(context)), ..held.clone() }))
    }

    /// Lets go of the token and of what it says, and gives them to the caller to drop. `last` is
    /// the header of the token that was folded last.
    pub(super) fn fold(&mut self, last: &mut Option<Arc<[u8]>>) -> Option<Kept> {
        let Kept::Whole(held) = self else { return None };
        let context = held.context.as_ref()?.fold();
        let token = held.token.as_bytes();
        let after = |last: &Arc<[u8]>| {
            let rest = token.strip_prefix(&**last).filter(|rest| rest.starts_with(b"."))?;
            Some((Arc::clone(last), rest))
        };
        let (header, rest) = last.as_ref().and_then(after).unwrap_or_else(|| {
            let (header, rest) = split(token);
            (header.into(), rest)
        });
        *last = Some(Arc::clone(&header));
        let held = Held {
            token: HeaderValue::from_static(""),
            exp: held.exp,
            may_pass_on: held.may_pass_on,
            hops: held.hops.clone(),
            scope: held.scope.clone(),
            signers: Arc::clone(&held.signers),
            context: None,
        };
        let token = (header, rest.into());
        let folded = Kept::Folded(Arc::new(Resting { token, context, held }));
        Some(std::mem::replace(self, folded))
    }
}

/// The header of a token, and the rest from its first dot on.
fn split(token: &[u8]) -> (&[u8], &[u8]) {
    let dot = token.iter().position(|byte| *byte == b'.').unwrap_or(token.len());
    token.split_at_checked(dot).unwrap_or_default()
}
