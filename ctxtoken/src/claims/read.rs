//! JSON to [`RequestContext`]. Runs on bytes whose signature was verified and whose shape passed
//! [`json::check`](crate::json): names are unique, depth and sizes are bounded. What is left is
//! types (an object is never read from an array, null is never an absent value), required
//! members, and the value rules.

use std::{fmt, marker::PhantomData, net::IpAddr};

use countersign_workload_id::{TrustDomain, WorkloadId};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use super::{
    Approval, Device, DeviceSource, IngressWorkload, IpSource, JsonMap, Justification, Origin,
    Rctx, RequestContext, SenderConstraint, Subject, Tctx, TlsFacts, check_body, check_txn,
};
use crate::{
    ClaimProblem, InvalidContext, UnixTime,
    json::{INTEGER_MAX, Text},
    jws,
};

/// What most IDs of a token are or belong to: one of these is shared where the text is the same,
/// which spares checking and copying it.
#[derive(Clone, Copy)]
pub(crate) struct Near<'a> {
    pub(crate) domain: &'a TrustDomain,
    pub(crate) ids: &'a [WorkloadId],
}

impl<'a> Near<'a> {
    pub(crate) fn domain(domain: &'a TrustDomain) -> Self {
        Self { domain, ids: &[] }
    }
}

/// Reads the payload of a token.
pub(crate) fn parse(json: &str, near: Near<'_>) -> Result<RequestContext, InvalidContext> {
    let wire: ClaimsWire<'_> = serde_json::from_str(json).map_err(|e| blamed(&e))?;
    let context = wire.convert(near)?;
    check_body(
        &context.aud,
        &context.sub,
        &context.scope,
        &context.rctx,
        &context.tctx,
        context.act.as_ref(),
    )?;
    Ok(context)
}

/// A struct for one JSON object: every member optional, unknown ones skipped, an error blamed on
/// the member it occurred in.
macro_rules! wire_object {
    ($name:ident<$lt:lifetime> at $prefix:literal { $($field:ident $key:literal: $ty:ty),+ $(,)? }) => {
        #[derive(Default)]
        struct $name<$lt> {
            $($field: Option<$ty>,)+
            borrows: PhantomData<&$lt str>,
        }

        impl $name<'_> {
            const NAMES: &'static [&'static str] = &[$(concat!($prefix, $key)),+];
        }

        impl<'de: $lt, $lt> Deserialize<'de> for $name<$lt> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;

                impl<'de> Visitor<'de> for Members {
                    type Value = $name<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name<'de>, A::Error> {
                        let mut wire = $name::default();
                        while let Some(name) = map.next_key::<Text<'de>>()? {
                            match &*name.0 {
                                $($key => {
                                    let value = map.next_value();
                                    wire.$field =
                                        Some(value.map_err(|e| blame(e, concat!($prefix, $key)))?);
                                })+
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(wire)
                    }
                }

                deserializer.deserialize_map(Members)
            }
        }
    };
}

wire_object!(ClaimsWire<'a> at "" {
    iss "iss": Text<'a>,
    aud "aud": Text<'a>,
    iat "iat": Integer,
    exp "exp": Integer,
    nbf "nbf": Integer,
    txn "txn": String,
    jti "jti": String,
    sub "sub": Text<'a>,
    scope "scope": Text<'a>,
    req_wl "req_wl": Text<'a>,
    rctx "rctx": RctxWire<'a>,
    tctx "tctx": TctxWire<'a>,
    act "act": ActWire<'a>,
    cnf "cnf": IgnoredAny,
});

wire_object!(ActWire<'a> at "act." { sub "sub": Text<'a> });

wire_object!(RctxWire<'a> at "rctx." {
    v "v": Integer,
    origin "origin": Text<'a>,
    to "to": Text<'a>,
    req_ip "req_ip": Text<'a>,
    ip_src "ip_src": Text<'a>,
    idp "idp": String,
    client_id "client_id": String,
    acr "acr": String,
    auth_time "auth_time": Integer,
    authn "authn": String,
    amr "amr": Vec<String>,
    acct "acct": String,
    groups "groups": Vec<String>,
    groups_src "groups_src": String,
    claims "claims": JsonMap,
    dev "dev": DevWire<'a>,
    tls "tls": TlsWire<'a>,
    sc "sc": Text<'a>,
    just "just": JustWire<'a>,
    appr "appr": Vec<ApprovalWire<'a>>,
    bg "bg": bool,
    wl "wl": WorkloadWire<'a>,
    src_td "src_td": Text<'a>,
    src_txn "src_txn": String,
});

