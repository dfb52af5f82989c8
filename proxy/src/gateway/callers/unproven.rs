//! All that is read of a caller's token, and of what is said about it, before anything is proven:
//! the door of the fuzz targets and of the replay of their corpora. Decides nothing.

use countersign_workload_id::TrustDomain;

use super::{review, service_account};
use crate::clock::Now;
use crate::gateway::user_token;

/// Whether a service account token would pass up to the questions that need somebody else (keys, or
/// the API server), where the API server is asked and where it is not.
pub fn service_account_token(
    text: &str,
    audience: &str,
    domain: &TrustDomain,
    now: Now,
) -> [bool; 2] {
    let Ok(token) = user_token::parse(text) else { return [false; 2] };
    [true, false].map(|reviewed| {
        let read = service_account::read(&token.claims, audience, domain, reviewed, now);
        // A refusal tells what the token says.
        read.map_err(|error| error.refused()).is_ok()
    })
}

/// Whether this answer to a `TokenReview` would let anybody in.
pub fn token_review(answer: &[u8], audience: &str) -> bool {
    matches!(review::read(answer, audience), Ok(review::Reviewed::Authenticated { .. }))
}
