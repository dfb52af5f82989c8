//! What a decision is made from: facts that somebody else proved.
//!
//! `proxy/src/inbound/decide.rs` fills an [`Input`] from the mTLS peer, the verified context token
//! and the request head. [`InputOwned`] is the copy kept for `countersign why`; it never holds a
//! token, and of headers only those a rule of the workload names.

use std::{collections::BTreeMap, net::IpAddr};

use countersign_workload_id::WorkloadId;
use serde_json::{Map, Value};

use crate::path::CanonicalPath;

/// The workload decisions are made for: what selectors compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One request to decide on.
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
    /// What is asked.
    pub request: Request<'a>,
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
    /// Canonical host ([`crate::host::canonical_host`]).
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
    /// The client's address at the gateway.
    pub source: Option<SourceFacts<'a>>,
    /// The client's device.
    pub device: Option<DeviceFacts<'a>>,
    /// Why the user wants it.
    pub justification: Option<JustificationFacts<'a>>,
    /// `act` is present: a worker acts for the subject.
    pub acting: bool,
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

/// An owned copy of an [`Input`], for explaining it later.
#[derive(Clone, Debug)]
pub struct InputOwned {
    now_ms: i64,
    port: u16,
    caller: Result<WorkloadId, &'static str>,
    peer_ip: Option<IpAddr>,
    method: String,
    host: String,
    path: CanonicalPath,
    protocol: Protocol,
    headers: Vec<(String, Vec<u8>)>,
    context: Option<ContextOwned>,
}

#[derive(Clone, Debug)]
struct ContextOwned {
    txn: String,
    scope: Vec<String>,
    origin: String,
    issued_at: u64,
    expires_at: u64,
    entry: WorkloadId,
    user: Option<UserOwned>,
    source: Option<(IpAddr, String)>,
    device: Option<DeviceOwned>,
    justification: Option<JustificationOwned>,
    acting: bool,
}

#[derive(Clone, Debug)]
struct UserOwned {
    id: String,
    provider: Option<String>,
    account: Option<String>,
    groups: Option<Vec<String>>,
    auth_time: Option<u64>,
    amr: Vec<String>,
    acr: Option<String>,
    claims: Option<Map<String, Value>>,
}

#[derive(Clone, Debug)]
struct DeviceOwned {
    id: Option<String>,
    tier: Option<String>,
    managed: Option<bool>,
    src: Option<String>,
    at: Option<u64>,
}

#[derive(Clone, Debug)]
struct JustificationOwned {
    kind: String,
    reference: String,
    checked: bool,
    at: Option<u64>,
    facts: Option<Map<String, Value>>,
}

/// Without headers; [`crate::Compiled::keep`] also keeps those the rules name.
impl From<&Input<'_>> for InputOwned {
    fn from(input: &Input<'_>) -> Self {
        Self {
            now_ms: input.now_ms,
            port: input.port,
            caller: match input.caller {
                Caller::Mesh(id) => Ok(id.clone()),
                Caller::Unauthenticated(why) => Err(why),
            },
            peer_ip: input.peer_ip,
            method: input.request.method.to_owned(),
            host: input.request.host.to_owned(),
            path: input.request.path.clone(),
            protocol: input.request.protocol,
            headers: Vec::new(),
            context: input.context.as_ref().map(ContextOwned::of),
        }
    }
}

impl InputOwned {
    /// Adds the values of these headers (lower-case names).
    pub(crate) fn with_headers<'n>(
        mut self,
        names: impl Iterator<Item = &'n str>,
        headers: &dyn HeaderLookup,
    ) -> Self {
        for name in names {
            headers.each(name, &mut |value| self.headers.push((name.to_owned(), value.to_vec())));
        }
        self
    }

    /// The borrowed form, to decide or explain again.
    pub fn as_input(&self) -> Input<'_> {
        Input {
            now_ms: self.now_ms,
            port: self.port,
            caller: match &self.caller {
                Ok(id) => Caller::Mesh(id),
                Err(why) => Caller::Unauthenticated(why),
            },
            peer_ip: self.peer_ip,
            request: Request {
                method: &self.method,
                host: &self.host,
                path: &self.path,
                protocol: self.protocol,
                headers: &self.headers,
            },
            context: self.context.as_ref().map(ContextOwned::facts),
        }
    }
}

impl HeaderLookup for Vec<(String, Vec<u8>)> {
    fn each(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        self.as_slice().each(name, visit);
    }
}

impl ContextOwned {
    fn of(facts: &ContextFacts<'_>) -> Self {
        Self {
            txn: facts.txn.to_owned(),
            scope: facts.scope.to_vec(),
            origin: facts.origin.to_owned(),
            issued_at: facts.issued_at,
            expires_at: facts.expires_at,
            entry: facts.entry.clone(),
            user: facts.user.as_ref().map(UserOwned::of),
            source: facts.source.map(|s| (s.ip, s.via.to_owned())),
            device: facts.device.map(|d| DeviceOwned {
                id: d.id.map(str::to_owned),
                tier: d.tier.map(str::to_owned),
                managed: d.managed,
                src: d.src.map(str::to_owned),
                at: d.at,
            }),
            justification: facts.justification.map(|j| JustificationOwned {
                kind: j.kind.to_owned(),
                reference: j.reference.to_owned(),
                checked: j.checked,
                at: j.at,
                facts: j.facts.cloned(),
            }),
            acting: facts.acting,
        }
    }

    fn facts(&self) -> ContextFacts<'_> {
        ContextFacts {
            txn: &self.txn,
            scope: &self.scope,
            origin: &self.origin,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            entry: &self.entry,
            user: self.user.as_ref().map(UserOwned::facts),
            source: self.source.as_ref().map(|(ip, via)| SourceFacts { ip: *ip, via }),
            device: self.device.as_ref().map(|d| DeviceFacts {
                id: d.id.as_deref(),
                tier: d.tier.as_deref(),
                managed: d.managed,
                src: d.src.as_deref(),
                at: d.at,
            }),
            justification: self.justification.as_ref().map(|j| JustificationFacts {
                kind: &j.kind,
                reference: &j.reference,
                checked: j.checked,
                at: j.at,
                facts: j.facts.as_ref(),
            }),
            acting: self.acting,
        }
    }
}

impl UserOwned {
    fn of(user: &UserFacts<'_>) -> Self {
        Self {
            id: user.id.to_owned(),
            provider: user.provider.map(str::to_owned),
            account: user.account.map(str::to_owned),
            groups: user.groups.map(<[String]>::to_vec),
            auth_time: user.auth_time,
            amr: user.amr.to_vec(),
            acr: user.acr.map(str::to_owned),
            claims: user.claims.cloned(),
        }
    }

    fn facts(&self) -> UserFacts<'_> {
        UserFacts {
            id: &self.id,
            provider: self.provider.as_deref(),
            account: self.account.as_deref(),
            groups: self.groups.as_deref(),
            auth_time: self.auth_time,
            amr: &self.amr,
            acr: self.acr.as_deref(),
            claims: self.claims.as_ref(),
        }
    }
}
