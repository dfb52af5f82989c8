//! The copy of an input that is kept for explaining it later.
//!
//! Holds ids and attribute values as policy saw them: no token, and of headers only those that a
//! rule of the workload names.

use std::net::IpAddr;

use countersign_workload_id::WorkloadId;
use serde_json::{Map, Value};

use super::{
    Caller, ContextFacts, DeviceFacts, HeaderLookup, Input, JustificationFacts, Protocol, Request,
    SourceFacts, UserFacts,
};
use crate::path::CanonicalPath;

/// An owned copy of an [`Input`], for explaining it later.
#[derive(Clone, Debug)]
pub struct InputOwned {
    now_ms: i64,
    port: u16,
    caller: Result<WorkloadId, &'static str>,
    peer_ip: Option<IpAddr>,
    request: Option<RequestOwned>,
    context: Option<ContextOwned>,
}

#[derive(Clone, Debug)]
struct RequestOwned {
    method: String,
    host: String,
    path: CanonicalPath,
    protocol: Protocol,
    headers: Vec<(String, Vec<u8>)>,
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
    service: Option<WorkloadId>,
    source: Option<(IpAddr, String)>,
    device: Option<DeviceOwned>,
    justification: Option<JustificationOwned>,
    acting: bool,
    custody: bool,
    hops: Vec<WorkloadId>,
    params: Option<Map<String, Value>>,
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
            request: input.request.map(|request| RequestOwned {
                method: request.method.to_owned(),
                host: request.host.to_owned(),
                path: request.path.clone(),
                protocol: request.protocol,
                headers: Vec::new(),
            }),
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
        let Some(request) = &mut self.request else { return self };
        for name in names {
            let kept = &mut request.headers;
            headers.each(name, &mut |value| kept.push((name.to_owned(), value.to_vec())));
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
            request: self.request.as_ref().map(|request| Request {
                method: &request.method,
                host: &request.host,
                path: &request.path,
                protocol: request.protocol,
                headers: &request.headers,
            }),
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
            service: facts.service.cloned(),
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
            custody: facts.custody,
            hops: facts.hops.to_vec(),
            params: facts.params.cloned(),
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
            service: self.service.as_ref(),
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
            custody: self.custody,
            hops: &self.hops,
            params: self.params.as_ref(),
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
