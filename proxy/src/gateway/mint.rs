//! Makes the context token of a request: what was captured and proven here, for the one workload
//! whose connection it goes over.
//!
//! Invariant: `rctx.to` is the identity the callee proved on the connection that is used, `scope`
//! comes from the mint rule, and nothing a client wrote enters unless a rule lists it and it was
//! captured by a verified path.

use std::sync::Arc;

use countersign_ctxtoken::{
    MintError, NewContext, Origin, Rctx, SenderConstraint, Subject, Tctx, TlsFacts, UnixTime,
};
use countersign_policy::doc::{MintRule, RctxKey, TctxKey};
use countersign_policy::matching_mint_rule;
use countersign_workload_id::WorkloadId;
use http::Method;

use crate::clock::Now;
use crate::gateway::accept::Connection;
use crate::gateway::callers::ServiceCaller;
use crate::gateway::capture::ClientAddress;
use crate::gateway::facts::Facts;
use crate::gateway::identify::EndUser;
use crate::gateway::proofs::ProvenUser;
use crate::gateway::rules::GatewayRules;
use crate::http::request::Head;
use crate::issuer::Minted;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};

/// What the gateway found out about a request.
pub struct Findings {
    /// The client's address and where it was read.
    pub client: ClientAddress,
    /// Who asks; `None` where anonymous requests are let in.
    pub who: Option<Who>,
    /// What is established beside.
    pub facts: Facts,
}

/// Whom a request is made for, as its credential proved.
pub enum Who {
    /// An end user.
    User(ProvenUser),
    /// A workload outside the mesh, on its own behalf.
    Service(Arc<ServiceCaller>),
}

impl Findings {
    fn user(&self) -> Option<&EndUser> {
        match &self.who {
            Some(Who::User(user)) => Some(user.user()),
            Some(Who::Service(_)) | None => None,
        }
    }

    fn subject(&self) -> Subject {
        match &self.who {
            Some(Who::User(user)) => user.user().subject().clone(),
            Some(Who::Service(caller)) => caller.subject(),
            None => Subject::Anonymous,
        }
    }

    fn origin(&self) -> Origin {
        match &self.who {
            Some(Who::Service(_)) => Origin::Service,
            Some(Who::User(_)) | None => Origin::User,
        }
    }

    /// The proof of possession that came with the user's token.
    fn shown(&self) -> Option<SenderConstraint> {
        match &self.who {
            Some(Who::User(user)) => user.shown(),
            Some(Who::Service(_)) | None => None,
        }
    }

    /// Who vouches: a provider by our name of it, or the cluster.
    fn idp(&self) -> Option<&str> {
        match &self.who {
            Some(Who::User(user)) => Some(user.user().provider()),
            Some(Who::Service(caller)) => caller.idp(),
            None => None,
        }
    }

    /// What the credential grants, or the document for it; `None`: neither says.
    fn granted_scopes(&self) -> Option<&[String]> {
        match &self.who {
            Some(Who::User(user)) => user.user().granted_scopes(),
            Some(Who::Service(caller)) => Some(caller.granted_scopes()),
            None => None,
        }
    }
}

/// The rule of a request.
///
/// # Errors
/// `mint_rule_missing`: nothing is minted for what no rule covers.
pub fn rule<'r>(
    rules: &'r GatewayRules,
    method: &Method,
    head: &Head,
) -> Result<&'r MintRule, Refused> {
    matching_mint_rule(&rules.policy, method.as_str(), &head.host, &head.path).ok_or_else(|| {
        let detail = format!("no mint rule covers {method} {}", head.path.path());
        Refused::new(Refusal::MintRuleMissing, Stage::Mint, detail)
    })
}

/// What a token is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The mint rule of the request.
    pub rule: &'a MintRule,
    /// Its method.
    pub method: &'a Method,
    /// Its head.
    pub head: &'a Head,
    /// What the gateway found out.
    pub findings: &'a Findings,
    /// The identity the callee proved: the token's first holder.
    pub to: &'a WorkloadId,
}

