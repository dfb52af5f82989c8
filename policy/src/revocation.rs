//! What the `Revocation` documents in force say, indexed for the data path.
//!
//! Invariant: the documents form a union: an entry of one is never weakened by another. An entry
//! past the `expires` of its document says nothing. Nothing here allocates on a look-up.

use std::collections::HashMap;

use countersign_workload_id::WorkloadId;

use crate::Documents;

/// When entries end; the latest of all documents that name the same thing.
type Until = i64;

/// For one thing: instants before which it must not have been issued, each with its end.
type Before = Vec<(i64, Until)>;

/// What entries compare of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct RevocableLeaf<'a> {
    /// SHA-256 of its DER form.
    pub sha256: &'a [u8; 32],
    /// Whose it is.
    pub id: &'a WorkloadId,
    /// Start of validity, Unix milliseconds.
    pub not_before_ms: i64,
    /// UID of the pod it was issued to, if its signer said so.
    pub pod_uid: Option<&'a str>,
}

/// The union of all `Revocation` documents. Times are Unix milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    certificates: HashMap<[u8; 32], Until>,
    identities: HashMap<WorkloadId, Before>,
    pods: HashMap<String, Until>,
    issuer_keys: HashMap<WorkloadId, Vec<(String, Until)>>,
    users: HashMap<String, HashMap<String, Before>>,
    devices: HashMap<String, Until>,
    transactions: HashMap<String, Until>,
}

impl Revocations {
    /// The index of these documents.
    pub fn of(documents: &Documents) -> Revocations {
        let mut all = Revocations::default();
        for document in &documents.revocations {
            let revoked = &document.spec;
            let until = revoked.expires_ms;
            for sha256 in &revoked.certificates {
                extend(&mut all.certificates, sha256, until);
            }
            for entry in &revoked.identities {
                let before = all.identities.entry(entry.id.clone()).or_default();
                before.push((entry.issued_before_ms, until));
            }
            for key in &revoked.issuer_keys {
                let keys = all.issuer_keys.entry(key.identity.clone()).or_default();
                keys.push((key.kid.clone(), until));
            }
            for user in &revoked.users {
                let users = all.users.entry(user.provider.clone()).or_default();
                let before = users.entry(user.id.clone()).or_default();
                before.push((user.issued_before_ms, until));
            }
            let names = [
                (&revoked.pods, &mut all.pods),
                (&revoked.devices, &mut all.devices),
                (&revoked.transactions, &mut all.transactions),
            ];
            for (listed, index) in names {
                listed.iter().for_each(|name| extend(index, name, until));
            }
        }
        all
    }

    /// Whether nothing is revoked: what the data path asks first.
    pub fn is_empty(&self) -> bool {
        self.revokes_no_peer() && self.revokes_no_token()
    }

    /// Whether no certificate can be hit.
    pub fn revokes_no_peer(&self) -> bool {
        self.certificates.is_empty() && self.identities.is_empty() && self.pods.is_empty()
    }

    /// Whether no token can be hit.
    pub fn revokes_no_token(&self) -> bool {
        self.issuer_keys.is_empty()
            && self.users.is_empty()
            && self.devices.is_empty()
            && self.transactions.is_empty()
    }

    /// Which entry hits a certificate: `certificate`, `identity` or `pod`.
    pub fn leaf(&self, leaf: &RevocableLeaf<'_>, now_ms: i64) -> Option<&'static str> {
        if self.revokes_no_peer() {
            return None;
        }
        if self.certificate(leaf.sha256, now_ms) {
            return Some("certificate");
        }
        if self.identity(leaf.id, leaf.not_before_ms, now_ms) {
            return Some("identity");
        }
        leaf.pod_uid.is_some_and(|uid| self.pod(uid, now_ms)).then_some("pod")
    }

    /// The leaf with this SHA-256.
    pub fn certificate(&self, leaf_sha256: &[u8; 32], now_ms: i64) -> bool {
        holds(self.certificates.get(leaf_sha256), now_ms)
    }

    /// A certificate of this identity that begins at `not_before_ms`.
    pub fn identity(&self, id: &WorkloadId, not_before_ms: i64, now_ms: i64) -> bool {
        issued_too_early(self.identities.get(id), not_before_ms, now_ms)
    }

    /// A certificate of the pod with this UID.
    pub fn pod(&self, uid: &str, now_ms: i64) -> bool {
        holds(self.pods.get(uid), now_ms)
    }

    /// A token signed with this key.
    pub fn issuer_key(&self, issuer: &WorkloadId, kid: &str, now_ms: i64) -> bool {
        let keys = self.issuer_keys.get(issuer).into_iter().flatten();
        keys.filter(|(own, _)| own == kid).any(|(_, until)| now_ms < *until)
    }

    /// Whether any key of this issuer is revoked: only then a key's name is worth computing.
    pub fn names_issuer(&self, issuer: &WorkloadId) -> bool {
        self.issuer_keys.contains_key(issuer)
    }

    /// Whether a certificate of this identity may be hit: only then one that signed a token is worth
    /// reading.
    pub fn may_hit_leaf_of(&self, id: &WorkloadId) -> bool {
        !self.certificates.is_empty() || !self.pods.is_empty() || self.identities.contains_key(id)
    }

    /// A token of this user issued at `issued_ms`. Where the token does not say who vouches for the
    /// user, the user of any provider with this id is meant.
    pub fn user(&self, provider: Option<&str>, id: &str, issued_ms: i64, now_ms: i64) -> bool {
        let of =
            |users: &HashMap<String, Before>| issued_too_early(users.get(id), issued_ms, now_ms);
        match provider {
            Some(provider) => self.users.get(provider).is_some_and(of),
            None => self.users.values().any(of),
        }
    }

    /// A token made on this device.
    pub fn device(&self, id: &str, now_ms: i64) -> bool {
        holds(self.devices.get(id), now_ms)
    }

    /// A token of this transaction.
    pub fn transaction(&self, txn: &str, now_ms: i64) -> bool {
        holds(self.transactions.get(txn), now_ms)
    }
}

fn extend<K: Clone + Eq + std::hash::Hash>(index: &mut HashMap<K, Until>, key: &K, until: Until) {
    let known = index.entry(key.clone()).or_insert(until);
    *known = until.max(*known);
}

fn holds(until: Option<&Until>, now_ms: i64) -> bool {
    until.is_some_and(|until| now_ms < *until)
}

fn issued_too_early(entries: Option<&Before>, issued_ms: i64, now_ms: i64) -> bool {
    let mut entries = entries.into_iter().flatten();
    entries.any(|(before, until)| now_ms < *until && issued_ms < *before)
}

#[cfg(test)]
#[path = "tests/revocation.rs"]
mod tests;
