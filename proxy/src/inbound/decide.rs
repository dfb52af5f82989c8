//! Policy. The only place that makes a [`Permit`], from an allow of the compiled policy.
//!
//! Invariant: no error on the way here permits; a `Permit` names the rule that allowed and cannot
//! be copied, so each forwarded request was decided on by itself.

use std::borrow::Cow;

use countersign_ctxtoken::RequestContext;
use countersign_policy::doc::shown::ClaimFilter;
use countersign_policy::doc::{AuditLevel, ContextNeed};
use countersign_policy::input::header_names_equal;
use countersign_policy::{
    Caller, ContextFacts, Decision, DenyReason, DeviceFacts, HeaderLookup, Input, InputOwned,
    JustificationFacts, Outcome, Protocol, Request, SourceFacts, UserFacts,
};
use http::{HeaderMap, Method, request};

use crate::clock::Now;
use crate::http::request::Head;
use crate::inbound::accept::Connection;
use crate::inbound::context::Context;
use crate::inbound::custody::Path;
use crate::journal::{Journal, OpaqueJournal};
use crate::judged;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::Against;
use crate::tls::peer::Peer;

/// The right to forward one request. Not `Clone`.
#[must_use]
pub struct Permit {
    decision: Decision,
}

impl Permit {
    /// The decision behind it.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Whether the app is to be told about the context.
    pub fn context_need(&self) -> ContextNeed {
        self.decision.context
    }

    /// What the app may read of the claims; `None`: everything.
    pub fn claims(&self) -> Option<&ClaimFilter> {
        self.decision.claims.as_deref()
    }

    /// How the request is recorded.
    pub fn audit(&self) -> AuditLevel {
        self.decision.audit
    }
}

/// Decides on one request.
///
/// # Errors
/// `policy_denied`, `parameter_mismatch`, `token_missing`, or `peer_unauthenticated` for plaintext that no rule admits.
pub fn authorize(
    conn: &Connection,
    head: &Head,
    parts: &request::Parts,
    ctx: &Context,
    snap: &Snapshot,
    now: Now,
    journal: &mut Journal,
) -> Result<Permit, Refused> {
    let headers = Headers(&parts.headers);
    let via = Vias::of(ctx);
    let asked = Asked { method: &parts.method, head, headers: &headers };
    let input = input(conn, asked, ctx, &via, now);
    let decision = snap.policy.decide(&input);
    journal.decided(&decision, &input);
    match decision.outcome {
        Outcome::Allow => Ok(Permit { decision }),
        Outcome::Deny(reason) => Err(refuse(reason, conn.peer(), &decision)),
    }
}

/// Decides on an opaque connection: the caller and the port are all there is. Comes back with what
/// was decided on, to be decided on again while the connection lives.
///
/// # Errors
/// `undetectable` where rules for the port look into requests, else as [`authorize`].
pub fn authorize_connection(
    conn: &Connection,
    snap: &Snapshot,
    now: Now,
    journal: &mut OpaqueJournal,
) -> Result<(Permit, InputOwned), Refused> {
    if snap.policy.has_l7_rules(conn.port()) {
        let detail = "rules for this port look into requests, and the connection shows none";
        return Err(Refused::new(Refusal::Undetectable, Stage::Decide, detail));
    }
    // The handshake may have begun under an older snapshot.
    let trust_shrank = conn.believed_at < snap.trust_shrank_at;
    let against = Against { snap, trust_shrank, now };
    if let Err(ended) = judged::peer_counts(conn.peer().mesh(), &against) {
        let by = ended.reason.detail().unwrap_or_default();
        let detail = format!("the certificate of the caller is revoked ({by})");
        let refused = Refused::new(Refusal::PolicyDenied, Stage::Decide, detail);
        return Err(refused.with_sub("revoked"));
    }
    let input = Input {
        now_ms: i64::try_from(now.millis()).unwrap_or(i64::MAX),
        port: conn.port(),
        caller: caller(conn),
        peer_ip: Some(conn.captured().client().0.ip().to_canonical()),
        request: None,
        context: None,
    };
    let decision = snap.policy.decide(&input);
    journal.decided(&snap.policy, &decision, &input);
    match decision.outcome {
        Outcome::Allow => Ok((Permit { decision }, snap.policy.keep(&input))),
        Outcome::Deny(reason) => Err(refuse(reason, conn.peer(), &decision)),
    }
}

fn caller(conn: &Connection) -> Caller<'_> {
    match conn.peer() {
        Peer::Mesh(peer) => Caller::Mesh(peer.id()),
        Peer::None(why) => Caller::Unauthenticated(why.reason()),
    }
}

