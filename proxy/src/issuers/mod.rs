//! The keys of issuers of context tokens: those of this process, if it is one, and those of all whom
//! the mesh lets issue.
//!
//! `own` makes, publishes and retires keys (`keyring`, pure, says when); `publish` is what is served
//! at `/.well-known/`; `follow` fetches (`fetch`) what others serve. Invariant: all of it runs on the
//! control thread; workers read immutable sets from the snapshot, and texts that are swapped whole.

pub mod fetch;
pub mod follow;
pub mod keyring;
pub mod own;
pub mod publish;

use std::sync::Arc;

use countersign_certs_client::Certs;
use countersign_config::limits::ISSUER_KEY_PLACES_MAX;
use countersign_config::{AppService, ProxyConfig};
use countersign_ctxtoken::IssuerSet;
use countersign_policy::Documents;
use countersign_policy::doc::{IssuerJwks, TrustedIssuer};

use self::fetch::Place;
use self::follow::{Fetched, Followed};
use self::own::OwnKeys;
use crate::clock::Now;
use crate::tls::verify::ExpectedIds;

/// The keys that the next snapshot is built with.
pub struct Keys {
    fetched: Arc<Fetched>,
    own: OwnKeys,
    /// Whether this process may issue at all.
    issues: bool,
}

impl Keys {
    /// Nothing fetched, nothing published.
    pub fn new(config: &ProxyConfig) -> Keys {
        let serves = config.app.iter().any(|app| app.service == Some(AppService::Issuer));
        Keys {
            fetched: Arc::default(),
            own: OwnKeys::new(config.issuer.clone()),
            issues: serves || !config.gateway.is_empty(),
        }
    }

    /// Takes over what issuers publish; whether a key is another one.
    pub fn take(&mut self, fetched: Arc<Fetched>) -> bool {
        let changed = !self.fetched.has_same_keys(&fetched);
        self.fetched = fetched;
        changed
    }

    /// What issuers publish.
    pub fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    /// Our own keys.
    pub fn own(&self) -> &OwnKeys {
        &self.own
    }

    /// Goes on with our own keys, as the mesh's entry for our identity says; whether another one
    /// signs now.
    pub fn follow_own(
        &mut self,
        documents: &Documents,
        certs: &Certs,
        issuers: &IssuerSet,
        now: Now,
    ) -> bool {
        if !self.issues {
            return false;
        }
        let Some(identity) = certs.token_signer() else { return false };
        let entry = documents.mesh.issuers.iter().find(|issuer| issuer.id == identity.id);
        let Some(entry) = entry else { return false };
        let known = issuers.get(entry.id.as_str()).and_then(|issuer| issuer.jwks.as_ref());
        self.own.follow(entry, Some(identity), known, now)
    }
}

/// Whose keys are fetched, and where, as the documents say.
pub fn followed(documents: &Documents) -> Vec<Followed> {
    documents.mesh.issuers.iter().filter_map(|issuer| followed_at(documents, issuer)).collect()
}

fn followed_at(documents: &Documents, issuer: &TrustedIssuer) -> Option<Followed> {
    let Some(IssuerJwks::Destination { name, refresh_s, max_stale_s }) = &issuer.jwks else {
        return None;
    };
    let found = documents.destination(&name.namespace, &name.name)?;
    let host = found.spec.hosts.first().cloned().unwrap_or_else(|| name.to_string());
    let place = |endpoint| {
        let expected = ExpectedIds::new(found.spec.identities_at(endpoint).to_vec())?;
        Some(Place {
            address: endpoint.socket_addr(),
            expected: Arc::new(expected),
            host: host.clone(),
        })
    };
    Some(Followed {
        issuer: issuer.id.clone(),
        places: found.spec.endpoints.iter().filter_map(place).take(ISSUER_KEY_PLACES_MAX).collect(),
        refresh_s: *refresh_s,
        max_stale_s: *max_stale_s,
    })
}
