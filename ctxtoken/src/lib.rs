//! The context token of profile `countersign/1`: a signed statement of who is behind a request,
//! how it entered the mesh, and to which workload it was handed first.
//!
//! * [`verify`] (or [`TokenCache::verify`]) is the only way to a [`Verified`] context.
//! * [`HopList`] shows how a token came here; [`append`] adds to it.
//! * [`check_presenter`] and [`check_custody`] bind it to the connection it came over.
//! * [`Minter`] makes tokens; it cannot make one that [`verify`] would refuse by content.
//! * [`Unverified`] shows what a token says, for tools; nothing in it may take part in a decision.
//!
//! Pure: no sockets, no clock, no randomness but the nonce the signature library draws. The wire
//! format is in `README.md` of this crate.
//!
//! ```
//! # use countersign_ctxtoken::txn_id;
//! // Time and randomness are always arguments.
//! assert_eq!(txn_id(1_795_194_000_217, [7; 10]), "01a1f9e6-9359-7707-8707-070707070707");
//! ```
#![forbid(unsafe_code)]

mod algorithm;
mod cache;
mod claims;
mod error;
mod grant;
mod hashing;
mod hops;
mod issuers;
mod json;
mod jwks;
mod jws;
mod keys;
mod limits;
mod mint;
mod patterns;
mod presenter;
mod published;
mod redacted;
mod self_signed;
mod signer;
mod time;
mod upkeep;
mod verify;

pub use algorithm::Algorithm;
pub use cache::{CacheResult, TokenCache};
pub use claims::{
    Approval, Device, DeviceSource, IngressWorkload, IpSource, JsonMap, Justification, Origin,
    Rctx, RequestContext, SenderConstraint, Subject, Tctx, TlsFacts, UserName, shown, shown_names,
};
pub use error::{
    ClaimProblem, Constraint, CustodyProblem, HopError, InvalidContext, IssuersError, JwksError,
    KeyProblem, MintError, SignError, SignerError, VerifyError,
};
pub use grant::{
    GRANT_TTL_S_MAX, Grant, GrantError, GrantKey, GrantSigner, GrantText, GrantWith, NewGrant,
    grant_scope, verify_grant,
};
pub use hashing::Message;
pub use hops::{
    Custody, CustodyWith, HopKeys, HopList, NewHop, VerifiedHops, append, check_custody,
};
pub use issuers::{Constraints, Issuer, IssuerSet, KeyForms};
pub use jwks::KeySet;
pub use jws::KeyName;
pub use keys::{ChainKey, ChainValidator, VerifyingKey};
pub use limits::Limits;
pub use mint::{KeyRef, Minter, NewContext, TokenIds, txn_id};
pub use patterns::{PatternError, ScopePattern, SubPattern};
pub use presenter::{PathPattern, Presenter, Presenters, check_presenter};
pub use published::{PublishedKey, issuer_jwks, plain_jwks};
pub use redacted::{ContextToken, Redacted};
pub use self_signed::{StatementError, check_statement, sign_statement};
pub use signer::{LocalSigner, TokenSigner};
pub use time::UnixTime;
pub use upkeep::Upkeep;
pub use verify::{Folded, Unverified, Verified, VerifyWith, verify};

#[cfg(test)]
mod tests;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
