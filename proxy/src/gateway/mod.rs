//! The direction from the outside into the mesh.
//!
//! The stages, in order: `accept` (PROXY protocol, TLS), `capture` (client address, justification),
//! `identify` (the end user), the callee is chosen and its connection made by the outbound stages,
//! `mint` (the context token, for exactly that callee). [`serve`] is the whole order.

pub mod accept;
pub mod attributes;
pub mod callers;
pub mod capture;
mod cluster;
pub mod device;
pub mod facts;
pub mod identify;
mod identify_error;
pub(crate) mod key_schedule;
pub mod mint;
pub mod proofs;
pub mod provider_fetch;
pub mod provider_keys;
pub mod proxy_protocol;
pub mod rules;
pub mod sources;
pub(crate) mod strict_json;
mod user_binding;
pub mod user_cache;
mod user_claims;
pub mod user_keys;
mod user_token;
pub mod vouched;

#[cfg(test)]
mod tests;

use countersign_config::CorsPreflight;
use countersign_policy::doc::{ContextPolicy, WhenMissing};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;

use crate::clock::Now;
use crate::context_index::{TRACEPARENT, TraceId};
use crate::gateway::accept::Connection;
use crate::gateway::callers::CallerError;
use crate::gateway::capture::{CaptureError, KindMatch};
use crate::gateway::facts::Brought;
use crate::gateway::identify::IdentifyError;
use crate::gateway::mint::{Asked, Findings, Who};
use crate::gateway::proofs::target::{Schemes, Target};
use crate::gateway::proofs::{ProofError, ProvenUser, Shown, challenge};
use crate::gateway::rules::{GatewayRules, Route};
use crate::gateway::user_cache::Identified;
use crate::http::body::ProxyBody;
use crate::http::hygiene;
use crate::http::request::Head;
use crate::http::upgrade::{self, Switch};
use crate::journal::Journal;
use crate::live::Snapshot;
use crate::outbound::encrypt;
use crate::outbound::forward::{self, Outgoing};
use crate::outbound::hand_on::Carries;
use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::clients::ClientCertificate;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// One request from outside, from the head to the response head.
async fn serve(
    conn: &Connection,
    request: Request<Incoming>,
    snap: &Snapshot,
    journal: &mut Journal,
) -> Result<Response<ProxyBody>, Refused> {
    let now = journal.started;
    let slot = conn.worker().admit()?;
    let (mut parts, body) = request.into_parts();
    let Some(rules) = &snap.gateway else {
        return Err(Refused::new(Refusal::RouteUnknown, Stage::Accept, "no gateway rules"));
    };
    let client =
        capture::client_address(conn.peer(), conn.proxied(), &parts.headers, &rules.address);
    let head = Head::gateway(&mut parts, snap, journal)?;
    if conn.redirects() {
        return redirect(&head);
    }
    let client = client.map_err(|error| of_capture(&error))?;
    let slot = conn.placed(slot, &client)?;
    check_length(conn, &parts)?;
    restart_trace(conn, &mut parts.headers);
    hygiene::set_forwarded(&mut parts.headers, conn.forwarded_for(client.ip), conn.scheme());
    journal.client(&client);
    let route = route(rules, &head)?;
    let justification = stated(&rules.policy, &head)?;
    let preflight = is_preflight(route, &parts);
    let who = if preflight {
        None
    } else {
        let sent = Sent { parts: &parts, head: &head, snap };
        identify(conn, rules, sent, journal).await?
    };
    let nonce = fresh_nonce(conn, who.as_ref(), now);
    check_revoked(who.as_ref(), snap, now)?;
    let taken = vouched::take(&rules.policy, &mut parts.headers);
    rules.users.remove_credentials(&mut parts.headers);
    parts.headers.remove(AUTHORIZATION);
    let rule = if preflight { None } else { Some(mint::rule(rules, &parts.method, &head)?) };
    let brought = Brought { taken, who: who.as_ref(), stated: justification.as_ref() };
    let facts = facts::establish(conn, (rules, rule), brought, snap, now).await?;
    let switches = route.destination.switches();
    let switch = Switch::take(&mut parts, &head.hop, &body, switches)?;
    let version = upgrade::transport_version(parts.version, switch.as_ref());
    let secured =
        encrypt::lease(conn.worker(), &route.destination, None, version, snap, journal).await?;
    let findings = Findings { client, who, facts };
    let carries = match rule {
        None => Carries::Nothing,
        Some(rule) => {
            journal.before_forward().await?;
            let (method, to) = (&parts.method, secured.callee()?);
            let asked = Asked { rule, method, head: &head, findings: &findings, to };
            let minted = mint::token(conn, snap, asked, now);
            conn.worker().metrics.context_minted(
                minted.as_ref().map_or_else(|refused| refused.refusal.row().reason, |_| "ok"),
            );
            let minted = minted?;
            journal.minted(&minted);
            Carries::Minted(minted.header()?)
        }
    };
    crate::inbound::enrich::set_target(&mut parts, &head)?;
    let (authority, dialled) = (head.authority, None);
    let outgoing = Outgoing { parts, body, authority, carries, slot, switch, dialled };
    let mut response =
        forward::to_callee(conn.worker(), secured, &route.destination, outgoing, journal).await?;
    if let Some(nonce) = nonce {
        response.headers_mut().insert(challenge::NONCE, nonce);
    }
    Ok(response)
}

