//! What was brought, verified: on whose behalf the new token speaks.
//!
//! Invariant: a subject exists only for what was proven here: a provider's signature, a context
//! token that the requester holds, the key of the connection, or an entry that says the requester
//! is believed without proof. `rctx.to` and `req_wl` are the requester, whatever was brought.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::svid;
use countersign_ctxtoken::{
    Custody, NewContext, Origin, Rctx, RequestContext, StatementError, Subject, Tctx, UnixTime,
    Verified, VerifyError, VerifyingKey, check_statement,
};
use countersign_policy::doc::RctxKey;
use http::HeaderValue;

use super::{Asked, Request, SubjectKind, TokenError, Why, deferred};
use crate::gateway::identify::{EndUser, IdentifyError};
use crate::gateway::proofs::ProvenUser;
use crate::gateway::strict_json;
use crate::inbound::again;
use crate::inbound::context::SKEW_S;
use crate::inbound::custody::{self, Holder};

/// A proven subject, and the context that a token for it starts from.
pub(super) struct Proven {
    /// What the token will say; its scope is not decided yet.
    pub(super) context: NewContext,
    /// Its transaction; `None`: a new one.
    pub(super) txn: Option<String>,
    /// What the subject grants; `None`: whatever the entry of the requester lists.
    pub(super) grants: Option<Vec<String>>,
}

/// Verifies what was brought.
///
/// # Errors
/// [`TokenError`].
pub(super) async fn verify(asked: Asked<'_>, request: &Request) -> Result<Proven, TokenError> {
    let token = request.subject_token.expose();
    let proven = match request.subject_kind {
        SubjectKind::AccessToken | SubjectKind::IdToken | SubjectKind::Jwt => {
            user(asked, request.subject_kind, token)?
        }
        SubjectKind::TxnToken => replaced(asked, token)?,
        SubjectKind::SelfSigned => stated(asked, token)?,
        SubjectKind::UnsignedJson => named(asked, token)?,
        SubjectKind::Deferred => deferred::redeem(asked, request)?,
    };
    Ok(proven)
}

/// A context with nothing but who asks, and how it began.
pub(super) fn bare(asked: Asked<'_>, origin: Origin, sub: Subject) -> NewContext {
    let requester = asked.requester.id();
    NewContext {
        sub,
        scope: Vec::new(),
        req_wl: requester.clone(),
        rctx: Rctx::new(origin, requester.clone()),
        tctx: Tctx::default(),
        act: None,
    }
}

/// A token of an identity provider.
fn user(asked: Asked<'_>, kind: SubjectKind, token: &str) -> Result<Proven, TokenError> {
    let keys = asked.worker.shared.provider_keys.load();
    let only_id = kind == SubjectKind::IdToken;
    let user = asked
        .rules
        .users
        .verify_subject(token, only_id, &keys, asked.now)
        .map_err(|error| of_identify(&error))?;
    let user = ProvenUser::without_proof(Arc::new(user))
        .map_err(|error| Why::SubjectInvalid.error(error.to_string()))?;
    let user = user.user();
    if user.is_revoked(&asked.snap.revocations, asked.now) {
        return Err(Why::SubjectRevoked.error("a Revocation names this user"));
    }
    let Some(grants) = user.granted_scopes() else {
        let detail = "neither the credential nor the document of its provider grants a scope";
        return Err(Why::ScopeNotGranted.error(detail));
    };
    let grants = Some(grants.to_vec());
    let mut context = bare(asked, Origin::User, user.subject().clone());
    for key in &asked.entry.emit {
        emit(&mut context.rctx, *key, user);
    }
    Ok(Proven { context, txn: None, grants })
}

fn emit(rctx: &mut Rctx, key: RctxKey, user: &EndUser) {
    match key {
        RctxKey::Idp => rctx.idp = Some(user.provider().to_owned()),
        RctxKey::ClientId => rctx.client_id = user.client_id().map(str::to_owned),
        RctxKey::Acr => rctx.acr = user.acr().map(str::to_owned),
        RctxKey::AuthTime => rctx.auth_time = user.auth_time().map(UnixTime),
        RctxKey::Amr => {
            rctx.amr = Some(user.amr().to_vec()).filter(|methods| !methods.is_empty());
        }
        RctxKey::Acct => rctx.acct = user.account().map(str::to_owned),
        RctxKey::Groups => rctx.groups = Some(user.groups().to_vec()),
        RctxKey::Claims => {
            rctx.claims = Some(user.claims().clone()).filter(|claims| !claims.is_empty());
        }
        // Not facts of a credential; the documents do not let them be listed.
        _ => {}
    }
}

/// A context token that the requester holds: a new one of the same transaction.
fn replaced(asked: Asked<'_>, token: &str) -> Result<Proven, TokenError> {
    let (old, custody) = held(asked, token)?;
    let context = old.get();
    // Without the forgiveness of clocks: what has ended is not made young again.
    if context.exp <= UnixTime(asked.now.secs()) {
        return Err(Why::SubjectExpired.error("a token that has ended is not replaced"));
    }
    let mut chain = context.tctx.req_chain.clone().unwrap_or_default();
    if chain.len() >= asked.rules.replacements {
        let detail = format!("more than {} replacements", asked.rules.replacements);
        return Err(Why::ReplacedTooOften.error(detail));
    }
    chain.push(context.req_wl.clone());
    let requester = asked.requester.id();
    let rctx = Rctx { to: requester.clone(), ..context.rctx.clone() };
    let tctx = Tctx {
        parent: Some(URL_SAFE_NO_PAD.encode(old.token_sha256())),
        req_chain: Some(chain),
        ..context.tctx.clone()
    };
    // Holders before may have narrowed it; it never grows again.
    let grants = Some(custody.scope);
    let context = NewContext {
        sub: context.sub.clone(),
        scope: Vec::new(),
        req_wl: requester.clone(),
        rctx,
        tctx,
        act: context.act.clone(),
    };
    Ok(Proven { context, txn: Some(old.txn.clone()), grants })
}

