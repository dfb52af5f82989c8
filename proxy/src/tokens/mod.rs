//! The token service (RFC 8693): workloads exchange what they hold for a context token.
//!
//! The stages: `endpoint` (HTTP), `request` (the form), `requesters` (who may ask, how often),
//! `subject` (what was brought, verified), `facts` (what the requester may add), `answer`.
//! Invariant: whoever asks was proven by mutual TLS and let in by policy before anything here runs;
//! a token is handed to the one who asked (`rctx.to`), says no more than its subject grants, and
//! nothing is granted that no entry of `tokenService` lists.

mod answer;
mod deferred;
pub mod endpoint;
mod error;
mod facts;
mod redeemed;
mod request;
mod requesters;
mod rules;
mod subject;

#[cfg(test)]
mod tests;

pub use self::deferred::{GrantKeys, KeyFiles, MadeGrant};
pub use self::error::{TokenError, Why};
pub use self::redeemed::Redeemed;
pub use self::request::{Request, Requested, SubjectKind};
pub use self::requesters::Rates;
pub use self::rules::{Entry, TokenRules};

use countersign_ctxtoken::{Constraint, MintError};

use crate::clock::Now;
use crate::http::hygiene::Field;
use crate::issuer::{Issuer, Minted};
use crate::live::Snapshot;
use crate::tls::peer::MeshPeer;
use crate::worker::Worker;

/// What an exchange is judged by.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The worker that serves it.
    pub worker: &'a Worker,
    /// The snapshot in force.
    pub snap: &'a Snapshot,
    /// What the service grants.
    pub rules: &'a TokenRules,
    /// Makes the token.
    pub issuer: &'a Issuer,
    /// The workload that asks, as its handshake proved.
    pub requester: &'a MeshPeer,
    /// Its entry.
    pub entry: &'a Entry,
    /// `Countersign-Hops` of the call: how a context token among the parameters got here.
    pub hops: &'a Field,
    /// `Countersign-Certs` of the call: certificates of its earlier holders.
    pub certs: &'a Field,
    /// The time of the request.
    pub now: Now,
}

/// What was granted.
pub struct Granted {
    /// What was issued.
    pub issued: Issued,
    /// When it ends, in seconds from now.
    pub expires_in_s: u64,
    /// What it is for.
    pub scope: Vec<String>,
}

/// What was issued. Closed: each kind is made in one place.
pub enum Issued {
    /// A context token.
    Context(Box<Minted>),
    /// A deferred grant.
    Grant(Box<MadeGrant>),
}

/// Exchanges what `request` brings for what it asks.
///
/// # Errors
/// [`TokenError`], with the reason for the record and the coarse code for the requester.
pub async fn exchange(
    worker: &Worker,
    snap: &Snapshot,
    requester: &MeshPeer,
    request: &Request,
    (hops, certs): (&Field, &Field),
    now: Now,
) -> Result<Granted, TokenError> {
    let rules = snap.tokens.as_deref().ok_or_else(|| Why::NoService.error("no `tokenService`"))?;
    let entry = rules.entry(requester.id()).ok_or_else(|| {
        Why::RequesterUnlisted.error(format!("no entry of `requesters` lists {}", requester.id()))
    })?;
    if !worker.shared.token_rates.admit(requester.id(), entry.rate, now) {
        let detail = format!("more than {} requests a second", entry.rate);
        return Err(Why::RateLimited.error(detail));
    }
    let issuer = snap.issuer.as_ref().map_err(|why| Why::NoIssuer.error(why.clone()))?;
    let asked = Asked { worker, snap, rules, issuer, requester, entry, hops, certs, now };
    request.is_for(snap.trust_domain())?;
    if !entry.takes(request.subject_kind) {
        let detail = format!("its entry lists no `{}`", request.subject_kind.name());
        return Err(Why::SubjectNotPermitted.error(detail));
    }
    match request.requested {
        Requested::Context => context(asked, request).await,
        Requested::Deferred => deferred::grant(asked, request),
    }
}

/// A context token for the requester.
async fn context(asked: Asked<'_>, request: &Request) -> Result<Granted, TokenError> {
    let mut subject = subject::verify(asked, request).await?;
    if !asked.entry.origins.contains(&subject.context.rctx.origin) {
        let detail = format!("its entry lists no origin `{}`", subject.context.rctx.origin);
        return Err(Why::OriginNotPermitted.error(detail));
    }
    facts::add(asked, request, &mut subject).await?;
    subject.context.scope = granted(&request.scope, subject.grants.as_deref(), asked.entry)?;
    let scope = subject.context.scope.clone();
    let minted = asked
        .issuer
        .mint(asked.worker, subject.context, subject.txn, asked.now)
        .map_err(|error| of_mint(&error))?;
    let expires_in_s = asked.issuer.life_s(asked.now);
    Ok(Granted { issued: Issued::Context(Box::new(minted)), expires_in_s, scope })
}

/// What was asked for, as far as the subject and the entry grant it.
fn granted(
    asked: &[String],
    subject: Option<&[String]>,
    entry: &Entry,
) -> Result<Vec<String>, TokenError> {
    let permits =
        |name: &String| subject.is_none_or(|grants| grants.contains(name)) && entry.may_have(name);
    let scope: Vec<String> = asked.iter().filter(|name| permits(name)).cloned().collect();
    if scope.is_empty() {
        let detail = "the subject and the entry together grant nothing of it";
        return Err(Why::ScopeNotGranted.error(detail));
    }
    Ok(scope)
}

fn of_mint(error: &MintError) -> TokenError {
    let why = match error {
        MintError::ConstraintViolated(Constraint::Scope) => Why::ScopeNotGranted,
        MintError::ConstraintViolated(_) => Why::IssuerForbids,
        MintError::Context(_) | MintError::TooLarge { .. } => Why::ContextInvalid,
        MintError::ChainUnusable(_)
        | MintError::KeyNameInvalid
        | MintError::Sign(_)
        | MintError::SignerExpired
        | MintError::TtlInvalid { .. } => Why::NoIssuer,
    };
    why.error(error.to_string())
}
