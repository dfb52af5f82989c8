//! Gives the app its verified headers. Runs once per request, after `decide`.
//!
//! Invariant: every `Countersign-*` header the sender wrote is gone before ours are set (hygiene
//! took them out), so what the app reads was written here. An absent header is a fact that was
//! not established, never an empty value.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_config::limits;
use countersign_ctxtoken::{RequestContext, UserName, Verified, shown};
use countersign_policy::doc::ContextNeed;
use countersign_policy::doc::shown::ClaimFilter;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request};

use crate::context_index::{Handle, Held, OpenContext, TraceId};
use crate::http::body::Guards;
use crate::http::hygiene;
use crate::http::request::Head;
use crate::http::translate::{self, Restored};
use crate::inbound::accept::Connection;
use crate::inbound::caller_cert;
use crate::inbound::context::Context;
use crate::inbound::custody::Path;
use crate::inbound::decide::Permit;
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::peer::Peer;

const USER: HeaderName = HeaderName::from_static("countersign-user");
const TXN: HeaderName = HeaderName::from_static("countersign-txn");
const SCOPE: HeaderName = HeaderName::from_static("countersign-scope");
const ORIGIN: HeaderName = HeaderName::from_static("countersign-origin");
const CALLER: HeaderName = HeaderName::from_static("countersign-caller");
const CONTEXT: HeaderName = HeaderName::from_static("countersign-context");
const DECISION: HeaderName = HeaderName::from_static("countersign-decision");
const SUBJECT: HeaderName = HeaderName::from_static("countersign-sub");
const ENTRY: HeaderName = HeaderName::from_static("countersign-entry");
const SOURCE_IP: HeaderName = HeaderName::from_static("countersign-source-ip");
const GROUPS: HeaderName = HeaderName::from_static("countersign-groups");
const DEVICE: HeaderName = HeaderName::from_static("countersign-device");
const JUSTIFICATION: HeaderName = HeaderName::from_static("countersign-justification");
const AUTH_TIME: HeaderName = HeaderName::from_static("countersign-auth-time");
const CLAIMS: HeaderName = HeaderName::from_static("countersign-claims");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A head that is safe to show to the app. Made only here.
pub struct Enriched {
    parts: request::Parts,
    speaks: Restored,
    guards: Guards,
}

impl Enriched {
    /// Takes the head apart for sending.
    pub fn into_request<B>(self, body: B) -> (Request<B>, Restored, Guards) {
        (Request::from_parts(self.parts, body), self.speaks, self.guards)
    }
}

/// Rewrites the head for the app: canonical target, restored protocol, our headers.
///
/// # Errors
/// `context_too_large` when the headers would exceed their limit; nothing is ever truncated.
pub fn apply(
    conn: &Connection,
    mut parts: request::Parts,
    head: &Head,
    permit: &Permit,
    ctx: &Context,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Enriched, Refused> {
    set_target(&mut parts, head)?;
    let speaks = restore(&mut parts, head)?;
    // Hygiene left none of these names in the head, so each is written here once.
    let mut ours = Ours { headers: &mut parts.headers, bytes: 0 };
    if let Some(caller) = conn.caller() {
        ours.insert(CALLER, caller.clone());
    }
    if let Ok(id) = HeaderValue::from_str(journal.id_text()) {
        ours.insert(DECISION, id);
    }
    let mut guards = Guards::default();
    let shown = match ctx {
        Context::Verified { token, path } if permit.context_need() != ContextNeed::None => {
            Some((token, path))
        }
        Context::Verified { .. } | Context::Absent => None,
    };
    if let Some((token, path)) = shown {
        let opted_in = &snap.documents.mesh.headers;
        describe(&mut ours, token, path, opted_in);
        if opted_in.iter().any(|name| name == "claims") {
            ours.insert(CLAIMS, claims(token, &path.custody.scope, permit.claims()));
        }
    }
    let held = shown.and_then(|(token, path)| held(head, token, path));
    guards.context = open_context(conn, &mut ours, held);
    let bytes = ours.bytes;
    if bytes > limits::VERIFIED_HEADERS_BYTES_MAX {
        let detail = format!("{bytes} bytes of verified headers");
        return Err(Refused::new(Refusal::ContextTooLarge, Stage::Enrich, detail));
    }
    if let (Peer::Mesh(peer), which @ [_, ..]) =
        (conn.peer(), conn.worker().shared.config.caller_certificate.as_slice())
    {
        let me = snap.identity().map(|me| &me.id);
        caller_cert::describe(&mut parts.headers, which, peer, me)?;
    }
    Ok(Enriched { parts, speaks, guards })
}

/// The headers of ours in the head, whose size is bounded.
struct Ours<'a> {
    headers: &'a mut HeaderMap,
    bytes: usize,
}

