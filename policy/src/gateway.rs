//! Which mint rule a request at a gateway falls under.

use crate::{
    doc::{ContextPolicy, MintRule},
    path::CanonicalPath,
};

/// The one rule that matches; entries never overlap (E020). `None`: nothing may be minted.
pub fn matching_mint_rule<'p>(
    policy: &'p ContextPolicy,
    method: &str,
    host: &str,
    path: &CanonicalPath,
) -> Option<&'p MintRule> {
    policy.mint.iter().find(|rule| rule.matcher.matches_exactly(method, host, path))
}