/// The verified token, if the path it took ends at the requester.
pub(super) fn held(
    asked: Asked<'_>,
    token: &str,
) -> Result<(Arc<Verified<RequestContext>>, Custody), TokenError> {
    let snap = asked.snap;
    let chains = snap.chains();
    let with = snap.verifying(&chains, UnixTime(asked.now.secs()));
    let verified = {
        let mut tokens = asked.worker.tokens.borrow_mut();
        let (verified, _) = tokens
            .verify(token.as_bytes(), snap.generation, &with)
            .map_err(|error| of_verify(&error))?;
        verified
    };
    // An older generation than that of the handshake only has the certificate looked at again.
    let from = Holder { peer: asked.requester, believed_at: 0 };
    let path = custody::prove(
        asked.worker,
        (from, asked.issuer.id()),
        (&verified, (asked.hops, asked.certs)),
        (snap, asked.now),
    );
    let custody = path.map_err(|broken| of_verify(&broken.error))?.custody;
    let used = || again::KeyUsed::of(&HeaderValue::from_str(token).ok()?);
    if let Some(by) = again::revoked(&verified, used, &snap.revocations, asked.now) {
        return Err(Why::SubjectRevoked.error(format!("the token is revoked ({by})")));
    }
    Ok((verified, custody))
}

/// The requester on its own behalf, by a statement that it signed with the key of the connection.
fn stated(asked: Asked<'_>, token: &str) -> Result<Proven, TokenError> {
    let invalid = |detail: String| Why::SubjectInvalid.error(detail);
    let leaf = asked
        .requester
        .chain()
        .der()
        .first()
        .ok_or_else(|| invalid("no certificate".to_owned()))?;
    let spki = svid::spki(leaf).map_err(|error| invalid(error.to_string()))?;
    let key = VerifyingKey::from_spki_der(&spki).map_err(|error| invalid(error.to_string()))?;
    let requester = asked.requester.id();
    check_statement(
        token.as_bytes(),
        (requester, &key),
        asked.issuer.id(),
        UnixTime(asked.now.secs()),
        SKEW_S,
        &asked.snap.token_limits,
    )
    .map_err(|error: StatementError| invalid(error.to_string()))?;
    let own = [Origin::Batch, Origin::Service];
    let origin = asked.entry.origins.iter().find(|origin| own.contains(origin));
    let Some(origin) = origin else {
        let detail = "its entry lists neither `batch` nor `service`";
        return Err(Why::OriginNotPermitted.error(detail));
    };
    let context = bare(asked, *origin, Subject::Service(requester.clone()));
    Ok(Proven { context, txn: None, grants: None })
}

/// Whom the requester names, where its entry believes it.
fn named(asked: Asked<'_>, token: &str) -> Result<Proven, TokenError> {
    let invalid = |detail: &str| Why::SubjectInvalid.error(detail);
    let statement = strict_json::object(token.as_bytes())
        .map_err(|_| invalid("the statement is not one JSON object"))?;
    if statement.keys().any(|name| name != "sub") {
        return Err(invalid("the statement says more than `sub`"));
    }
    let sub = statement.get("sub").and_then(serde_json::Value::as_str);
    let sub = sub.and_then(Subject::parse).ok_or_else(|| invalid("`sub` is no subject"))?;
    if !asked.entry.may_name(&sub) {
        return Err(Why::AsNotPermitted.error("`subjects` of its entry does not list this one"));
    }
    let origin = match &sub {
        Subject::User(_) | Subject::Anonymous => Origin::User,
        Subject::Service(_) => Origin::Service,
        Subject::Foreign { .. } => return Err(invalid("a foreign subject comes by federation")),
    };
    let mut context = bare(asked, origin, sub);
    context.rctx.idp = super::facts::provider_of(asked, &context.sub);
    super::facts::counts(asked, &context.sub, context.rctx.idp.as_deref())?;
    Ok(Proven { context, txn: None, grants: None })
}

fn of_identify(error: &IdentifyError) -> TokenError {
    let why = match error.reason() {
        "user_token_expired" => Why::SubjectExpired,
        "user_keys_unavailable" => Why::KeysMissing,
        _ => Why::SubjectInvalid,
    };
    why.error(error.to_string())
}

fn of_verify(error: &VerifyError) -> TokenError {
    let why = match error.reason() {
        "token_expired" => Why::SubjectExpired,
        "keys_unavailable" => Why::KeysMissing,
        "custody_broken" | "hops_malformed" | "hops_too_large" | "hops_cert_unknown" => {
            Why::SubjectNotHeld
        }
        _ => Why::SubjectInvalid,
    };
    why.error(error.to_string())
}
