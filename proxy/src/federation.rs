//! Whom certificates are believed from: our own trust domain, and those that a document names.
//!
//! Invariant: a bundle is in force for the trust domain its document entry names and only as long
//! as the entry is there; what an identity source delivers beyond that is not looked at. Bundles of
//! different domains are never merged. A bundle that cannot be had leaves its domain untrusted, and
//! nobody else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs_client::federation::{Endpoint, Federation, Fetched, Pace, Profile};
use countersign_certs_client::{
    Bundle, BundleDoc, Certs, Failure, JwtBundle, JwtBundles, TrustBundles,
};
use countersign_config::Limits;
use countersign_config::limits::JWKS_BYTES_MAX;
use countersign_policy::Documents;
use countersign_policy::doc::{
    EndpointProfile, FederatedBundle, FederatedDomain, FileRef, MeshConfig, TlsRoots,
};
use countersign_workload_id::TrustDomain;

use crate::clock::Now;

/// The bundles of other trust domains, wherever they come from.
#[derive(Debug, Default)]
pub struct Bundles {
    /// What endpoints said.
    fetched: Arc<Fetched>,
    /// What files said last, by file and domain: one that cannot be read right now changes nothing.
    files: BTreeMap<(PathBuf, TrustDomain), BundleDoc>,
}

/// Whom to believe, by trust domain. The two kinds are never taken for each other.
#[derive(Debug, Default)]
pub struct InForce {
    /// The authorities of certificates.
    pub authorities: TrustBundles,
    /// The keys of JWT-SVIDs.
    pub tokens: JwtBundles,
}

impl Bundles {
    /// Takes over what endpoints say now; whether a bundle is another one.
    pub fn take(&mut self, fetched: Arc<Fetched>) -> bool {
        let bundles = |all: &Fetched| -> Vec<(TrustDomain, Both)> {
            all.iter().map(|(domain, one)| (domain.clone(), both(one.doc.as_deref()))).collect()
        };
        let changed = bundles(&self.fetched) != bundles(&fetched);
        self.fetched = fetched;
        changed
    }

    /// What the endpoint of a domain said last, if that was of no use.
    pub fn failure(&self, domain: &TrustDomain) -> Option<&Failure> {
        self.fetched.get(domain)?.last_failure.as_ref()
    }

    /// The bundles in force under these documents.
    pub fn in_force(&mut self, mesh: &MeshConfig, certs: &Certs) -> InForce {
        let mut all = InForce::default();
        if let Some(own) = certs.bundles.get(&mesh.trust_domain) {
            all.authorities.insert(mesh.trust_domain.clone(), own.clone());
        }
        if let Some(own) = certs.jwt_bundles.get(&mesh.trust_domain) {
            all.tokens.insert(mesh.trust_domain.clone(), own.clone());
        }
        let is_named = |(_, domain): &(PathBuf, TrustDomain)| mesh.is_federated_with(domain);
        // Whom nobody names any more begins anew, if ever.
        self.files.retain(|key, _| is_named(key));
        for FederatedDomain { trust_domain, bundle, context: _ } in &mesh.federation {
            let (authorities, tokens) = match bundle {
                FederatedBundle::Source => (
                    certs.bundles.get(trust_domain).cloned(),
                    certs.jwt_bundles.get(trust_domain).cloned(),
                ),
                FederatedBundle::File(file) => both(self.of_file(file, trust_domain).as_ref()),
                FederatedBundle::Endpoint(_) => {
                    both(self.fetched.get(trust_domain).and_then(|one| one.doc.as_deref()))
                }
            };
            if let Some(bundle) = authorities {
                all.authorities.insert(trust_domain.clone(), bundle);
            }
            if let Some(bundle) = tokens {
                all.tokens.insert(trust_domain.clone(), bundle);
            }
        }
        all
    }

    fn of_file(&mut self, file: &FileRef, domain: &TrustDomain) -> Option<BundleDoc> {
        let path = file.resolve();
        let read = read_capped(&path)
            .and_then(|text| BundleDoc::of_file(&text, domain).map_err(|error| error.to_string()));
        let key = (path, domain.clone());
        match read {
            Ok(doc) => {
                self.files.insert(key, doc.clone());
                Some(doc)
            }
            Err(problem) => {
                let last = self.files.get(&key).cloned();
                let (file, kept) = (key.0.display(), last.is_some());
                tracing::warn!(code = "FD-04", %domain, kept, "bundle file {file}: {problem}");
                last
            }
        }
    }
}

/// What a document says of certificates, and of tokens.
type Both = (Option<Bundle>, Option<JwtBundle>);

fn both(doc: Option<&BundleDoc>) -> Both {
    doc.map(|doc| (doc.authorities.clone(), doc.jwt_keys.clone())).unwrap_or_default()
}

fn read_capped(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;

    let limit = u64::try_from(JWKS_BYTES_MAX).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(limit.saturating_add(1)).read_to_end(&mut text).map_err(|error| error.to_string())?;
    match text.len() > JWKS_BYTES_MAX {
        true => Err(format!("larger than {JWKS_BYTES_MAX} bytes")),
        false => Ok(text),
    }
}

/// The endpoints that the documents name.
pub fn endpoints(documents: &Documents) -> Vec<Endpoint> {
    let endpoint = |entry: &FederatedDomain| {
        let FederatedBundle::Endpoint(endpoint) = &entry.bundle else { return None };
        let profile = match &endpoint.profile {
            EndpointProfile::Web { roots: TlsRoots::System } => Profile::Web(None),
            EndpointProfile::Web { roots: TlsRoots::File(file) } => {
                Profile::Web(Some(file.resolve()))
            }
            EndpointProfile::Spiffe { endpoint_id, initial_bundle } => {
                Profile::Spiffe { id: endpoint_id.clone(), initial: initial_bundle.resolve() }
            }
        };
        Some(Endpoint {
            domain: entry.trust_domain.clone(),
            url: endpoint.url.clone(),
            profile,
            redirects: endpoint.redirects,
            max_stale_s: endpoint.max_stale_s,
        })
    };
    documents.mesh.federation.iter().filter_map(endpoint).collect()
}

/// Begins to ask the endpoints that the documents name.
pub fn start(limits: &Limits, documents: &Documents) -> Federation {
    let mut federation = Federation::new(Arc::new(|| Now::read().millis()), pace(limits));
    federation.follow(endpoints(documents));
    federation
}

/// How often endpoints are asked.
pub fn pace(limits: &Limits) -> Pace {
    Pace { least_s: limits.bundle_refresh_s_min, most_s: limits.bundle_refresh_s_max }
}

#[cfg(test)]
#[path = "tests/federation.rs"]
mod tests;
