//! The SPIFFE bundle map: `{"trust_domains": {"<name>": {"keys": [...]}}}`, read from a file.
//!
//! Only `x509-svid` keys are taken; keys of other or unknown use are skipped, as the format asks.
//! A trust domain named twice refuses the whole map; one without any authority is one of which
//! nothing is valid (B-1), and takes nobody else along.

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
/// When it is not such a map, or nobody is trusted by it.
pub(crate) fn parse(text: &[u8]) -> Result<TrustBundles, BundleError> {
    let named = named(text)?.into_iter();
    let trusted: TrustBundles =
        named.filter_map(|(domain, bundle)| Some((domain, bundle?))).collect();
    if trusted.is_empty() { Err(BundleError::Empty) } else { Ok(trusted) }
}

/// Every trust domain a bundle map names; `None`: without any authority.
///
/// # Errors
/// When it is not such a map.
pub(crate) fn named(text: &[u8]) -> Result<BTreeMap<TrustDomain, Option<Bundle>>, BundleError> {
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

fn domain(name: &str, wire: BundleWire) -> Result<(TrustDomain, Option<Bundle>), BundleError> {
    let bad = |problem: &dyn fmt::Display| BundleError::BadMap(format!("\"{name}\": {problem}"));
    let domain = TrustDomain::parse(name).map_err(|error| bad(&error))?;
    let authorities = wire
        .keys
        .iter()
        .filter_map(KeyWire::authority)
        .map(|authority| authority.map_err(|problem| bad(&problem)))
        .collect::<Result<Vec<_>, _>>()?;
    if authorities.is_empty() {
        return Ok((domain, None));
    }
    let bundle = Bundle::from_certificates(authorities).map_err(|error| bad(&error))?;
    Ok((domain, Some(bundle)))
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