wire_object!(DevWire<'a> at "rctx.dev." {
    id "id": String,
    tier "tier": String,
    managed "managed": bool,
    src "src": Text<'a>,
    at "at": Integer,
});

wire_object!(TlsWire<'a> at "rctx.tls." { v "v": String, sni "sni": String, cert "cert": String });

wire_object!(JustWire<'a> at "rctx.just." {
    kind "kind": String,
    reference "ref": String,
    by "by": String,
    checked "checked": bool,
    at "at": Integer,
    facts "facts": JsonMap,
});

wire_object!(ApprovalWire<'a> at "rctx.appr." { sub "sub": String, at "at": Integer });

wire_object!(WorkloadWire<'a> at "rctx.wl." {
    pod "pod": String,
    node "node": String,
    img "img": String,
    slsa "slsa": Integer,
});

wire_object!(TctxWire<'a> at "tctx." {
    m "m": String,
    h "h": String,
    p "p": String,
    params "params": JsonMap,
    deadline "deadline": Integer,
    parent "parent": String,
    parent_txn "parent_txn": String,
    req_chain "req_chain": Vec<Text<'a>>,
});

mod grant;

pub(crate) use grant::{GrantClaims, parse_grant};

impl ClaimsWire<'_> {
    fn convert(self, near: Near<'_>) -> Result<RequestContext, InvalidContext> {
        if self.cnf.is_some() {
            return Err(InvalidContext { claim: "cnf", problem: ClaimProblem::Forbidden });
        }
        let txn = required("txn", self.txn)?;
        check_txn("txn", &txn)?;
        Ok(RequestContext {
            iss: id("iss", &required("iss", self.iss)?, near)?,
            aud: trust_domain("aud", &required("aud", self.aud)?, near)?,
            iat: required("iat", self.iat)?.0,
            exp: required("exp", self.exp)?.0,
            nbf: self.nbf.map(|n| n.0),
            txn,
            jti: jti(required("jti", self.jti)?)?,
            sub: parsed("sub", Subject::parse(&required("sub", self.sub)?.0))?,
            scope: scope(&required("scope", self.scope)?),
            req_wl: id("req_wl", &required("req_wl", self.req_wl)?, near)?,
            rctx: required("rctx", self.rctx)?.convert(near)?,
            tctx: self.tctx.map_or(Ok(Tctx::default()), |tctx| tctx.convert(near))?,
            act: self
                .act
                .map(|act| id("act.sub", &required("act.sub", act.sub)?, near))
                .transpose()?,
        })
    }
}

impl RctxWire<'_> {
    fn convert(self, near: Near<'_>) -> Result<Rctx, InvalidContext> {
        if required("rctx.v", self.v)?.0 != UnixTime(1) {
            return Err(InvalidContext { claim: "rctx.v", problem: ClaimProblem::UnknownVersion });
        }
        Ok(Rctx {
            origin: parsed("rctx.origin", Origin::parse(&required("rctx.origin", self.origin)?.0))?,
            to: id("rctx.to", &required("rctx.to", self.to)?, near)?,
            req_ip: optional("rctx.req_ip", self.req_ip, canonical_ip)?,
            ip_src: optional("rctx.ip_src", self.ip_src, IpSource::parse)?,
            idp: self.idp,
            client_id: self.client_id,
            acr: self.acr,
            auth_time: self.auth_time.map(|n| n.0),
            authn: self.authn,
            amr: self.amr,
            acct: self.acct,
            groups: self.groups,
            groups_src: self.groups_src,
            claims: self.claims,
            dev: self.dev.map(DevWire::convert).transpose()?,
            tls: self.tls.map(|tls| TlsFacts { v: tls.v, sni: tls.sni, cert: tls.cert }),
            sc: optional("rctx.sc", self.sc, SenderConstraint::parse)?,
            just: self.just.map(JustWire::convert).transpose()?,
            appr: self.appr.map(approvals).transpose()?,
            bg: self.bg,
            wl: self.wl.map(|wl| IngressWorkload {
                pod: wl.pod,
                node: wl.node,
                img: wl.img,
                slsa: wl.slsa.map(|level| level.0.0),
            }),
            src_td: self.src_td.map(|td| trust_domain("rctx.src_td", &td, near)).transpose()?,
            src_txn: self.src_txn,
        })
    }
}

impl DevWire<'_> {
    fn convert(self) -> Result<Device, InvalidContext> {
        Ok(Device {
            id: required("rctx.dev.id", self.id)?,
            tier: self.tier,
            managed: self.managed,
            src: parsed(
                "rctx.dev.src",
                DeviceSource::parse(&required("rctx.dev.src", self.src)?.0),
            )?,
            at: self.at.map(|n| n.0),
        })
    }
}

