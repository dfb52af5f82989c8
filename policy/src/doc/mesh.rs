//! `MeshConfig`: trust domain, defaults, issuers of context tokens, address sets, calendars.

use std::collections::BTreeMap;

use countersign_workload_id::{IdPattern, TrustDomain, WorkloadId};
use ipnet::IpNet;
use jiff::civil::Date;

use super::{DestinationName, FederatedDomain, FileRef};
use crate::path::{CanonicalOptions, PathTemplate};

/// The one `MeshConfig`, named `default`.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The trust domain of every workload of this mesh.
    pub trust_domain: TrustDomain,
    /// How request paths are made canonical.
    pub paths: CanonicalOptions,
    /// Lifetime of minted context tokens, seconds.
    pub context_ttl_s: u64,
    /// Whether custody of tokens is demanded.
    pub custody: Custody,
    /// Who may sign context tokens, and what.
    pub issuers: Vec<TrustedIssuer>,
    /// Headers the app gets beyond the default set: `sub`, `entry`, `source-ip`, `groups`, `device`,
    /// `justification`, `auth-time`, `claims`.
    pub headers: Vec<String>,
    /// Who may present a context on which paths; empty: any mesh peer of the own trust domain.
    pub presenters: Vec<Presenter>,
    /// `context.tokenService`: where workloads ask for tokens.
    pub token_service: Option<DestinationName>,
    /// Named address sets.
    pub cidr_sets: BTreeMap<String, Vec<IpNet>>,
    /// Named lists of local dates.
    pub calendars: BTreeMap<String, Vec<Date>>,
    /// What happens when the audit queue is full.
    pub on_audit_full: OnAuditFull,
    /// What becomes of calls to places that no document knows.
    pub outbound: Outbound,
    /// The other trust domains whose workloads may be met, sorted by name.
    pub federation: Vec<FederatedDomain>,
}

impl MeshConfig {
    /// Whether workloads of another trust domain may be met at all.
    pub fn is_federated_with(&self, domain: &TrustDomain) -> bool {
        self.federation.iter().any(|entry| entry.trust_domain == *domain)
    }

    /// Whether our context is handed to workloads of another trust domain.
    pub fn hands_over_to(&self, domain: &TrustDomain) -> bool {
        let mut federation = self.federation.iter();
        federation.any(|entry| entry.trust_domain == *domain && entry.context.hand_over)
    }

    /// What a workload of this namespace may do with a destination that no document knows.
    pub fn outbound_unknown(&self, namespace: &str) -> Unknown {
        let own = self.outbound.namespaces.get(namespace);
        own.copied().unwrap_or(self.outbound.unknown)
    }
}

/// `outbound`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// `unknown`, where the namespace says nothing else.
    pub unknown: Unknown,
    /// `namespaces.<name>.unknown`.
    pub namespaces: BTreeMap<String, Unknown>,
}

/// What becomes of a connection to a destination that no document knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// It is refused.
    #[default]
    Deny,
    /// Its bytes pass, without mesh TLS and without context.
    Pass,
}

/// `context.custody`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// A token works only for the workload it was handed to.
    Required,
    /// A token works for whoever holds it (interop only, W115).
    Off,
}

/// One entry of `context.issuers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Who signs.
    pub id: WorkloadId,
    /// Which key forms are accepted.
    pub keys: IssuerKeys,
    /// Where the key set of the `jwks` and `either` forms comes from.
    pub jwks: Option<IssuerJwks>,
    /// `allow.origin`: `user`, `service`, `batch`, `async`, `foreign`.
    pub origins: Vec<String>,
    /// `allow.sub` patterns; a final `*` matches any rest.
    pub subjects: Vec<String>,
    /// `allow.scope` patterns; a final `*` matches any rest.
    pub scopes: Vec<String>,
    /// `allow.impersonate`: subjects its tokens may name for jobs that act for them; a final `*`
    /// matches any rest.
    pub impersonate: Vec<String>,
    /// `allow.maxTtl`, seconds.
    pub max_ttl_s: Option<u64>,
}

/// Where an issuer's key set comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerJwks {
    /// A file, read again when it changes.
    File(FileRef),
    /// The issuer itself: every endpoint of a Destination publishes its own keys.
    Destination {
        /// Which Destination.
        name: DestinationName,
        /// Seconds between two fetches.
        refresh_s: u64,
        /// Keys that were not confirmed for so long do not count, seconds.
        max_stale_s: u64,
    },
}

/// How an issuer's key is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerKeys {
    /// The certificate chain in the token.
    X5c,
    /// A key id in the issuer's JWK set.
    Jwks,
    /// Both forms.
    Either,
}

/// One entry of `context.presenters`.
#[derive(Clone, Debug)]
pub struct Presenter {
    /// Which callers.
    pub peer: IdPattern,
    /// On which paths.
    pub to: PathTemplate,
}

/// `audit.onFull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAuditFull {
    /// Count what was lost and write one `gap` record.
    Gap,
    /// Refuse rather than serve unrecorded.
    Refuse,
}
