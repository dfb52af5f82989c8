//! The policy language of countersign: documents in, decisions out.
//!
//! [`load`] turns YAML texts into typed, cross-checked [`Documents`], or into every problem of all
//! of them at once. [`compile`] selects and indexes the rules of one workload. [`Compiled::decide`]
//! answers one request; [`Compiled::explain`] says why, rule by rule and atom by atom.
//!
//! Invariants: an unknown field is an error, never a dropped restriction; a deny rule matches on
//! *unknown* and an allow rule needs *true*; without a matching allow the answer is deny.
//! This crate opens no socket, reads no file and no clock, and knows nothing of HTTP libraries,
//! TLS or tokens: it sees strings, integers, addresses and times that somebody else proved.

#![forbid(unsafe_code)]

pub mod case;
mod chain;
mod compile;
mod decide;
pub mod decision;
pub mod diagnostic;
pub mod doc;
mod eval;
mod explain;
mod facts;
mod gateway;
pub mod host;
pub mod http1;
mod index;
pub mod input;
mod overlap;
mod pace;
pub mod params;
mod parse;
pub mod path;
pub mod pattern;
#[cfg(test)]
mod reference;
mod revocation;
mod sentence;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod time;
mod tri;
pub mod yaml;

pub use compile::{Compiled, compile, compile_paced, selected as selected_policies};
pub use decision::{Decision, DenyReason, Outcome, RuleRef};
pub use diagnostic::{Diagnostic, Excerpt, Problems, Severity, Source};
pub use doc::{Documents, Named, Place};
pub use explain::{AtomTrace, Explanation, RuleTrace};
pub use gateway::matching_mint_rule;
pub use input::{
    Caller, ContextFacts, DeviceFacts, HeaderLookup, Input, InputOwned, JustificationFacts,
    NoHeaders, Protocol, Request, SourceFacts, UserFacts, Workload,
};
pub use pace::Pace;
pub use revocation::{RevocableLeaf, Revocations};

/// Parses and cross-checks documents; every problem of all of them at once.
pub fn load(sources: &[Source<'_>]) -> Result<Documents, Problems> {
    load_paced(sources, Pace::default())
}

/// As [`load`], at the pace of the caller.
pub fn load_paced(sources: &[Source<'_>], pace: Pace<'_>) -> Result<Documents, Problems> {
    parse::documents(sources, pace)
}
