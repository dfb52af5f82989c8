//! What a forwarded request is judged by again, while it lasts: the facts it was decided on, and
//! what its token rests on.
//!
//! Invariant: only the time, the snapshot and what was revoked since are new. LIMIT: of the headers
//! only those are kept that a rule named when the request came; a newer rule about another one finds
//! it missing.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_certs_client::svid;
use countersign_ctxtoken::{KeyName, RequestContext, Unverified, VerifyingKey};
use countersign_policy::{HeaderLookup, RevocableLeaf, Revocations};
use http::{HeaderValue, Method, request};
use rustls::pki_types::CertificateDer;

use crate::clock::Now;
use crate::http::lasting::Lasting;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::context::Context;
use crate::inbound::decide::{self, Asked, Headers, Permit};
use crate::inbound::vouched;
use crate::judged::{of_decision, peer_counts};
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::{Against, EndReason, Judged, Standing, Verdict, Watch};

/// A request, as it was decided on.
struct Kept {
    conn: Rc<Connection>,
    method: Method,
    head: Head,
    headers: Vec<(String, Vec<u8>)>,
    ctx: Context,
}

/// What of a request's head is gone once it has been rewritten for the app.
pub struct Noted {
    method: Method,
    headers: Vec<(String, Vec<u8>)>,
}

/// Notes what rules look at, before the head is rewritten.
pub fn note(parts: &request::Parts, snap: &Snapshot) -> Noted {
    let headers = snap.policy.named_headers(&Headers(&parts.headers));
    Noted { method: parts.method.clone(), headers }
}

/// Registers a request that is about to be forwarded.
pub fn register(
    conn: &Rc<Connection>,
    head: Head,
    ctx: Context,
    noted: Noted,
    permit: &Permit,
    snap: &Snapshot,
    now: Now,
) -> Lasting {
    let Noted { method, headers } = noted;
    let grpc = head.grpc;
    let worker = conn.worker();
    let registered = worker.registry.register(Watch {
        generation: snap.generation,
        since: now,
        certificate_ends: None,
        allowance_s: 0,
        valid_until_ms: permit.decision().valid_until.and_then(|ms| u64::try_from(ms).ok()),
        judged: Kept { conn: Rc::clone(conn), method, head, headers, ctx },
    });
    let lasting = Lasting::new(Rc::new(registered), conn.registered(), grpc);
    if grpc {
        lasting.streams();
    }
    lasting
}

impl Judged for Kept {
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict> {
        let Kept { conn, method, head, headers, ctx } = self;
        peer_counts(conn.peer().mesh(), against)?;
        let revocations = &against.snap.revocations;
        if let Some(by) = revoked_token(head, ctx, revocations, against.now) {
            return Err(EndReason::Revoked(by).into());
        }
        vouched::token(conn, head, ctx, against)?;
        let via = decide::Vias::of(ctx);
        let headers: &dyn HeaderLookup = headers;
        let asked = Asked { method, head, headers };
        let input = decide::input(conn, asked, ctx, &via, against.now);
        of_decision(against.snap.policy.decide(&input))
    }

    fn is_exchange(&self) -> bool {
        true
    }
}

/// Refuses a request whose caller or token no longer counts, before any rule is asked.
///
/// # Errors
/// `policy_denied/revoked` for the caller, `token_revoked` for the token.
pub fn check_revoked(
    conn: &Connection,
    head: &Head,
    ctx: &Context,
    snap: &Snapshot,
    now: Now,
) -> Result<(), Refused> {
    let revocations = &snap.revocations;
    if let Some(by) = conn.peer().mesh().and_then(|peer| peer.revoked(snap, now)) {
        let detail = format!("the certificate of the caller is revoked ({by})");
        let refused = Refused::new(Refusal::PolicyDenied, Stage::Decide, detail);
        return Err(refused.with_sub("revoked"));
    }
    if let Some(by) = revoked_token(head, ctx, revocations, now) {
        let detail = format!("the token is revoked ({by})");
        return Err(Refused::new(Refusal::TokenRevoked, Stage::Context, detail).with_sub(by));
    }
    Ok(())
}

