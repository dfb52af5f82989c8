//! What this gateway does, resolved from its documents: routes, capture, users, minting.
//!
//! Invariant: only a process whose `ProxyConfig` has gateway listeners gets these.

use std::sync::Arc;

use countersign_certs_client::JwtBundles;
use countersign_config::{CorsPreflight, ProxyConfig};
use countersign_policy::doc::{ClientAddressFrom, ContextPolicy, ContextRole};
use countersign_policy::{Documents, Workload};

use crate::gateway::callers::CallerRules;
use crate::gateway::capture::{AddressFrom, AddressRules};
use crate::gateway::facts::{self, Providers};
use crate::gateway::identify::UserVerifier;
use crate::gateway::provider_keys::Provider;
use crate::outbound::discover::{Destination, Destinations};

/// A route to a destination.
pub struct Route {
    host: Option<String>,
    prefix: String,
    /// Where it leads.
    pub destination: Arc<Destination>,
    /// Whether a CORS preflight passes without credentials.
    pub cors_preflight: CorsPreflight,
}

/// What this gateway does.
pub struct GatewayRules {
    /// Capture, user and mint rules of the document.
    pub policy: Arc<ContextPolicy>,
    /// How the client's address is found.
    pub address: AddressRules,
    /// Verifies end users' tokens.
    pub users: UserVerifier,
    /// Which workloads outside the mesh may call; `None`: none.
    pub callers: Option<Arc<CallerRules>>,
    /// All identity providers of the documents, and the cluster whose tokens callers bring, for the key tasks.
    pub providers: Vec<Arc<Provider>>,
    /// Whom to ask about devices, justifications and groups.
    pub attributes: Providers,
    routes: Vec<Route>,
}

impl GatewayRules {
    /// Resolves the documents for this process; `None` if it is no gateway.
    ///
    /// # Errors
    /// A sentence naming what is missing.
    pub fn build(
        documents: &Documents,
        workload: &Workload,
        config: &ProxyConfig,
        tokens: &JwtBundles,
        destinations: &Destinations,
    ) -> Result<Option<GatewayRules>, String> {
        if config.gateway.is_empty() {
            return Ok(None);
        }
        let policy = select(documents, workload)?;
        facts::check_bundles(&policy, config.gateway.iter())?;
        let mut providers: Vec<Arc<Provider>> =
            documents.providers.iter().map(|named| Arc::new(named.clone())).collect();
        let listed = |provider: &&Arc<Provider>| policy.user_providers.contains(&provider.name);
        let users = UserVerifier::new(providers.iter().filter(listed).cloned());
        let callers =
            super::callers::rules::build(&policy.callers, &documents.mesh, config, tokens)?;
        providers.extend(super::callers::rules::cluster_keys(&policy.callers).map(Arc::new));
        Ok(Some(GatewayRules {
            address: address_rules(&policy),
            routes: routes(config, destinations)?,
            attributes: facts::providers(documents),
            policy: Arc::new(policy),
            users,
            callers: callers.map(Arc::new),
            providers,
        }))
    }

    /// The route of a canonical host and path: the longest prefix wins, a named host before none.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| route.host.as_deref().is_none_or(|wanted| wanted == host))
            .filter(|route| covers(&route.prefix, path))
            .max_by_key(|route| (route.host.is_some(), route.prefix.len()))
    }
}

/// Whether a prefix covers a path at a segment boundary.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn select(documents: &Documents, workload: &Workload) -> Result<ContextPolicy, String> {
    let mut fitting = documents.gateways.iter().filter(|named| {
        named.namespace == workload.namespace
            && named.spec.role == ContextRole::Gateway
            && named.spec.selector.selects(&workload.labels)
    });
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only.spec.clone()),
        (None, _) => Err(format!(
            "no ContextPolicy (or `gateways` entry of MeshConfig) selects this gateway: namespace \
             `{}`, labels {:?}",
            workload.namespace, workload.labels
        )),
        (Some(one), Some(two)) => Err(format!(
            "two ContextPolicies select this gateway: {}/{} and {}/{}",
            one.namespace, one.name, two.namespace, two.name
        )),
    }
}

fn routes(config: &ProxyConfig, destinations: &Destinations) -> Result<Vec<Route>, String> {
    let resolve = |route: &countersign_config::Route| {
        let name = route.destination.to_string();
        let destination = destinations.by_name(&name).ok_or_else(|| {
            format!("gateway route {} leads to no Destination {name}", route.prefix)
        })?;
        if !destination.is_mesh() {
            let prefix = &route.prefix;
            return Err(format!("gateway route {prefix} leads out of the mesh, to {name}"));
        }
        if destination.foreign {
            let prefix = &route.prefix;
            return Err(format!(
                "gateway route {prefix} leads to {name}, of another trust domain, which takes no \
                 context of ours"
            ));
        }
        Ok(Route {
            host: route.host.clone(),
            prefix: route.prefix.clone(),
            destination: Arc::clone(destination),
            cors_preflight: route.cors_preflight,
        })
    };
    config.routes.iter().map(resolve).collect()
}

fn address_rules(policy: &ContextPolicy) -> AddressRules {
    AddressRules {
        trusted_hops: policy.client_address.trusted_hops,
        trusted_proxies: policy.client_address.trusted_proxies.clone(),
        from: match policy.client_address.from {
            ClientAddressFrom::XForwardedFor => AddressFrom::XForwardedFor,
            ClientAddressFrom::Forwarded => AddressFrom::Forwarded,
            ClientAddressFrom::ProxyProtocol => AddressFrom::ProxyProtocol,
            ClientAddressFrom::Peer => AddressFrom::Peer,
        },
    }
}

#[cfg(test)]
mod routes_tests {
    use super::covers;

    #[test]
    fn prefixes_end_at_segments() {
        assert!(covers("/", "/anything"));
        assert!(covers("/v1/users", "/v1/users"));
        assert!(covers("/v1/users", "/v1/users/42"));
        assert!(!covers("/v1/users", "/v1/users-admin"));
    }
}