fn route<'r>(rules: &'r GatewayRules, head: &Head) -> Result<&'r Route, Refused> {
    rules.route(&head.host, head.path.path()).ok_or_else(|| {
        let detail = format!("no route for {}{}", head.host, head.path.path());
        Refused::new(Refusal::RouteUnknown, Stage::Accept, detail)
    })
}

/// A CORS preflight (Fetch §3.2.2) carries no credentials; it passes only where the route says so.
fn is_preflight(route: &Route, parts: &request::Parts) -> bool {
    route.cors_preflight == CorsPreflight::Pass
        && parts.method == Method::OPTIONS
        && parts.headers.contains_key("origin")
        && parts.headers.contains_key("access-control-request-method")
}

/// A request as far as it says who makes it.
#[derive(Clone, Copy)]
struct Sent<'a> {
    parts: &'a request::Parts,
    head: &'a Head,
    snap: &'a Snapshot,
}

/// Who the request is made for: a workload with a token of its own, or the end user.
async fn identify(
    conn: &Connection,
    rules: &GatewayRules,
    sent: Sent<'_>,
    journal: &mut Journal,
) -> Result<Option<Who>, Refused> {
    let headers = &sent.parts.headers;
    if let Some(caller) = callers::identify(conn, rules, headers, journal.started).await? {
        journal.caller(&caller);
        return Ok(Some(Who::Service(caller)));
    }
    Ok(user(conn, rules, sent, journal)?.map(Who::User))
}

/// What the client is told where the nonce of its DPoP proof will soon be too old.
fn fresh_nonce(conn: &Connection, who: Option<&Who>, now: Now) -> Option<HeaderValue> {
    let Some(Who::User(user)) = who else { return None };
    user.nonce_ages().then(|| conn.worker().shared.proofs.nonce(now)).flatten()
}

/// A revocation counts before any rule is asked.
fn check_revoked(who: Option<&Who>, snap: &Snapshot, now: Now) -> Result<(), Refused> {
    match who {
        Some(Who::User(user)) if user.user().is_revoked(&snap.revocations, now) => {
            let provider = user.user().provider();
            let detail = format!("a Revocation names this user of {provider}");
            Err(Refused::new(Refusal::UserTokenRevoked, Stage::Identify, detail))
        }
        Some(Who::Service(caller)) => match caller.revoked(&snap.revocations, now) {
            Some(by) => Err(CallerError::Revoked(by).refused()),
            None => Ok(()),
        },
        Some(Who::User(_)) | None => Ok(()),
    }
}

fn user(
    conn: &Connection,
    rules: &GatewayRules,
    sent: Sent<'_>,
    journal: &mut Journal,
) -> Result<Option<ProvenUser>, Refused> {
    let now = journal.started;
    let keys = conn.worker().shared.provider_keys.load();
    let identified =
        conn.worker().users.borrow_mut().identify(&rules.users, &sent.parts.headers, &keys, now);
    let refused = |error| challenge::of_token(of_identify(&error), &error, &rules.users);
    match (identified.map_err(refused)?, rules.policy.when_missing) {
        (Some(identified), _) => prove(conn, rules, sent, identified, now).map(Some),
        (None, WhenMissing::Refuse) => Err(refused(IdentifyError::Missing)),
        (None, WhenMissing::Anonymous) => Ok(None),
    }
}

