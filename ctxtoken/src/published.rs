//! Key sets as an issuer publishes them: for verifiers of this profile, and a plain view for those
//! that know JOSE only.
//!
//! Invariant: only public halves can get here, and what is written for our verifiers is what
//! [`KeySet::from_jwks_json`](crate::KeySet::from_jwks_json) accepts.

use std::fmt::Write as _;

use countersign_workload_id::WorkloadId;

use crate::{UnixTime, VerifyingKey, jwks::USE};

/// One key of a published set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// The public half.
    pub key: VerifyingKey,
    /// Not to be used before.
    pub not_before: Option<UnixTime>,
    /// Not to be used any more.
    pub expires: Option<UnixTime>,
}

impl PublishedKey {
    fn write(&self, out: &mut String, usage: &str, issuer: Option<&WorkloadId>) {
        let mut more = String::new();
        for (name, time) in [("nbf", self.not_before), ("exp", self.expires)] {
            if let Some(UnixTime(at)) = time {
                let _ = write!(more, r#","{name}":{at}"#);
            }
        }
        if let Some(issuer) = issuer {
            // A SPIFFE ID holds nothing that JSON would escape.
            let _ = write!(more, r#","iss":"{issuer}""#);
        }
        out.push_str(&self.key.jwk_with(usage, &more));
    }
}

/// The key set of an issuer for verifiers of this profile. `sequence` grows with every change.
pub fn issuer_jwks(
    issuer: &WorkloadId,
    keys: &[PublishedKey],
    sequence: u64,
    refresh_hint_s: u64,
) -> String {
    let mut out =
        format!(r#"{{"csign_sequence":{sequence},"csign_refresh_hint":{refresh_hint_s},"keys":["#);
    write_all(&mut out, keys, USE, Some(issuer));
    out
}

/// The same keys as any JOSE implementation reads them.
pub fn plain_jwks(keys: &[PublishedKey]) -> String {
    let mut out = r#"{"keys":["#.to_owned();
    write_all(&mut out, keys, "sig", None);
    out
}

fn write_all(out: &mut String, keys: &[PublishedKey], usage: &str, issuer: Option<&WorkloadId>) {
    for (index, key) in keys.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        key.write(out, usage, issuer);
    }
    out.push_str("]}");
}