fn refuse(reason: DenyReason, peer: &Peer, decision: &Decision) -> Refused {
    let closest = match &decision.rule {
        Some(rule) => format!("{} (rule {})", reason.as_str(), rule.id()),
        None => reason.as_str().to_owned(),
    };
    let refusal = match (reason, peer) {
        (_, Peer::None(_)) => Refusal::PeerUnauthenticated,
        (DenyReason::TokenMissing, Peer::Mesh(_)) => Refusal::TokenMissing,
        (DenyReason::ParameterMismatch, Peer::Mesh(_)) => Refusal::ParameterMismatch,
        (DenyReason::DenyRule | DenyReason::NoMatch | DenyReason::Unknown, Peer::Mesh(_)) => {
            Refusal::PolicyDenied
        }
    };
    let refused = Refused::new(refusal, Stage::Decide, closest);
    if refusal == Refusal::PolicyDenied { refused.with_sub(reason.as_str()) } else { refused }
}

/// What is asked, now or when it is judged again.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The cleaned head.
    pub head: &'a Head,
    /// Header fields, at least those that rules name.
    pub headers: &'a dyn HeaderLookup,
}

/// Maps what was proven into what policy reads.
pub(super) fn input<'a>(
    conn: &'a Connection,
    asked: Asked<'a>,
    ctx: &'a Context,
    via: &'a Vias,
    now: Now,
) -> Input<'a> {
    let Asked { method, head, headers } = asked;
    Input {
        now_ms: i64::try_from(now.millis()).unwrap_or(i64::MAX),
        port: conn.port(),
        caller: caller(conn),
        peer_ip: Some(conn.captured().client().0.ip().to_canonical()),
        request: Some(Request {
            method: method.as_str(),
            host: &head.host,
            path: &head.path,
            protocol: if head.grpc { Protocol::Grpc } else { Protocol::Http },
            headers,
        }),
        context: match ctx {
            Context::Verified { token, path } => Some(facts(token, path, via)),
            Context::Absent => None,
        },
    }
}

/// How the client's address and device became known, as policy reads it.
pub(super) struct Vias {
    address: Cow<'static, str>,
    device: String,
}

impl Vias {
    /// Of a request's context; empty texts where it does not say.
    pub(super) fn of(ctx: &Context) -> Vias {
        let rctx = ctx.verified().map(|ctx| &ctx.rctx);
        let address = rctx.and_then(|rctx| rctx.ip_src).map(|src| src.text());
        let device = rctx.and_then(|rctx| rctx.dev.as_ref()).map(|device| device.src.to_string());
        Vias { address: address.unwrap_or_default(), device: device.unwrap_or_default() }
    }
}

/// Policy's view of a verified context.
fn facts<'a>(ctx: &'a RequestContext, path: &'a Path, via: &'a Vias) -> ContextFacts<'a> {
    let rctx = &ctx.rctx;
    ContextFacts {
        txn: &ctx.txn,
        scope: &path.custody.scope,
        origin: rctx.origin.as_str(),
        issued_at: ctx.iat.0,
        expires_at: ctx.exp.0,
        entry: &ctx.req_wl,
        user: ctx.sub.user().map(|user| UserFacts {
            id: user.id(),
            provider: rctx.idp.as_deref(),
            account: rctx.acct.as_deref(),
            groups: rctx.groups.as_deref(),
            auth_time: rctx.auth_time.map(|at| at.0),
            amr: rctx.amr.as_deref().unwrap_or_default(),
            acr: rctx.acr.as_deref(),
            claims: rctx.claims.as_ref(),
        }),
        service: ctx.sub.service(),
        source: rctx.req_ip.map(|ip| SourceFacts { ip, via: &via.address }),
        device: rctx.dev.as_ref().map(|device| DeviceFacts {
            id: Some(&device.id),
            tier: device.tier.as_deref(),
            managed: device.managed,
            src: Some(&via.device),
            at: device.at.map(|at| at.0),
        }),
        justification: rctx.just.as_ref().map(|just| JustificationFacts {
            kind: &just.kind,
            reference: &just.reference,
            checked: just.checked,
            at: just.at.map(|at| at.0),
            facts: just.facts.as_ref(),
        }),
        acting: ctx.act.is_some(),
        custody: path.custody.proven,
        hops: &path.custody.holders,
        params: ctx.tctx.params.as_ref(),
    }
}

/// Header fields as policy looks them up: `_` reads as `-`, so that no spelling escapes a rule.
pub(super) struct Headers<'a>(pub &'a HeaderMap);

impl HeaderLookup for Headers<'_> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (own, value) in self.0 {
            if header_names_equal(own.as_str(), name) {
                visit(value.as_bytes());
            }
        }
    }
}
