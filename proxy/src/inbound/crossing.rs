//! Context of another trust domain, taken at a listener that names it: verified with *that* domain's
//! issuers, custody included, and minted anew for us.
//!
//! Invariant: nothing of a foreign token is used but what the mesh's entry for its domain maps: its
//! subject becomes `foreign:<domain>|<sub>`, its scopes become those that are written down, everything
//! else stays behind. Who is not an issuer of `foreign` subjects in our own mesh takes no context;
//! where nothing is configured, a foreign token is refused like any token for somebody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_ctxtoken::{
    ClaimProblem, Constraint, Custody, IssuerSet, NewContext, Origin, Rctx, RequestContext,
    Subject, Tctx, UnixTime, Verified, VerifyError, VerifyWith,
};
use countersign_policy::Documents;
use countersign_workload_id::{TrustDomain, WorkloadId};

use crate::clock::Now;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::context::SKEW_S;
use crate::inbound::custody::{self, Broken, Holder, Path};
use crate::issuers::follow::Fetched;
use crate::live::Snapshot;
use crate::tls::peer::MeshPeer;

/// Whose foreign context is taken, by trust domain.
#[derive(Debug, Default)]
pub struct Crossings(BTreeMap<TrustDomain, Crossing>);

/// What is taken of one trust domain.
#[derive(Debug)]
struct Crossing {
    issuers: IssuerSet,
    scopes: BTreeMap<String, Vec<String>>,
}

impl Crossings {
    /// As the documents say.
    ///
    /// # Errors
    /// A sentence naming the entry that cannot be used.
    pub fn build(documents: &Documents) -> Result<Crossings, String> {
        let mut all = BTreeMap::new();
        for entry in documents.mesh.federation.iter().filter(|e| !e.context.issuers.is_empty()) {
            let issuers = crate::trust::issuer_set(&entry.context.issuers, &Fetched::default())?;
            let crossing = Crossing { issuers, scopes: entry.context.scopes.clone() };
            all.insert(entry.trust_domain.clone(), crossing);
        }
        Ok(Crossings(all))
    }

    /// Whether context of a peer's domain is taken here at all.
    pub fn takes(&self, peer: &MeshPeer) -> bool {
        self.0.contains_key(peer.id().trust_domain())
    }

    fn of(&self, peer: &MeshPeer) -> Result<(&TrustDomain, &Crossing), VerifyError> {
        self.0.get_key_value(peer.id().trust_domain()).ok_or(VerifyError::AudienceWrong)
    }
}

/// Verifies a foreign token by the rules of its domain; `now` may lie before its end for a token that
/// was taken while it lived.
fn verify(
    conn: &Connection,
    peer: &MeshPeer,
    token: &[u8],
    (snap, now): (&Snapshot, UnixTime),
) -> Result<Arc<Verified<RequestContext>>, VerifyError> {
    let (domain, crossing) = snap.crossings.of(peer)?;
    let with = VerifyWith {
        issuers: &crossing.issuers,
        chains: &snap.chains(),
        trust_domain: domain,
        now,
        skew_s: SKEW_S,
        limits: &snap.token_limits,
    };
    let mut tokens = conn.worker().foreign_tokens.borrow_mut();
    tokens.verify(token, snap.generation, &with).map(|(verified, _)| verified)
}

/// Takes the context of a federated peer and mints ours for it.
///
/// # Errors
/// [`Broken`]: what the token of its own domain would be refused for there; `constraint_violated`
/// where nothing of its scope means anything here, or we may not issue it; `keys_unavailable` where
/// this process is no issuer.
pub(super) fn take(
    conn: &Connection,
    peer: &MeshPeer,
    (token, head): (&[u8], &Head),
    (snap, now): (&Snapshot, Now),
) -> Result<(Arc<Verified<RequestContext>>, Path), Broken> {
    let theirs = verify(conn, peer, token, (snap, UnixTime(now.secs())))?;
    let me = conn.own_id.as_ref().ok_or(VerifyError::KeysUnavailable)?;
    let from = Holder { peer, believed_at: conn.believed_at };
    let shown = (&head.presented.hops, &head.presented.certs);
    let path = custody::prove(conn.worker(), (from, me), (&theirs, shown), (snap, now))?;
    let (_, crossing) = snap.crossings.of(peer)?;
    let context = ours(&theirs, &path.custody, crossing, me)?;
    let issuer = snap.issuer.as_ref().map_err(|_| VerifyError::KeysUnavailable)?;
    let minted = issuer.mint(conn.worker(), context, None, now).map_err(|error| {
        tracing::info!(%error, "foreign context was not minted anew");
        VerifyError::ConstraintViolated(Constraint::Subject)
    })?;
    let text = minted.header().map_err(|_| VerifyError::KeysUnavailable)?;
    let chains = snap.chains();
    let with = snap.verifying(&chains, UnixTime(now.secs()));
    // By the same rules as everybody after us: there is no other way to a verified context.
    let verified = Arc::new(countersign_ctxtoken::verify(text.as_bytes(), &with)?);
    let custody = Custody {
        proven: true,
        holders: path.custody.holders.clone(),
        scope: verified.scope.clone(),
        may_pass_on: true,
    };
    let signers = Arc::clone(&path.signers);
    let path = Path { custody, hops: None, signers, minted: Some(text), theirs: Some(theirs) };
    Ok((verified, path))
}

/// What our token says of theirs.
fn ours(
    theirs: &RequestContext,
    custody: &Custody,
    crossing: &Crossing,
    me: &WorkloadId,
) -> Result<NewContext, VerifyError> {
    if theirs.rctx.origin == Origin::Foreign {
        // Somebody else's context is vouched for by its own domain only.
        return Err(VerifyError::ConstraintViolated(Constraint::Origin(Origin::Foreign)));
    }
    let mut scope: Vec<String> = Vec::new();
    for name in custody.scope.iter().filter_map(|name| crossing.scopes.get(name)).flatten() {
        if !scope.contains(name) {
            scope.push(name.clone());
        }
    }
    if scope.is_empty() {
        return Err(VerifyError::ConstraintViolated(Constraint::Scope));
    }
    let subject = theirs.sub.to_string();
    if subject.contains('|') {
        let problem = ClaimProblem::BadValue;
        return Err(VerifyError::ClaimInvalid { claim: "sub", problem });
    }
    let mut rctx = Rctx::new(Origin::Foreign, me.clone());
    rctx.src_td = Some(theirs.aud.clone());
    rctx.src_txn = Some(theirs.txn.clone());
    Ok(NewContext {
        sub: Subject::Foreign { trust_domain: theirs.aud.clone(), subject },
        scope,
        req_wl: me.clone(),
        rctx,
        tctx: Tctx::default(),
        act: None,
    })
}

/// Whether what was taken would be taken again, while an exchange with it lasts. That the token ended
/// is not looked at.
///
/// # Errors
/// What changed.
pub(super) fn again(
    conn: &Connection,
    peer: &MeshPeer,
    token: &[u8],
    (snap, until): (&Snapshot, UnixTime),
) -> Result<(), VerifyError> {
    verify(conn, peer, token, (snap, until))?;
    snap.issuer.as_ref().map(|_| ()).map_err(|_| VerifyError::KeysUnavailable)
}
