//! What a requester adds to a context: only what its entry lets it state, and never over a fact
//! that is there already.
//!
//! Invariant: what is stated is never marked as checked, and has no source, so a policy that asks
//! for one does not believe it. `rctx.to`, `sub`, `origin` and the like have no key here at all.

use std::net::IpAddr;

use countersign_ctxtoken::{Justification, NewContext, Origin, Rctx, Subject, Tctx, UnixTime};
use countersign_policy::doc::{AssertKey, OnUnavailable};
use serde_json::Value;

use super::subject::Proven;
use super::{Asked, Request, TokenError, Why};
use crate::gateway::attributes::{Answer, Answered, Question, Unavailable};

/// Adds what the request states, and lets a job act for somebody where it may.
///
/// # Errors
/// [`TokenError`].
pub(super) async fn add(
    asked: Asked<'_>,
    request: &Request,
    subject: &mut Proven,
) -> Result<(), TokenError> {
    let context = &mut subject.context;
    let whom = request.act_for.as_deref().map(named).transpose()?;
    for key in &asked.entry.assert {
        let of = if is_of_call(*key) { &request.details } else { &request.context };
        let Some(value) = of.get(key.as_str()) else { continue };
        if *key == AssertKey::Just {
            if context.rctx.just.is_none() {
                let user = whom.as_ref().unwrap_or(&context.sub);
                context.rctx.just = Some(justification(asked, value, user).await?);
            }
            continue;
        }
        let sound = if is_of_call(*key) {
            state_tctx(&mut context.tctx, *key, value)
        } else {
            state_rctx(&mut context.rctx, *key, value)
        };
        if sound.is_none() {
            let detail = format!("`{}` is of another type", key.as_str());
            return Err(Why::ContextInvalid.error(detail));
        }
    }
    match whom {
        Some(whom) => act_for(asked, whom, context),
        None => Ok(()),
    }
}

fn named(whom: &str) -> Result<Subject, TokenError> {
    Subject::parse(whom).ok_or_else(|| Why::FormMalformed.error("`csign_as` is no subject"))
}

/// Whether a key is one of `request_details`.
fn is_of_call(key: AssertKey) -> bool {
    matches!(key, AssertKey::Method | AssertKey::Authority | AssertKey::Path | AssertKey::Params)
}

/// Sets a fact that is not there; `None` if the value is of another type.
fn state_rctx(rctx: &mut Rctx, key: AssertKey, value: &Value) -> Option<()> {
    match key {
        AssertKey::ReqIp => {
            let ip = value.as_str()?.parse::<IpAddr>().ok()?.to_canonical();
            rctx.req_ip.get_or_insert(ip);
        }
        AssertKey::ClientId => set(&mut rctx.client_id, text(value)?),
        AssertKey::Acr => set(&mut rctx.acr, text(value)?),
        AssertKey::AuthTime => set(&mut rctx.auth_time, UnixTime(value.as_u64()?)),
        AssertKey::Authn => set(&mut rctx.authn, text(value)?),
        AssertKey::Amr => set(&mut rctx.amr, texts(value)?),
        AssertKey::Acct => set(&mut rctx.acct, text(value)?),
        AssertKey::Groups => set(&mut rctx.groups, texts(value)?),
        AssertKey::Claims => set(&mut rctx.claims, value.as_object()?.clone()),
        AssertKey::Just
        | AssertKey::Method
        | AssertKey::Authority
        | AssertKey::Path
        | AssertKey::Params => return None,
    }
    Some(())
}

fn state_tctx(tctx: &mut Tctx, key: AssertKey, value: &Value) -> Option<()> {
    match key {
        AssertKey::Method => set(&mut tctx.m, text(value)?),
        AssertKey::Authority => set(&mut tctx.h, text(value)?),
        AssertKey::Path => set(&mut tctx.p, text(value)?),
        AssertKey::Params => set(&mut tctx.params, value.as_object()?.clone()),
        _ => return None,
    }
    Some(())
}

/// A fact that somebody established stays.
fn set<T>(fact: &mut Option<T>, value: T) {
    fact.get_or_insert(value);
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(text).collect()
}

