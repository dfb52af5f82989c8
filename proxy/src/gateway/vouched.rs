//! Headers of identity-aware proxies: which fields carry facts, and whose say counts.
//!
//! Invariant: a fact is read only from a connection whose certificate is the configured proxy's, now.
//! The fields are taken out of every request, whoever sent them, before anything goes on.

use std::sync::Arc;

use countersign_certs_client::ClientNames;
use countersign_policy::doc::{ContextPolicy, DeviceSource, VouchingProxy};
use http::{HeaderMap, HeaderName};

/// Fields that carry facts, as they came.
#[derive(Default)]
pub struct Taken {
    fields: HeaderMap,
    count: usize,
}

/// Takes every field out that any configured proxy may set, in any spelling of `-`.
pub fn take(policy: &ContextPolicy, headers: &mut HeaderMap) -> Taken {
    let mut taken = Taken::default();
    let names: Vec<&str> = names(policy).collect();
    if names.is_empty() {
        return taken;
    }
    let is_one = |name: &HeaderName| {
        let spelled = name.as_str().replace('_', "-");
        names.iter().any(|own| *own == spelled)
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_one(name)).cloned().collect();
    for name in found {
        let spelled = HeaderName::try_from(name.as_str().replace('_', "-"));
        for value in headers.get_all(&name) {
            taken.count += 1;
            if let Ok(spelled) = &spelled {
                taken.fields.append(spelled, value.clone());
            }
        }
        headers.remove(&name);
    }
    taken
}

/// Every field that some configured proxy may set.
fn names(policy: &ContextPolicy) -> impl Iterator<Item = &str> {
    let groups = policy.proxies.iter().filter_map(|proxy| proxy.groups.as_ref());
    let groups = groups.map(|groups| groups.header.as_str());
    let device = policy.device.sources.iter().flat_map(|source| match source {
        DeviceSource::Header { id, tier, managed, at, .. } => {
            let more = [tier, managed, at].into_iter().filter_map(Option::as_deref);
            std::iter::once(id.as_str()).chain(more).collect()
        }
        DeviceSource::ClientCertificate { .. } | DeviceSource::Claim { .. } => Vec::new(),
    });
    groups.chain(device)
}

impl Taken {
    /// How many fields were taken.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The one value of a field; `None` if there is none, and where there are several.
    pub fn one(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => only.to_str().ok().map(str::trim).filter(|text| !text.is_empty()),
            _ => None,
        }
    }

    /// Whether a field came at all.
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }
}

/// The proxies whose certificate the client of this connection holds.
pub fn proxies<'p>(
    policy: &'p ContextPolicy,
    vouching: &[Arc<str>],
    names: Option<&ClientNames>,
) -> Vec<&'p VouchingProxy> {
    let Some(names) = names else { return Vec::new() };
    let is = |proxy: &&VouchingProxy| {
        let by = vouching.iter().any(|name| **name == *proxy.trust_bundle);
        let named = |own: &String| proxy.dns.iter().any(|dns| dns.eq_ignore_ascii_case(own));
        by && names.dns.iter().any(named)
    };
    policy.proxies.iter().filter(is).collect()
}

/// The groups that a proxy says the user is in; `None` if it does not say.
pub fn groups(taken: &Taken, proxies: &[&VouchingProxy]) -> Option<(Vec<String>, String)> {
    proxies.iter().find_map(|proxy| {
        let rules = proxy.groups.as_ref()?;
        let value = taken.one(&rules.header)?;
        let mut groups: Vec<String> = value
            .split(',')
            .map(str::trim)
            .filter(|name| rules.keep.iter().any(|kept| kept == name))
            .map(str::to_owned)
            .collect();
        groups.sort();
        groups.dedup();
        Some((groups, format!("header:{}", proxy.name)))
    })
}

/// A gateway with these sources and proxies, for tests.
#[cfg(test)]
pub(super) fn policy_for_tests(
    sources: Vec<DeviceSource>,
    proxies: Vec<VouchingProxy>,
) -> ContextPolicy {
    use countersign_policy::doc::{
        ClientAddress, ClientAddressFrom, ContextRole, DeviceRules, Selector, WhenMissing,
    };
    ContextPolicy {
        selector: Selector::All,
        role: ContextRole::Gateway,
        client_address: ClientAddress {
            trusted_hops: 0,
            trusted_proxies: Vec::new(),
            from: ClientAddressFrom::Peer,
        },
        user_providers: Vec::new(),
        when_missing: WhenMissing::Anonymous,
        callers: Default::default(),
        groups_from: None,
        proxies,
        device: DeviceRules { sources, validate: None },
        justification_kinds: Default::default(),
        mint: Vec::new(),
        token_service: None,
    }
}
