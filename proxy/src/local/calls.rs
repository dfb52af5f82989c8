//! The four calls.
//!
//! Invariant: what is put aside is a context that this workload holds and may hand on, unless it was
//! revoked meanwhile; a grant is bound to its message and consumer by the token service, not here.

use std::rc::Rc;
use std::sync::Arc;

use countersign_config::limits;
use countersign_ctxtoken::{UnixTime, grant_scope, sign_statement};
use http::HeaderMap;
use serde_json::{Value, json};

use super::adopt::{Adopted, adopt};
use super::error::{LocalError, Why};
use super::form::Form;
use super::request::{self, Begin, Defer, Resume};
use super::service::{self, Issued};
use crate::clock::Now;
use crate::context_index::{Asked, Call, Held, Propagation};
use crate::inbound::again;
use crate::issuer::IdentityKey;
use crate::live::Snapshot;
use crate::outbound::hand_on::Carries;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::LocalCall;
use crate::upstream::mesh::MeshEnds;
use crate::worker::Worker;

const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
const SELF_SIGNED: &str = "urn:ietf:params:oauth:token-type:self_signed";
const DEFERRED: &str = "urn:countersign:token-type:deferred";

/// Does what the app asks.
///
/// # Errors
/// [`LocalError`].
pub(super) async fn carry_out(
    worker: &Rc<Worker>,
    call: LocalCall,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Value, LocalError> {
    let snap = worker.snapshot();
    match call {
        LocalCall::Defer => {
            let asked = request::defer(body)?;
            defer(worker, &snap, &live(worker, &snap, headers)?, asked).await
        }
        LocalCall::Resume => resume(worker, &snap, request::resume(body)?).await,
        LocalCall::Begin => begin(worker, &snap, request::begin(body)?).await,
        LocalCall::End => {
            if worker.shared.contexts.end(request::end(body)?) {
                return Ok(json!({}));
            }
            Err(Why::ContextUnknown.error("no context has this handle, or it has ended"))
        }
        LocalCall::Unknown => Err(Why::NoSuchCall.error("there is no call of this name")),
    }
}

/// The context that the handle of a request leads to, if it may be handed on.
fn live(worker: &Worker, snap: &Snapshot, headers: &HeaderMap) -> Result<Arc<Held>, LocalError> {
    let handle = request::handle(headers)?.text();
    let now = Now::read();
    let only = Propagation { handle: true, traceparent: false, token: false };
    let call = Call { handle: Asked::Once(&handle), token: Asked::Nothing, trace: None };
    let found = worker.shared.contexts.find(&call, only, now);
    let unknown = || Why::ContextUnknown.error("no context has this handle, or it has ended");
    let held = found.held().ok_or_else(unknown)?;
    if !held.may_pass_on {
        return Err(Why::ContextNotHeld.error("no record hands this context to this workload"));
    }
    let revoked = held.context.as_ref().and_then(|context| {
        let used = || again::KeyUsed::of(&held.token);
        again::revoked(context, used, &snap.revocations, now)
    });
    match revoked {
        Some(by) => Err(Why::ContextRevoked.error(format!("the context is revoked ({by})"))),
        None => Ok(Arc::clone(held)),
    }
}

/// Exchanges the live token for a grant.
async fn defer(
    worker: &Rc<Worker>,
    snap: &Arc<Snapshot>,
    held: &Arc<Held>,
    asked: Defer,
) -> Result<Value, LocalError> {
    let not_text = |_| Why::ContextUnknown.error("the context has no token");
    let token = held.token.to_str().map_err(not_text)?;
    let scope = match (&asked.scope, &held.context) {
        (Some(scope), _) => scope.join(" "),
        (None, Some(context)) => context.scope.join(" "),
        (None, None) => return Err(Why::Malformed.error("`scope` is missing")),
    };
    let ttl = asked.ttl_s.unwrap_or(limits::GRANT_TTL_S).to_string();
    let mut form = form(snap, DEFERRED, TXN_TOKEN, &scope);
    form.add("subject_token", token);
    form.add("csign_consumer", asked.consumer.as_str());
    form.add("csign_ttl", &ttl);
    form.add("csign_digest", &asked.digest);
    let carries = Carries::Held(Arc::clone(held));
    let issued = service::exchange(worker, snap, &carries, |_| Ok(form)).await?;
    if issued.issued_token_type != DEFERRED {
        return Err(Why::ServiceAnswer.error("it issued something else than a grant"));
    }
    let Issued { access_token, expires_in, scope: granted, .. } = issued;
    Ok(json!({
        "grant": access_token,
        "txn": held.txn(),
        "scope": granted.unwrap_or(scope),
        "expires_at": Now::read().secs().saturating_add(expires_in),
    }))
}

/// Redeems a grant.
async fn resume(
    worker: &Rc<Worker>,
    snap: &Arc<Snapshot>,
    asked: Resume,
) -> Result<Value, LocalError> {
    let scope = grant_scope(asked.grant.as_bytes());
    let scope = scope.ok_or_else(|| Why::Malformed.error("`grant` is no deferred grant"))?;
    let mut form = form(snap, TXN_TOKEN, DEFERRED, &scope);
    form.add("subject_token", &asked.grant);
    form.add("csign_digest", &asked.digest);
    let issued = service::exchange(worker, snap, &Carries::Nothing, |_| Ok(form)).await?;
    context(worker, snap, &issued)
}

/// Begins a transaction of the workload itself, or of somebody it may act for.
async fn begin(
    worker: &Rc<Worker>,
    snap: &Arc<Snapshot>,
    asked: Begin,
) -> Result<Value, LocalError> {
    let mut form = form(snap, TXN_TOKEN, SELF_SIGNED, &asked.scope.join(" "));
    if let Some(just) = &asked.just {
        let just = json!({"just": {"kind": just.kind, "ref": just.reference}});
        form.add("request_context", &just.to_string());
    }
    if let Some(whom) = &asked.on_behalf {
        form.add("csign_as", whom);
    }
    let sign = |ends: &MeshEnds| {
        form.add("subject_token", &statement(ends)?);
        Ok(form)
    };
    let issued = service::exchange(worker, snap, &Carries::Nothing, sign).await?;
    context(worker, snap, &issued)
}

/// Who we are, signed with the key of the connection that says the same.
fn statement(ends: &MeshEnds) -> Result<String, Refused> {
    let own = ends.own();
    let (service, now) = (ends.peer().id(), UnixTime(Now::read().secs()));
    let signed = sign_statement(&own.id, service, now, &IdentityKey(Arc::clone(own)));
    signed.map_err(|error| {
        Refused::new(Refusal::IdentityUnavailable, Stage::Forward, error.to_string())
    })
}

fn form(snap: &Snapshot, requested: &str, subject: &str, scope: &str) -> Form {
    let mut form = Form::exchange(snap.trust_domain().as_str());
    form.add("requested_token_type", requested);
    form.add("subject_token_type", subject);
    form.add("scope", scope);
    form
}

fn context(worker: &Worker, snap: &Snapshot, issued: &Issued) -> Result<Value, LocalError> {
    if issued.issued_token_type != TXN_TOKEN {
        return Err(Why::ServiceAnswer.error("it issued something else than a context token"));
    }
    let Adopted { handle, txn, until, scope } =
        adopt(worker, snap, &issued.access_token, Now::read())?;
    Ok(json!({
        "context": handle.text(), "txn": &*txn, "scope": scope.join(" "), "expires_at": until,
    }))
}
