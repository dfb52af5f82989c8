//! The client's device: from its certificate, from a proxy that vouches, from the user's token.
//!
//! Invariant: every fact has one source, which travels with it. A source that speaks of a device and
//! cannot be understood establishes nothing, and no other one is asked instead. Pure.

use std::sync::Arc;

use countersign_certs_client::ClientNames;
use countersign_ctxtoken::{Device, DeviceSource as Source, UnixTime};
use countersign_policy::doc::{CertificateName, DeviceRules, DeviceSource, VouchingProxy};
use serde_json::{Map, Value};

use crate::clock::Now;
use crate::gateway::identify::EndUser;
use crate::gateway::vouched::Taken;

/// Longest id of a device.
const ID_BYTES_MAX: usize = 128;
/// Longest tier.
const TIER_BYTES_MAX: usize = 64;
/// How far the clock of whoever saw a posture may be ahead of ours, seconds.
const SKEW_S: u64 = 60;

/// What there is to learn a device from.
pub struct Seen<'a> {
    /// Authorities that vouch for the client's certificate now.
    pub vouching: &'a [Arc<str>],
    /// The names in that certificate.
    pub names: Option<&'a ClientNames>,
    /// Proxies whose certificate it is.
    pub proxies: &'a [&'a VouchingProxy],
    /// Fields that carry facts.
    pub taken: &'a Taken,
    /// The user.
    pub user: Option<&'a EndUser>,
}

/// The device, as the first source that knows one says.
pub fn find(rules: &DeviceRules, seen: &Seen<'_>, now: Now) -> Option<Device> {
    let told = rules.sources.iter().find_map(|source| of(source, seen, now))?;
    told.filter(|device| {
        let tier = device.tier.as_deref();
        is_text(&device.id, ID_BYTES_MAX) && tier.is_none_or(|tier| is_text(tier, TIER_BYTES_MAX))
    })
}

fn is_text(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What one source says: nothing, or of a device that may not be understood.
fn of(source: &DeviceSource, seen: &Seen<'_>, now: Now) -> Option<Option<Device>> {
    match source {
        DeviceSource::ClientCertificate { trust_bundle, id, tier, managed } => {
            let vouched = seen.vouching.iter().any(|name| **name == **trust_bundle);
            let names = seen.names.filter(|_| vouched)?;
            let id = name(names, *id);
            Some(id.map(|id| Device {
                id: id.to_owned(),
                tier: tier.clone(),
                managed: *managed,
                src: Source::Mtls,
                at: Some(UnixTime(names.not_before)),
            }))
        }
        DeviceSource::Header { proxy, id, tier, managed, at } => {
            let vouches = seen.proxies.iter().any(|one| one.name == *proxy);
            if !vouches || !seen.taken.has(id) {
                return None;
            }
            let fields = Fields {
                id,
                tier: tier.as_deref(),
                managed: managed.as_deref(),
                at: at.as_deref(),
            };
            Some(fields.read(proxy, seen.taken, now))
        }
        DeviceSource::Claim { provider, id, tier, managed } => {
            let user = seen.user.filter(|user| user.provider() == provider)?;
            let claims = user.claims();
            let id = claims.get(id)?.as_str();
            Some(id.map(|id| Device {
                id: id.to_owned(),
                tier: text(claims, tier.as_deref()),
                managed: managed.as_deref().and_then(|name| claims.get(name)?.as_bool()),
                src: Source::IdentityProvider,
                at: None,
            }))
        }
    }
}

fn text(claims: &Map<String, Value>, name: Option<&str>) -> Option<String> {
    claims.get(name?)?.as_str().map(str::to_owned)
}

fn name(names: &ClientNames, which: CertificateName) -> Option<&str> {
    match which {
        CertificateName::CommonName => names.common_name.as_deref(),
        CertificateName::Dns => one(&names.dns),
        CertificateName::Uri => one(&names.uris),
    }
}

fn one(all: &[String]) -> Option<&str> {
    match all {
        [one] => Some(one),
        _ => None,
    }
}

/// The names of the fields of a proxy.
struct Fields<'a> {
    id: &'a str,
    tier: Option<&'a str>,
    managed: Option<&'a str>,
    at: Option<&'a str>,
}

impl Fields<'_> {
    /// A field that is there and is not understood makes all of it nothing.
    fn read(&self, proxy: &str, taken: &Taken, now: Now) -> Option<Device> {
        let optional = |name: Option<&str>| match name {
            Some(name) if taken.has(name) => taken.one(name).map(Some),
            Some(_) | None => Some(None),
        };
        let managed = match optional(self.managed)? {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return None,
        };
        let at = match optional(self.at)? {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|at| *at <= now.secs() + SKEW_S)?),
        };
        Some(Device {
            id: taken.one(self.id)?.to_owned(),
            tier: optional(self.tier)?.map(str::to_owned),
            managed,
            src: Source::Header(proxy.to_owned()),
            at: at.map(UnixTime),
        })
    }
}

/// What a validator says of a device, in place of what its source said. `None` if it saw the device
/// before 1970 or after it answered, as one does that counts in milliseconds: such a posture would
/// never be too old.
pub fn validated(device: Device, facts: &Map<String, Value>, answered_at: u64) -> Option<Device> {
    let seen = match facts.get("at") {
        None => answered_at,
        Some(at) => at.as_u64().filter(|at| *at <= answered_at + SKEW_S)?,
    };
    Some(Device {
        tier: text(facts, Some("tier")),
        managed: facts.get("managed").and_then(Value::as_bool),
        at: Some(UnixTime(seen)),
        ..device
    })
}

/// A device about which its validator said nothing: only which one it is.
pub fn unvalidated(device: Device) -> Device {
    Device { tier: None, managed: None, at: None, ..device }
}

#[cfg(test)]
#[path = "tests/device.rs"]
mod tests;
