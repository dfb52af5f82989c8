//! What a decision is made from: facts that somebody else proved.
//!
//! `proxy/src/inbound/decide.rs` fills an [`Input`] from the mTLS peer, the verified context token
//! and the request head. [`InputOwned`] is the copy kept for `countersign why`; it never holds a
//! token, and of headers only those a rule of the workload names.

mod owned;

use std::{collections::BTreeMap, net::IpAddr};

use countersign_workload_id::WorkloadId;
use serde_json::{Map, Value};

use crate::path::CanonicalPath;

pub use owned::InputOwned;

/// The workload decisions are made for: what selectors compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One request, or one opaque connection, to decide on.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// This proxy's clock, Unix milliseconds.
    pub now_ms: i64,
    /// The port the request was sent to.
    pub port: u16,
    /// Who calls.
    pub caller: Caller<'a>,
    /// The TCP peer's address.
    pub peer_ip: Option<IpAddr>,
    /// What is asked; `None`: a connection whose bytes are not looked into.
    pub request: Option<Request<'a>>,
    /// The verified context token's content, if there is one.
    pub context: Option<ContextFacts<'a>>,
}

/// The workload on the other end, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// Proven by mesh mTLS.
    Mesh(&'a WorkloadId),
    /// Not proven; the reason is for people, such as `plaintext`.
    Unauthenticated(&'static str),
}

/// The request head.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Method, case-sensitive.
    pub method: &'a str,
    /// Canonical host ([`crate::host::canonical_host`]); of CONNECT with its port
    /// ([`crate::host::canonical_authority`]).
    pub host: &'a str,
    /// Canonical path.
    pub path: &'a CanonicalPath,
    /// HTTP or gRPC.
    pub protocol: Protocol,
    /// Header fields.
    pub headers: &'a dyn HeaderLookup,
}

/// What kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Anything that is not gRPC.
    Http,
    /// `content-type: application/grpc*`.
    Grpc,
}

/// Access to header fields without knowing an HTTP library.
pub trait HeaderLookup {
    /// Calls `visit` with the value of every field line of this name, in order. `name` is lower
    /// case with `-`; a field matches if it is equal once lower-cased and with `_` read as `-`.
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8]));
}

/// A request without headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl HeaderLookup for NoHeaders {
    fn each(&self, _name: &str, _visit: &mut dyn FnMut(&[u8])) {}
}

/// Name and value pairs, names in any case.
impl HeaderLookup for [(String, Vec<u8>)] {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        for (own, value) in self {
            if header_names_equal(own, name) {
                visit(value);
            }
        }
    }
}

/// Whether `written` is the field `name` (lower case, `-`), in any case and with `_` for `-`.
pub fn header_names_equal(written: &str, name: &str) -> bool {
    written.len() == name.len()
        && written.bytes().zip(name.bytes()).all(|(a, b)| {
            let a = if a == b'_' { b'-' } else { a.to_ascii_lowercase() };
            a == b
        })
}

/// A verified context token, as far as policy may see it. Times are Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct ContextFacts<'a> {
    /// Transaction id.
    pub txn: &'a str,
    /// Purpose.
    pub scope: &'a [String],
    /// How the transaction began: `user`, `service`, `batch`, `async`, `foreign`.
    pub origin: &'a str,
    /// `iat`.
    pub issued_at: u64,
    /// `exp`.
    pub expires_at: u64,
    /// Where the request entered the mesh.
    pub entry: &'a WorkloadId,
    /// The end user.
    pub user: Option<UserFacts<'a>>,
    /// The workload that calls on its own behalf: the subject is `svc:<SPIFFE ID>`.
    pub service: Option<&'a WorkloadId>,
    /// The client's address at the gateway.
    pub source: Option<SourceFacts<'a>>,
    /// The client's device.
    pub device: Option<DeviceFacts<'a>>,
    /// Why the user wants it.
    pub justification: Option<JustificationFacts<'a>>,
    /// `act` is present: a worker acts for the subject.
    pub acting: bool,
    /// Custody is proven: the token came over `hops` and nobody else.
    pub custody: bool,
    /// Who held the token before this workload, oldest first; empty if nothing is proven.
    pub hops: &'a [WorkloadId],
    /// Parameters of the entry request that were signed.
    pub params: Option<&'a Map<String, Value>>,
}

/// The end user. `None` means: the token does not say.
#[derive(Clone, Copy, Debug)]
pub struct UserFacts<'a> {
    /// Id without `user:` and provider prefix.
    pub id: &'a str,
    /// Name of the identity provider (`rctx.idp`).
    pub provider: Option<&'a str>,
    /// Account id (`rctx.acct`).
    pub account: Option<&'a str>,
    /// Groups (`rctx.groups`).
    pub groups: Option<&'a [String]>,
    /// Login time, Unix seconds.
    pub auth_time: Option<u64>,
    /// Authentication methods.
    pub amr: &'a [String],
    /// Authentication context class.
    pub acr: Option<&'a str>,
    /// Declared extra claims.
    pub claims: Option<&'a Map<String, Value>>,
}

/// The client's address and how it was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFacts<'a> {
    /// The address.
    pub ip: IpAddr,
    /// `rctx.ip_src`: `peer`, `pp2`, `xff:1`, …
    pub via: &'a str,
}

/// The client's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts<'a> {
    /// Device id.
    pub id: Option<&'a str>,
    /// Trust tier.
    pub tier: Option<&'a str>,
    /// Managed by the company.
    pub managed: Option<bool>,
    /// Where this comes from.
    pub src: Option<&'a str>,
    /// Posture time, Unix seconds.
    pub at: Option<u64>,
}

/// A captured justification.
#[derive(Clone, Copy, Debug)]
pub struct JustificationFacts<'a> {
    /// Such as `ticket`.
    pub kind: &'a str,
    /// Such as `SUP-1234`.
    pub reference: &'a str,
    /// A validator accepted it.
    pub checked: bool,
    /// When, Unix seconds.
    pub at: Option<u64>,
    /// What the validator said.
    pub facts: Option<&'a Map<String, Value>>,
}