impl JustWire<'_> {
    fn convert(self) -> Result<Justification, InvalidContext> {
        Ok(Justification {
            kind: required("rctx.just.kind", self.kind)?,
            reference: required("rctx.just.ref", self.reference)?,
            by: self.by,
            checked: self.checked.unwrap_or(false),
            at: self.at.map(|n| n.0),
            facts: self.facts,
        })
    }
}

impl TctxWire<'_> {
    fn convert(self, near: Near<'_>) -> Result<Tctx, InvalidContext> {
        let chain = self
            .req_chain
            .map(|ids| ids.iter().map(|text| id("tctx.req_chain", text, near)).collect());
        Ok(Tctx {
            m: self.m,
            h: self.h,
            p: self.p,
            params: self.params,
            deadline: self.deadline.map(|n| n.0),
            parent: self.parent,
            parent_txn: self.parent_txn,
            req_chain: chain.transpose()?,
        })
    }
}

fn approvals(wires: Vec<ApprovalWire<'_>>) -> Result<Vec<Approval>, InvalidContext> {
    let convert = |wire: ApprovalWire<'_>| {
        Ok(Approval {
            sub: required("rctx.appr.sub", wire.sub)?,
            at: required("rctx.appr.at", wire.at)?.0,
        })
    };
    wires.into_iter().map(convert).collect()
}

/// An integer of 0..=2^53, written as one: no fraction, no exponent.
#[derive(Clone, Copy)]
struct Integer(UnixTime);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            n if n <= INTEGER_MAX => Ok(Self(UnixTime(n))),
            _ => Err(D::Error::custom("out of range")),
        }
    }
}

fn required<T>(claim: &'static str, value: Option<T>) -> Result<T, InvalidContext> {
    value.ok_or(InvalidContext { claim, problem: ClaimProblem::Missing })
}

fn parsed<T>(claim: &'static str, value: Option<T>) -> Result<T, InvalidContext> {
    value.ok_or(InvalidContext { claim, problem: ClaimProblem::BadValue })
}

fn optional<T>(
    claim: &'static str,
    text: Option<Text<'_>>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, InvalidContext> {
    text.map(|text| parsed(claim, parse(&text.0))).transpose()
}

fn id(claim: &'static str, text: &Text<'_>, near: Near<'_>) -> Result<WorkloadId, InvalidContext> {
    if let Some(known) = near.ids.iter().find(|known| known.as_str() == text.0) {
        return Ok(known.clone());
    }
    parsed(claim, WorkloadId::parse_near(&text.0, near.domain).ok())
}

fn trust_domain(
    claim: &'static str,
    text: &Text<'_>,
    near: Near<'_>,
) -> Result<TrustDomain, InvalidContext> {
    if text.0 == near.domain.as_str() {
        return Ok(near.domain.clone());
    }
    parsed(claim, TrustDomain::parse(&text.0).ok())
}

/// 22 characters that stand for 16 bytes.
fn jti(text: String) -> Result<String, InvalidContext> {
    let sound = text.len() == 22 && jws::decodes_to_16(text.as_bytes());
    parsed("jti", sound.then_some(text))
}

/// Names between single spaces; an empty name is left in for the rules to refuse.
fn scope(text: &Text<'_>) -> Vec<String> {
    text.0.split(' ').map(str::to_owned).collect()
}

/// An address in the one form it is printed in; IPv4-mapped IPv6 is not.
fn canonical_ip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    // There is one way to write an IPv4 address that is read at all.
    (ip.is_ipv4() || ip.to_string() == text).then_some(ip)
}

/// Starts the message of an error that already names its member.
const BLAMED: char = '@';

/// Names the innermost member an error occurred in. The library's own text may quote the value
/// and is dropped.
fn blame<E: Error>(error: E, member: &'static str) -> E {
    if error.to_string().starts_with(BLAMED) {
        return error;
    }
    E::custom(format_args!("{BLAMED}{member} "))
}

fn blamed(error: &serde_json::Error) -> InvalidContext {
    let text = error.to_string();
    let member = text.strip_prefix(BLAMED).and_then(|rest| rest.split(' ').next());
    let claim = [
        ClaimsWire::NAMES,
        ActWire::NAMES,
        RctxWire::NAMES,
        DevWire::NAMES,
        TlsWire::NAMES,
        JustWire::NAMES,
        ApprovalWire::NAMES,
        WorkloadWire::NAMES,
        TctxWire::NAMES,
        grant::NAMES,
    ]
    .into_iter()
    .flatten()
    .copied()
    .find(|name| Some(*name) == member)
    .unwrap_or("payload");
    InvalidContext { claim, problem: ClaimProblem::WrongType }
}