/// The stated justification, of a configured kind. Checked only where its validator said so, about
/// this user.
async fn justification(
    asked: Asked<'_>,
    value: &Value,
    user: &Subject,
) -> Result<Justification, TokenError> {
    let invalid = |detail: &str| Why::ContextInvalid.error(detail);
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    let (Some(kind), Some(reference)) = (field("kind"), field("ref")) else {
        return Err(invalid("`just` needs `kind` and `ref`"));
    };
    let known = asked.rules.policy.justification_kinds.get(kind);
    let known = known.ok_or_else(|| invalid("no such kind of justification is configured"))?;
    if !known.pattern.matches(reference) {
        return Err(invalid("the reference does not fit its kind"));
    }
    let mut found = Justification {
        kind: kind.to_owned(),
        reference: reference.to_owned(),
        by: None,
        checked: false,
        at: Some(UnixTime(asked.now.secs())),
        facts: None,
    };
    let Some(validator) = &known.validate else { return Ok(found) };
    found.by = Some(validator.clone());
    let question = Question {
        user: user.user().map(|user| user.id().to_owned()),
        justification: Some(reference.to_owned()),
        ..Question::default()
    };
    let Some(answered) = ask(asked, validator, &question).await? else { return Ok(found) };
    match answered.answer {
        Answer::Yes(facts) => {
            found.checked = true;
            found.at = Some(UnixTime(answered.at));
            found.facts = (!facts.is_empty()).then_some(facts);
            Ok(found)
        }
        Answer::No(_) => {
            let detail = format!("`{validator}` says no to this justification");
            Err(Why::JustificationRefused.error(detail))
        }
        Answer::Groups(_) => {
            Err(Why::ValidatorUnavailable.error(format!("`{validator}` is a directory")))
        }
    }
}

/// What a validator says; `None` where there is no answer and the document can do without.
async fn ask(
    asked: Asked<'_>,
    name: &str,
    question: &Question,
) -> Result<Option<Answered>, TokenError> {
    let unavailable = |why: &str| Why::ValidatorUnavailable.error(format!("`{name}`: {why}"));
    let Some(provider) = asked.rules.attributes.get(name) else {
        return Err(unavailable("it is not among the documents"));
    };
    match asked.worker.shared.attributes.ask(provider, question, asked.now).await {
        Ok(answered) => Ok(Some(answered)),
        Err(Unavailable(why)) => match provider.spec.on_unavailable {
            OnUnavailable::Unknown => Ok(None),
            OnUnavailable::Refuse | OnUnavailable::UseStale(_) => Err(unavailable(&why)),
        },
    }
}

/// A job acts for somebody: listed, with a justification that was checked, and always visible.
fn act_for(asked: Asked<'_>, subject: Subject, context: &mut NewContext) -> Result<(), TokenError> {
    if !asked.entry.may_act_for(&subject) {
        return Err(Why::AsNotPermitted.error("`impersonate` of its entry does not list this one"));
    }
    if context.rctx.origin != Origin::Batch {
        return Err(Why::OriginNotPermitted.error("only jobs (`batch`) act for somebody"));
    }
    if !context.rctx.just.as_ref().is_some_and(|just| just.checked) {
        let detail = "no justification, or nobody has checked it";
        return Err(Why::JustificationUnchecked.error(detail));
    }
    context.rctx.idp = provider_of(asked, &subject);
    counts(asked, &subject, context.rctx.idp.as_deref())?;
    context.act = Some(asked.requester.id().clone());
    context.sub = subject;
    Ok(())
}

/// Our name of the provider whose users have this prefix.
pub(super) fn provider_of(asked: Asked<'_>, subject: &Subject) -> Option<String> {
    let prefix = subject.user()?.provider();
    let own = asked.rules.providers.iter().find(|p| p.spec.subject_prefix.as_deref() == prefix);
    own.map(|provider| provider.name.clone())
}

/// Refuses to speak from now on for somebody whom a Revocation names.
///
/// # Errors
/// `subject_revoked`.
pub(super) fn counts(
    asked: Asked<'_>,
    subject: &Subject,
    idp: Option<&str>,
) -> Result<(), TokenError> {
    let ms = i64::try_from(asked.now.millis()).unwrap_or(i64::MAX);
    let revocations = &asked.snap.revocations;
    let user = subject.user().is_some_and(|user| revocations.user(idp, user.id(), ms, ms));
    if user || subject.service().is_some_and(|id| revocations.identity(id, ms, ms)) {
        return Err(Why::SubjectRevoked.error("a Revocation names this subject"));
    }
    Ok(())
}
