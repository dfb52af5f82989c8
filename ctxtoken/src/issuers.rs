//! Who may sign what. A certificate of the mesh shows *who signed*; this list says *who may sign
//! what*. Without an entry nobody is an issuer, and an empty list accepts nothing.

use std::collections::BTreeMap;

use countersign_workload_id::WorkloadId;

use crate::{
    Constraint, IssuersError, KeySet, Origin, ScopePattern, SubPattern, Subject, UnixTime,
};

/// One entry of the allow-list.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The exact SPIFFE ID that signs.
    pub id: WorkloadId,
    /// How its keys may be named.
    pub keys: KeyForms,
    /// What it may sign.
    pub allow: Constraints,
    /// Its key set, where one is loaded.
    pub jwks: Option<KeySet>,
}

/// How an issuer's tokens may name their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForms {
    /// By certificate chain or by key name.
    Either,
    /// By key name only.
    Jwks,
    /// By certificate chain only.
    X5c,
}

impl KeyForms {
    pub(crate) fn allows_kid(self) -> bool {
        match self {
            Self::Either | Self::Jwks => true,
            Self::X5c => false,
        }
    }

    pub(crate) fn allows_x5c(self) -> bool {
        match self {
            Self::Either | Self::X5c => true,
            Self::Jwks => false,
        }
    }
}

/// What an issuer may sign. An empty list allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraints {
    /// Values of `rctx.origin`.
    pub origins: Vec<Origin>,
    /// Subjects.
    pub subs: Vec<SubPattern>,
    /// Subjects that a job may act for: `origin: batch` with `act`.
    pub impersonate: Vec<SubPattern>,
    /// Scope names; each one in a token must match one pattern.
    pub scopes: Vec<ScopePattern>,
    /// Longest life of a token, in seconds.
    pub max_ttl_s: u64,
}

impl Constraints {
    /// The one check of verifiers and minters alike.
    pub fn check(
        &self,
        origin: Origin,
        (sub, act): (&Subject, Option<&WorkloadId>),
        scope: &[String],
        iat: UnixTime,
        exp: UnixTime,
    ) -> Result<(), Constraint> {
        if !self.origins.contains(&origin) {
            return Err(Constraint::Origin(origin));
        }
        // A job that acts for somebody has a list of its own; the subject itself is not there.
        let acts = origin == Origin::Batch && act.is_some();
        let subs = if acts { &self.impersonate } else { &self.subs };
        // A job that works for a user says so: `act` is what keeps it from passing as the user.
        let of_a_workload = matches!(origin, Origin::Batch | Origin::Service);
        if of_a_workload && act.is_none() && matches!(sub, Subject::User(_)) {
            return Err(Constraint::Subject);
        }
        if !subs.iter().any(|pattern| pattern.matches(sub)) {
            return Err(Constraint::Subject);
        }
        let allowed = |name: &String| self.scopes.iter().any(|pattern| pattern.matches(name));
        if !scope.iter().all(allowed) {
            return Err(Constraint::Scope);
        }
        let secs = exp.since(iat);
        if secs > self.max_ttl_s {
            return Err(Constraint::TimeToLive { secs, limit: self.max_ttl_s });
        }
        Ok(())
    }
}

/// The allow-list of a trust domain.
#[derive(Debug, Clone, Default)]
pub struct IssuerSet {
    issuers: BTreeMap<WorkloadId, Issuer>,
}

impl IssuerSet {
    /// Takes the entries; one per ID. Keys of a set that name another issuer are dropped here, so
    /// that one file with the keys of all issuers binds each key to its own.
    pub fn new(entries: Vec<Issuer>) -> Result<Self, IssuersError> {
        let mut issuers = BTreeMap::new();
        for mut entry in entries {
            if let Some(keys) = &mut entry.jwks {
                keys.keep_keys_of(&entry.id);
            }
            let id = entry.id.clone();
            if issuers.insert(id.clone(), entry).is_some() {
                return Err(IssuersError::Duplicate(id));
            }
        }
        Ok(Self { issuers })
    }

    /// The entry of an ID, compared by bytes.
    pub fn get(&self, id: &str) -> Option<&Issuer> {
        self.issuers.get(id)
    }

    /// All entries, by ID.
    pub fn iter(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.values()
    }

    /// Whether nobody may issue.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }
}