impl Ours<'_> {
    fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.bytes += name.as_str().len() + value.len() + 4;
        self.headers.insert(name, value);
    }
}

/// What is forwarded is what was decided on, byte for byte.
pub(crate) fn set_target(parts: &mut request::Parts, head: &Head) -> Result<(), Refused> {
    let malformed = |error: &dyn std::fmt::Display| {
        Refused::new(Refusal::RequestMalformed, Stage::Enrich, error.to_string())
    };
    // The authority is all the target CONNECT has; the head check and hygiene have read it.
    if parts.method == Method::CONNECT {
        return Ok(());
    }
    let target = head.path.target();
    if parts.uri.path_and_query().is_some_and(|written| written.as_str() == target) {
        return Ok(());
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query =
        Some(target.parse().map_err(|error: http::uri::InvalidUri| malformed(&error))?);
    parts.uri = Uri::from_parts(uri).map_err(|error| malformed(&error))?;
    Ok(())
}

fn restore(parts: &mut request::Parts, head: &Head) -> Result<Restored, Refused> {
    // Only a mesh peer's proxy can say that its client spoke HTTP/1; hygiene dropped the mark of
    // anybody else.
    if parts.version == Version::HTTP_2 {
        return translate::from_h2(parts, &head.authority, &head.presented.http1).map_err(
            |error| Refused::new(Refusal::RequestMalformed, Stage::Enrich, error.to_string()),
        );
    }
    translate::announce_te(&mut parts.headers);
    translate::take_expect_continue(&mut parts.headers);
    Ok(Restored::Http1)
}

/// The facts of the context, as headers.
fn describe(ours: &mut Ours<'_>, ctx: &RequestContext, path: &Path, opted_in: &[String]) {
    if let Some(user) = ctx.sub.user().map(UserName::as_str) {
        ours.insert(USER, hygiene::encode_value(user));
    }
    ours.insert(TXN, hygiene::encode_value(&ctx.txn));
    ours.insert(SCOPE, hygiene::encode_scope(path.custody.scope.iter().map(String::as_str)));
    ours.insert(ORIGIN, hygiene::encode_value(ctx.rctx.origin.as_str()));
    for name in opted_in {
        describe_opted_in(ours, ctx, name);
    }
}

fn describe_opted_in(ours: &mut Ours<'_>, ctx: &RequestContext, name: &str) {
    let rctx = &ctx.rctx;
    let (header, value) = match name {
        "sub" => (SUBJECT, Some(hygiene::encode_value(&ctx.sub.to_string()))),
        "entry" => (ENTRY, Some(hygiene::encode_value(ctx.req_wl.as_str()))),
        "source-ip" => (SOURCE_IP, rctx.req_ip.map(|ip| hygiene::encode_value(&ip.to_string()))),
        "groups" => {
            let groups = rctx.groups.as_ref();
            let list = groups.map(|groups| hygiene::encode_list(groups.iter().map(String::as_str)));
            (GROUPS, list)
        }
        "device" => {
            let id = rctx.dev.as_ref().map(|device| hygiene::encode_value(&device.id));
            (DEVICE, id)
        }
        "justification" => {
            let checked = rctx.just.as_ref().filter(|just| just.checked);
            let text = checked.map(|just| format!("{}:{}", just.kind, just.reference));
            (JUSTIFICATION, text.map(|text| hygiene::encode_value(&text)))
        }
        "auth-time" => (AUTH_TIME, rctx.auth_time.map(|at| HeaderValue::from(at.0))),
        _ => return,
    };
    if let Some(value) = value {
        ours.insert(header, value);
    }
}

/// All that the deciding rule shows of the context, as base64url JSON.
fn claims(ctx: &RequestContext, scope: &[String], filter: Option<&ClaimFilter>) -> HeaderValue {
    let keep = |name: &str| {
        let Some(filter) = filter else { return true };
        match name.split_once('.') {
            Some(("rctx", name)) => filter.shows_rctx(name),
            Some(("tctx", name)) => filter.shows_tctx(name),
            _ => false,
        }
    };
    hygiene::encode_value(&URL_SAFE_NO_PAD.encode(shown(ctx, scope, &keep)))
}

/// What an onward call of the app will carry.
fn held(head: &Head, ctx: &Arc<Verified<RequestContext>>, path: &Path) -> Option<Arc<Held>> {
    let token = path.minted.as_ref().or(head.presented.token().ok().flatten())?;
    Some(Arc::new(Held {
        token: sensitive(token),
        exp: ctx.exp.0,
        may_pass_on: path.custody.may_pass_on,
        hops: path.hops.clone(),
        scope: (path.custody.scope != ctx.scope).then(|| path.custody.scope.as_slice().into()),
        signers: Arc::clone(&path.signers),
        context: Some(Arc::clone(ctx)),
    }))
}

/// Remembers the request for the app's onward calls, by handle and by trace id. A request without
/// context is remembered too: under its trace id nobody else's context may be found.
fn open_context(
    conn: &Connection,
    ours: &mut Ours<'_>,
    held: Option<Arc<Held>>,
) -> Option<OpenContext> {
    let worker = conn.worker();
    let propagation = worker.shared.propagation;
    if !propagation.traceparent && (held.is_none() || !(propagation.handle || propagation.token)) {
        return None;
    }
    let handle = Handle::new(worker.random());
    let trace = if propagation.traceparent { trace_id(conn, ours.headers) } else { None };
    let token = held.as_ref().map(|held| held.token.clone());
    let contexts = &worker.shared.contexts;
    let Some(open) = contexts.open(handle, trace, held, propagation.token) else {
        worker.metrics.limit_hit("CONTEXT_INDEX_ENTRIES_MAX");
        restart_trace(conn, ours.headers);
        return None;
    };
    let Some(token) = token else { return Some(open) };
    if open.by_token() {
        // Beside the verified headers, whose bound is not for a token.
        ours.headers.insert(hygiene::TXN_TOKEN, token);
    } else if propagation.token {
        worker.metrics.limit_hit("CONTEXT_INDEX_TOKEN_MAX");
    }
    if propagation.handle
        && let Ok(value) = HeaderValue::from_str(&handle.text())
    {
        ours.insert(CONTEXT, value);
    }
    Some(open)
}

/// The token as it came, never to be indexed by HPACK nor shown by `Debug`.
fn sensitive(token: &HeaderValue) -> HeaderValue {
    let mut token = token.clone();
    token.set_sensitive(true);
    token
}

/// The request's trace id; a request without one gets one, so that an app which propagates trace
/// context carries ours.
fn trace_id(conn: &Connection, headers: &mut HeaderMap) -> Option<TraceId> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) => only.to_str().ok().and_then(TraceId::parse),
        _ => None,
    }
    .or_else(|| restart_trace(conn, headers))
}

/// A fresh trace id in place of the sender's.
fn restart_trace(conn: &Connection, headers: &mut HeaderMap) -> Option<TraceId> {
    let trace = TraceId::new(conn.worker().random());
    let text = trace.traceparent(conn.worker().random());
    headers.insert(TRACEPARENT, HeaderValue::from_str(&text).ok()?);
    Some(trace)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_ctxtoken::shown_names;
    use countersign_policy::doc::shown::{ShownRctx, ShownTctx};

    #[test]
    fn rules_name_exactly_the_claims_that_can_be_left_out() {
        let rctx = ShownRctx::ALL.iter().map(|(name, _)| format!("rctx.{name}"));
        let tctx = ShownTctx::ALL.iter().map(|(name, _)| format!("tctx.{name}"));
        let named: BTreeSet<_> = rctx.chain(tctx).collect();
        assert_eq!(named, shown_names().map(str::to_owned).collect());
    }
}
