//! Hop records: who passed a token on to whom. The token names its first holder (`rctx.to`); every
//! workload that passes it on adds one signed record, and a receiver accepts it only from the
//! workload that this path has arrived at ([`check_custody`]).
//!
//! ```text
//! Countersign-Hops: <record 0>, <record 1>, …        RFC 9651 List of bare Tokens, oldest first
//! header   {"alg","typ":"csign-hop+jwt","kid":<SHA-256 of the signer's leaf certificate>}
//! payload  {"sub","aud","iat","n","tth":<SHA-256 of the token>,"prev"?,"scope"?}
//! ```
//!
//! Invariant: a [`HopList`] is well-formed and nothing more. What its records say is believed by
//! nobody but [`check_custody`], which compares every one with the token, with its neighbours and
//! with a certificate of the workload it names.

mod append;
mod check;
mod read;
mod seen;

pub use append::{NewHop, append};
pub use check::{Custody, CustodyWith, HopKeys, check_custody};
pub use seen::VerifiedHops;

use std::{fmt, ops::Range};

use countersign_workload_id::WorkloadId;

use crate::{Algorithm, UnixTime};

/// Media type of a hop record: no other token of ours can be taken for one, nor one for another.
const TYP: &str = "csign-hop+jwt";

/// Records between two of which stand these bytes.
const SEPARATOR: &str = ", ";

/// The value of one `Countersign-Hops` field: at least one record, oldest first, nothing verified.
#[derive(Clone, PartialEq, Eq)]
pub struct HopList {
    /// The records with `", "` between them.
    text: String,
    records: Vec<Record>,
}

/// One record, read. Its text is a range of the list's.
#[derive(Clone, PartialEq, Eq)]
struct Record {
    text: Range<usize>,
    /// How many bytes of the text are signed: header, payload and the dot between them.
    signed: usize,
    signature: Vec<u8>,
    algorithm: Algorithm,
    /// `kid`: SHA-256 of the signer's leaf certificate.
    thumbprint: [u8; 32],
    sub: WorkloadId,
    aud: WorkloadId,
    iat: UnixTime,
    n: u64,
    tth: [u8; 32],
    prev: Option<[u8; 32]>,
    scope: Option<Vec<String>>,
}

impl HopList {
    /// The field value: the records as they were sent, with one spelling of what is between them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number of records, at least one.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never true; a list without records is no list.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What the records say: from whom to whom, oldest first.
    pub fn path(&self) -> impl ExactSizeIterator<Item = (&WorkloadId, &WorkloadId)> {
        self.records.iter().map(|record| (&record.sub, &record.aud))
    }

    /// The names of the signers' leaf certificates, oldest first.
    pub fn thumbprints(&self) -> impl ExactSizeIterator<Item = &[u8; 32]> {
        self.records.iter().map(|record| &record.thumbprint)
    }

    /// When the newest record was made, by its signer's clock.
    pub fn newest(&self) -> UnixTime {
        self.records.last().map_or(UnixTime::default(), |record| record.iat)
    }

    /// The scope the newest record that names one leaves; `None` where the token's own still holds.
    pub fn scope(&self) -> Option<&[String]> {
        self.records.iter().rev().find_map(|record| record.scope.as_deref())
    }

    /// Whether both lists lead over the same workloads to the same scope. They may differ in
    /// bytes: two records of one hand-over are made at different times.
    pub fn leads_as(&self, other: &Self) -> bool {
        let scopes = |list: &Self| -> Option<Vec<String>> {
            let mut names = list.scope()?.to_vec();
            names.sort_unstable();
            Some(names)
        };
        self.path().eq(other.path()) && scopes(self) == scopes(other)
    }

    fn text_of(&self, record: &Record) -> &str {
        self.text.get(record.text.clone()).unwrap_or_default()
    }
}

/// Records are shown by whom they name, never by their text: a list is worth something beside its
/// token.
impl fmt::Debug for HopList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HopList(")?;
        for (sub, aud) in self.path() {
            write!(f, " {sub} -> {aud}")?;
        }
        f.write_str(" )")
    }
}
