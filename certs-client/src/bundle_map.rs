//! The SPIFFE bundle map: `{"trust_domains": {"<name>": {"keys": [...]}}}`, read from a file.
//!
//! Only `x509-svid` keys are taken; keys of other or unknown use are skipped, as the format asks.
//! A trust domain named twice, or one without any authority, refuses the whole map.

use std::{collections::BTreeMap, fmt};

use countersign_config::limits::TRUST_DOMAINS_MAX;
use countersign_workload_id::TrustDomain;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{
    bundle::{Bundle, BundleError, TrustBundles},
    bundle_doc::KeyWire,
};

#[derive(Deserialize)]
struct MapWire {
    trust_domains: DomainsWire,
}

struct DomainsWire(BTreeMap<String, BundleWire>);

#[derive(Deserialize)]
struct BundleWire {
    keys: Vec<KeyWire>,
}

/// Reads a bundle map, whole or not at all.
///
/// # Errors
/// When it is not such a map, or a domain in it has no usable authority.
pub(crate) fn parse(text: &[u8]) -> Result<TrustBundles, BundleError> {
    let map: MapWire =
        serde_json::from_slice(text).map_err(|error| BundleError::BadMap(error.to_string()))?;
    let DomainsWire(domains) = map.trust_domains;
    if domains.is_empty() {
        return Err(BundleError::Empty);
    }
    if domains.len() > TRUST_DOMAINS_MAX {
        return Err(BundleError::BadMap(format!("{} trust domains", domains.len())));
    }
    domains.into_iter().map(|(name, wire)| domain(&name, wire)).collect()
}

fn domain(name: &str, wire: BundleWire) -> Result<(TrustDomain, Bundle), BundleError> {
    let bad = |problem: &dyn fmt::Display| BundleError::BadMap(format!("\"{name}\": {problem}"));
    let domain = TrustDomain::parse(name).map_err(|error| bad(&error))?;
    let authorities = wire
        .keys
        .iter()
        .filter_map(KeyWire::authority)
        .map(|authority| authority.map_err(|problem| bad(&problem)))
        .collect::<Result<Vec<_>, _>>()?;
    if authorities.is_empty() {
        return Err(bad(&"no x509-svid key"));
    }
    let bundle = Bundle::from_certificates(authorities).map_err(|error| bad(&error))?;
    Ok((domain, bundle))
}

impl<'de> Deserialize<'de> for DomainsWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DomainsWire, D::Error> {
        deserializer.deserialize_map(NoDuplicates)
    }
}

struct NoDuplicates;

impl<'de> Visitor<'de> for NoDuplicates {
    type Value = DomainsWire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of trust domains")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DomainsWire, A::Error> {
        let mut domains = BTreeMap::new();
        while let Some((name, bundle)) = map.next_entry::<String, BundleWire>()? {
            if domains.insert(name.clone(), bundle).is_some() {
                return Err(A::Error::custom(format!("trust domain \"{name}\" is named twice")));
            }
        }
        Ok(DomainsWire(domains))
    }
}