/// Whether the request shows what the user's token is bound to.
fn prove(
    conn: &Connection,
    rules: &GatewayRules,
    sent: Sent<'_>,
    identified: Identified,
    now: Now,
) -> Result<ProvenUser, Refused> {
    let proxy_before_us = conn.proxied().is_some() || rules.address.trusts(conn.peer());
    let target = Target {
        method: sent.parts.method.as_str(),
        schemes: match (conn.scheme(), proxy_before_us) {
            ("https", _) => Schemes::Https,
            (_, false) => Schemes::Http,
            (_, true) => Schemes::Either,
        },
        authority: &sent.head.authority,
        host: &sent.head.host,
        path: sent.head.path.path(),
        options: sent.snap.documents.mesh.paths,
    };
    let certificate_sha256 = conn.client_certificate().map(ClientCertificate::sha256);
    let shown = Shown { headers: &sent.parts.headers, target, certificate_sha256 };
    let proofs = &conn.worker().shared.proofs;
    let refused = |error| challenge::of_proof(error, &rules.users, proofs, now);
    let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    // Whoever else has its key now could show it, too.
    match identified.user.binding().certificate {
        Some(bound) if sent.snap.revocations.certificate(&bound, now_ms) => {
            Err(refused(ProofError::CertificateRevoked))
        }
        Some(_) | None => proofs::prove(identified, &shown, proofs, now).map_err(refused),
    }
}

/// Reads the justification header; what does not fit a configured kind is refused, never guessed.
fn stated(
    policy: &ContextPolicy,
    head: &Head,
) -> Result<Option<capture::StatedJustification>, Refused> {
    if policy.justification_kinds.is_empty() {
        return Ok(None);
    }
    let fits = |kind: &str, reference: &str| match policy.justification_kinds.get(kind) {
        None => KindMatch::UnknownKind,
        Some(known) if known.pattern.matches(reference) => KindMatch::Fits,
        Some(_) => KindMatch::Misfit,
    };
    capture::justification(&head.presented.justification, fits).map_err(|error| of_capture(&error))
}

/// The mesh finds contexts by trace id, so an outsider may not choose one: the trace starts here.
fn restart_trace(conn: &Connection, headers: &mut HeaderMap) {
    headers.remove(TRACESTATE);
    let trace = TraceId::new(conn.worker().random());
    let text = trace.traceparent(conn.worker().random());
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// A body that says it is too long is refused before any of it is read.
fn check_length(conn: &Connection, parts: &request::Parts) -> Result<(), Refused> {
    let limit = conn.worker().shared.config.limits.gateway_body_bytes_max();
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match declared.and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length > limit => {
            let detail = format!("{length} bytes declared, the limit is {limit}");
            Err(Refused::new(Refusal::BodyTooLarge, Stage::Accept, detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// Plain HTTP is answered with the HTTPS address and nothing else.
fn redirect(head: &Head) -> Result<Response<ProxyBody>, Refused> {
    let location = format!("https://{}{}", head.host, head.path.target());
    let location = HeaderValue::from_str(&location).map_err(|_| {
        Refused::new(Refusal::RequestMalformed, Stage::Accept, "the target cannot be redirected")
    })?;
    let mut response = Response::new(ProxyBody::Empty);
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn of_capture(error: &CaptureError) -> Refused {
    let refusal = match error {
        CaptureError::AddressMalformed | CaptureError::AddressesTooMany => {
            Refusal::ClientAddressInvalid
        }
        CaptureError::JustificationKindUnknown
        | CaptureError::JustificationMalformed
        | CaptureError::JustificationRepeated => Refusal::JustificationInvalid,
    };
    Refused::new(refusal, Stage::Capture, error.to_string())
}

fn of_identify(error: &IdentifyError) -> Refused {
    let refusal = match error.reason() {
        "user_token_missing" => Refusal::UserTokenMissing,
        "user_token_malformed" => Refusal::UserTokenMalformed,
        "user_token_expired" => Refusal::UserTokenExpired,
        "user_claim_invalid" => Refusal::UserClaimInvalid,
        "user_keys_unavailable" => Refusal::UserKeysUnavailable,
        _ => Refusal::UserTokenInvalid,
    };
    Refused::new(refusal, Stage::Identify, error.to_string())
}
