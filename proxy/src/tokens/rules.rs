//! `tokenService` of the documents, resolved for this process.

use std::sync::Arc;

use countersign_config::{AppService, ProxyConfig};
use countersign_ctxtoken::{Origin, ScopePattern, SubPattern, Subject};
use countersign_policy::doc::{AssertKey, ContextPolicy, RctxKey, Requester, SubjectToken};
use countersign_policy::{Documents, Workload};
use countersign_workload_id::{IdPattern, WorkloadId};

use super::SubjectKind;
use crate::gateway::facts::{self, Providers};
use crate::gateway::identify::UserVerifier;
use crate::gateway::provider_keys::Provider;

/// What the token service of this process grants.
pub struct TokenRules {
    /// The document that says so.
    pub policy: Arc<ContextPolicy>,
    /// All identity providers of the documents.
    pub providers: Vec<Arc<Provider>>,
    /// Those whose tokens are taken: their keys are needed.
    pub taken: Vec<Arc<Provider>>,
    /// Verifies tokens of those that the service names.
    pub users: UserVerifier,
    /// Who is asked about justifications.
    pub attributes: Providers,
    /// How often the token of one transaction may be replaced.
    pub replacements: usize,
    entries: Vec<Entry>,
}

/// What workloads of one pattern may have.
pub struct Entry {
    peer: IdPattern,
    takes: Vec<SubjectToken>,
    /// Whom they may name without proof.
    pub subjects: Vec<SubPattern>,
    /// Origins of their tokens.
    pub origins: Vec<Origin>,
    scopes: Vec<ScopePattern>,
    /// Which facts of a verified user their tokens carry.
    pub emit: Vec<RctxKey>,
    /// Facts they may state.
    pub assert: Vec<AssertKey>,
    /// For whom their jobs may act.
    pub impersonate: Vec<SubPattern>,
    /// Requests a second.
    pub rate: u32,
}

impl TokenRules {
    /// Resolves the documents; `None` if this process serves no tokens.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(
        documents: &Documents,
        workload: &Workload,
        config: &ProxyConfig,
    ) -> Result<Option<TokenRules>, String> {
        if !config.app.iter().any(|app| app.service == Some(AppService::Issuer)) {
            return Ok(None);
        }
        let mut fitting = documents.gateways.iter().filter(|named| {
            named.namespace == workload.namespace
                && named.spec.token_service.is_some()
                && named.spec.selector.selects(&workload.labels)
        });
        let (named, service) = match (fitting.next(), fitting.next()) {
            (None, _) => return Ok(None),
            (Some(one), Some(two)) => {
                return Err(format!(
                    "two ContextPolicies with `tokenService` select this process: {}/{} and {}/{}",
                    one.namespace, one.name, two.namespace, two.name
                ));
            }
            (Some(only), None) => match &only.spec.token_service {
                Some(service) => (only, service),
                None => return Ok(None),
            },
        };
        let providers: Vec<Arc<Provider>> =
            documents.providers.iter().map(|named| Arc::new(named.clone())).collect();
        let listed = |provider: &&Arc<Provider>| service.providers.contains(&provider.name);
        let taken: Vec<_> = providers.iter().filter(listed).cloned().collect();
        let entries = service.requesters.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Some(TokenRules {
            policy: Arc::new(named.spec.clone()),
            users: UserVerifier::new(taken.iter().cloned()),
            taken,
            providers,
            attributes: facts::providers(documents),
            replacements: service.replacements,
            entries,
        }))
    }

    /// The entry of a workload: the first that lists it.
    pub fn entry(&self, requester: &WorkloadId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.peer.matches(requester))
    }
}

fn entry(written: &Requester) -> Result<Entry, String> {
    let peer = &written.peer;
    let unusable = |error: &dyn std::fmt::Display| format!("requester {peer}: {error}");
    let subjects = |texts: &[String]| {
        let parse = |text: &String| SubPattern::parse(text).map_err(|error| unusable(&error));
        texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let origin = |text: &String| {
        Origin::parse(text).ok_or_else(|| unusable(&format!("`{text}` is no origin")))
    };
    let scope = |text: &String| ScopePattern::parse(text).map_err(|error| unusable(&error));
    Ok(Entry {
        peer: peer.clone(),
        takes: written.subject_tokens.clone(),
        subjects: subjects(&written.subjects)?,
        origins: written.origins.iter().map(origin).collect::<Result<_, _>>()?,
        scopes: written.scopes.iter().map(scope).collect::<Result<_, _>>()?,
        emit: written.emit.clone(),
        assert: written.assert.clone(),
        impersonate: subjects(&written.impersonate)?,
        rate: written.rate,
    })
}

impl Entry {
    /// Whether such a subject token may be brought.
    pub fn takes(&self, kind: SubjectKind) -> bool {
        self.takes.contains(&kind.document())
    }

    /// Whether the scope name may be had.
    pub fn may_have(&self, name: &str) -> bool {
        self.scopes.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether this subject may be named without proof.
    pub fn may_name(&self, subject: &Subject) -> bool {
        self.subjects.iter().any(|pattern| pattern.matches(subject))
    }

    /// Whether a job may act for this subject.
    pub fn may_act_for(&self, subject: &Subject) -> bool {
        self.impersonate.iter().any(|pattern| pattern.matches(subject))
    }
}
