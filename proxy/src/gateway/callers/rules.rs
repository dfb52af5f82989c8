//! From the document's `callers` to what the data path asks: addresses found, keys parsed.

use std::sync::Arc;

use countersign_certs_client::{JwksForm, JwtBundle, JwtBundles};
use countersign_config::ProxyConfig;
use countersign_config::limits::JWT_BUNDLE_BYTES_MAX;
use countersign_policy::doc::{
    Callers, FileRef, IdentityProvider, JwtSvidCallers, MeshConfig, Place, ServiceAccountCallers,
    SvidBundle,
};
use countersign_workload_id::TrustDomain;

use super::jwt_svid::{JwtSvids, SvidKeys};
use super::review::ReviewTarget;
use super::{CLUSTER, CLUSTER_ALGORITHMS, CallerRules, ServiceAccounts};
use crate::gateway::cluster;
use crate::gateway::provider_keys::Provider;

/// The rules of this gateway; `None` where it takes no callers.
///
/// # Errors
/// A sentence naming what is missing.
pub fn build(
    callers: &Callers,
    mesh: &MeshConfig,
    config: &ProxyConfig,
    tokens: &JwtBundles,
) -> Result<Option<CallerRules>, String> {
    if callers.is_empty() {
        return Ok(None);
    }
    if config.gateway.iter().all(|listener| listener.tls.is_none()) {
        return Err(
            "`callers` of this gateway's ContextPolicy needs a listener with TLS: a bearer \
                    token sent in the clear is anybody's"
                .to_owned(),
        );
    }
    let domain = mesh.trust_domain.clone();
    let service_account = callers.service_account.as_ref().map(service_accounts).transpose()?;
    let jwt_svid = callers.jwt_svid.as_ref().map(|own| jwt_svids(own, &domain, tokens));
    Ok(Some(CallerRules { domain, service_account, jwt_svid }))
}

fn service_accounts(document: &ServiceAccountCallers) -> Result<ServiceAccounts, String> {
    let review = match &document.review {
        None => None,
        Some(server) => {
            let cluster = cluster::of(server).map_err(|why| format!("tokenReview: {why}"))?;
            Some(Arc::new(ReviewTarget { cluster, audience: document.audience.clone() }))
        }
    };
    Ok(ServiceAccounts {
        issuer: document.issuer.clone(),
        audience: document.audience.clone(),
        review,
        keys: document.keys.is_some(),
        grants: document.grants.clone(),
    })
}

fn jwt_svids(document: &JwtSvidCallers, own: &TrustDomain, tokens: &JwtBundles) -> JwtSvids {
    let from_file = match &document.bundle {
        SvidBundle::Source => None,
        // A file that cannot be read now must not hold up new certificates or documents.
        SvidBundle::File(file) => Some(read(file).map_err(|why| {
            tracing::warn!(code = "CA-02", why, "callers with JWT-SVIDs are refused");
        })),
    };
    let keys_of = |domain: &TrustDomain| match &from_file {
        Some(Ok(bundle)) => (domain == own).then(|| SvidKeys::of(bundle)),
        Some(Err(())) => None,
        None => tokens.get(domain).map(SvidKeys::of),
    };
    let keys = document.trust_domains.iter();
    JwtSvids {
        audience: document.audience.clone(),
        keys: keys.map(|domain| (domain.clone(), keys_of(domain).map(Arc::new))).collect(),
        grants: document.grants.clone(),
    }
}

fn read(file: &FileRef) -> Result<JwtBundle, String> {
    use std::io::Read as _;
    let path = file.resolve();
    let failed = |why: &dyn std::fmt::Display| format!("jwtSvid.bundle: {}: {why}", path.display());
    let limit = u64::try_from(JWT_BUNDLE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Vec::new();
    let open = std::fs::File::open(&path).map_err(|error| failed(&error))?;
    open.take(limit).read_to_end(&mut text).map_err(|error| failed(&error))?;
    JwtBundle::parse(&text, JwksForm::SpiffeBundle).map_err(|error| failed(&error))
}

/// The cluster whose tokens callers bring, as one whose keys are kept current in the background.
/// It identifies no user: it is in no verifier of users.
pub fn cluster_keys(callers: &Callers) -> Option<Provider> {
    let document = callers.service_account.as_ref()?;
    let spec = IdentityProvider {
        issuer: document.issuer.clone(),
        audiences: vec![document.audience.clone()],
        algorithms: CLUSTER_ALGORITHMS.to_vec(),
        token_types: Vec::new(),
        keys: document.keys.clone()?,
        from: Vec::new(),
        claims: Default::default(),
        subject_prefix: None,
        grants: None,
        required_claims: Default::default(),
        sender: Default::default(),
    };
    let place = Place { file: "callers.serviceAccountToken".into(), line: 0, column: 0 };
    Some(Provider { namespace: String::new(), name: CLUSTER.to_owned(), spec, place })
}