/// Which entry hits the token of a request.
fn revoked_token(
    head: &Head,
    ctx: &Context,
    revocations: &Revocations,
    now: Now,
) -> Option<&'static str> {
    let Context::Verified { token, path } = ctx else { return None };
    let used = || KeyUsed::of(head.presented.token().ok().flatten()?);
    let (Some(theirs), Some(ours)) = (&path.theirs, &path.minted) else {
        return revoked(token, used, revocations, now);
    };
    // What came is not what it was made into, and neither is revoked in the other's name.
    revoked_abroad(theirs, used, revocations, now)
        .or_else(|| revoked(token, || KeyUsed::of(ours), revocations, now))
}

/// Which entry hits a token of another trust domain. Users and devices of a name are not those of
/// ours: what is global counts.
fn revoked_abroad(
    token: &RequestContext,
    used: impl FnOnce() -> Option<KeyUsed>,
    revocations: &Revocations,
    now: Now,
) -> Option<&'static str> {
    let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    if revocations.transaction(&token.txn, now_ms) {
        return Some("transaction");
    }
    by_key(token, used, revocations, now)
}

/// The key a token was signed with.
pub struct KeyUsed {
    /// Its name.
    pub kid: String,
    /// The certificate that came along with it.
    pub leaf: Option<CertificateDer<'static>>,
}

impl KeyUsed {
    /// Of a verified token; `None` if it cannot be told.
    pub fn of(token: &HeaderValue) -> Option<KeyUsed> {
        let token = Unverified::parse(token.as_bytes(), &crate::live::token_limits()).ok()?;
        match token.key_name() {
            KeyName::Kid(kid) => Some(KeyUsed { kid: kid.clone(), leaf: None }),
            KeyName::X5c(chain) => {
                let leaf = CertificateDer::from(chain.first()?.clone());
                let kid = VerifyingKey::from_spki_der(&svid::spki(&leaf).ok()?).ok()?.kid();
                Some(KeyUsed { kid, leaf: Some(leaf) })
            }
        }
    }
}

/// Which entry hits a token; `used` tells the key it was signed with.
pub fn revoked(
    token: &RequestContext,
    used: impl FnOnce() -> Option<KeyUsed>,
    revocations: &Revocations,
    now: Now,
) -> Option<&'static str> {
    if revocations.is_empty() {
        return None;
    }
    let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    let issued_ms = i64::try_from(token.iat.0).unwrap_or(i64::MAX).saturating_mul(1_000);
    if token.sub.service().is_some_and(|id| revocations.identity(id, issued_ms, now_ms)) {
        return Some("service");
    }
    let rctx = &token.rctx;
    let user = token
        .sub
        .user()
        .is_some_and(|user| revocations.user(rctx.idp.as_deref(), user.id(), issued_ms, now_ms));
    if user {
        return Some("user");
    }
    if revocations.transaction(&token.txn, now_ms) {
        return Some("transaction");
    }
    if rctx.dev.as_ref().is_some_and(|device| revocations.device(&device.id, now_ms)) {
        return Some("device");
    }
    by_key(token, used, revocations, now)
}

/// Which entry hits the key of a token, or the certificate that vouches for that key.
fn by_key(
    token: &RequestContext,
    used: impl FnOnce() -> Option<KeyUsed>,
    revocations: &Revocations,
    now: Now,
) -> Option<&'static str> {
    let named = revocations.names_issuer(&token.iss);
    if !named && !revocations.may_hit_leaf_of(&token.iss) {
        return None;
    }
    let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    // A key that cannot be told may be the one that is meant.
    let Some(KeyUsed { kid, leaf }) = used() else { return Some("issuer_key") };
    if named && revocations.issuer_key(&token.iss, &kid, now_ms) {
        return Some("issuer_key");
    }
    let leaf = leaf?;
    let Ok(facts) = svid::facts(&leaf) else { return Some("issuer_key") };
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, &leaf).as_ref());
    let not_before_s = i64::try_from(facts.not_before).unwrap_or(i64::MAX);
    let leaf = RevocableLeaf {
        sha256: &sha256,
        id: &facts.id,
        not_before_ms: not_before_s.saturating_mul(1_000),
        pod_uid: facts.pod_uid.as_deref(),
    };
    revocations.leaf(&leaf, now_ms)
}