/// Makes the token for the callee.
///
/// # Errors
/// `identity_unavailable` without a signer, `context_too_large`, `constraint_violated`.
pub fn token(
    conn: &Connection,
    snap: &Snapshot,
    asked: Asked<'_>,
    now: Now,
) -> Result<Minted, Refused> {
    let Asked { rule, method, head, findings, to } = asked;
    let issuer = snap
        .issuer
        .as_ref()
        .map_err(|why| Refused::new(Refusal::IdentityUnavailable, Stage::Mint, why.clone()))?;
    let mut rctx = Rctx::new(findings.origin(), to.clone());
    for key in &rule.rctx {
        capture(&mut rctx, *key, conn, findings);
    }
    let mut tctx = Tctx::default();
    for key in &rule.tctx {
        match key {
            TctxKey::Method => tctx.m = Some(method.as_str().to_owned()),
            TctxKey::Authority => tctx.h = Some(head.host.to_string()),
            TctxKey::Path => tctx.p = template(rule, head),
        }
    }
    tctx.params = countersign_policy::params::captured(rule, &head.path);
    let context = NewContext {
        sub: findings.subject(),
        scope: scope(rule, findings)?,
        req_wl: issuer.id().clone(),
        rctx,
        tctx,
        act: None,
    };
    issuer.mint(conn.worker(), context, None, now).map_err(|error| of_mint_error(&error))
}

/// The path pattern of the rule that the request fits; never the path itself.
fn template(rule: &MintRule, head: &Head) -> Option<String> {
    let fits = rule.matcher.paths.iter().find(|pattern| pattern.matches_exactly(&head.path))?;
    Some(fits.route().to_string())
}

/// The rule's scope, as far as the credential grants it.
fn scope(rule: &MintRule, findings: &Findings) -> Result<Vec<String>, Refused> {
    let Some(granted) = findings.granted_scopes() else { return Ok(rule.scope.clone()) };
    let scope: Vec<_> = rule.scope.iter().filter(|name| granted.contains(name)).cloned().collect();
    if scope.is_empty() {
        let detail = "the credential grants none of the rule's scopes";
        return Err(Refused::new(Refusal::MintRuleMissing, Stage::Mint, detail).with_sub("scope"));
    }
    Ok(scope)
}

fn capture(rctx: &mut Rctx, key: RctxKey, conn: &Connection, findings: &Findings) {
    let user = findings.user();
    match key {
        RctxKey::ReqIp => {
            rctx.req_ip = Some(findings.client.ip);
            rctx.ip_src = findings.client.src.in_token();
        }
        RctxKey::Idp => rctx.idp = findings.idp().map(str::to_owned),
        RctxKey::ClientId => rctx.client_id = user.and_then(|u| u.client_id()).map(str::to_owned),
        RctxKey::Acr => rctx.acr = user.and_then(|u| u.acr()).map(str::to_owned),
        RctxKey::AuthTime => rctx.auth_time = user.and_then(|u| u.auth_time()).map(UnixTime),
        RctxKey::Amr => {
            rctx.amr = user.map(|u| u.amr().to_vec()).filter(|methods| !methods.is_empty());
        }
        RctxKey::Authn => {}
        RctxKey::Acct => rctx.acct = user.and_then(|u| u.account()).map(str::to_owned),
        RctxKey::Groups => match &findings.facts.groups {
            Some(told) => {
                rctx.groups.clone_from(&told.names);
                rctx.groups_src = told.names.is_some().then(|| told.source.clone());
            }
            None => rctx.groups = user.map(|user| user.groups().to_vec()),
        },
        RctxKey::Claims => {
            rctx.claims = user.map(|u| u.claims().clone()).filter(|claims| !claims.is_empty());
        }
        RctxKey::Sc => rctx.sc = findings.shown(),
        RctxKey::Tls => {
            rctx.tls = conn.sni().map(|sni| TlsFacts {
                v: Some("1.3".to_owned()),
                sni: (!sni.is_empty()).then(|| sni.to_owned()),
                cert: findings.facts.certificate.clone(),
            });
        }
        RctxKey::Dev => rctx.dev.clone_from(&findings.facts.device),
        RctxKey::Just => rctx.just.clone_from(&findings.facts.justification),
    }
}

pub(crate) fn of_mint_error(error: &MintError) -> Refused {
    let refusal = match error {
        MintError::TooLarge { .. } | MintError::Context(_) => Refusal::ContextTooLarge,
        MintError::ConstraintViolated(_) => Refusal::ConstraintViolated,
        MintError::ChainUnusable(_)
        | MintError::KeyNameInvalid
        | MintError::Sign(_)
        | MintError::SignerExpired
        | MintError::TtlInvalid { .. } => Refusal::IdentityUnavailable,
    };
    Refused::new(refusal, Stage::Mint, error.to_string())
}
