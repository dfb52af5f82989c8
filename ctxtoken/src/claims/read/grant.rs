//! The payload of a deferred grant, by the rules of tokens where the two have members in common.

use std::{fmt, marker::PhantomData};

use countersign_workload_id::{TrustDomain, WorkloadId};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    ActWire, Integer, Near, RctxWire, TctxWire, Text, blame, blamed, id, jti, parsed, required,
    scope,
};
use crate::{
    ClaimProblem, InvalidContext, NewGrant, Subject, UnixTime,
    claims::{check_body, check_requesters, check_txn},
    jws,
};

/// Everything a grant says.
pub(crate) struct GrantClaims {
    pub(crate) iss: WorkloadId,
    pub(crate) aud: WorkloadId,
    pub(crate) iat: UnixTime,
    pub(crate) exp: UnixTime,
    pub(crate) jti: String,
    pub(crate) grant: NewGrant,
}

wire_object!(GrantWire<'a> at "" {
    iss "iss": Text<'a>,
    aud "aud": Text<'a>,
    iat "iat": Integer,
    exp "exp": Integer,
    txn "txn": String,
    jti "jti": String,
    sub "sub": Text<'a>,
    scope "scope": Text<'a>,
    req_wl "req_wl": Text<'a>,
    may_act "may_act": ActWire<'a>,
    msg "msg": Text<'a>,
    req_chain "req_chain": Vec<Text<'a>>,
    rctx "rctx": RctxWire<'a>,
    tctx "tctx": TctxWire<'a>,
});

pub(super) const NAMES: &[&str] = GrantWire::NAMES;

/// Reads the payload of a grant of an issuer of `home`.
pub(crate) fn parse_grant(json: &str, home: &TrustDomain) -> Result<GrantClaims, InvalidContext> {
    let wire: GrantWire<'_> = serde_json::from_str(json).map_err(|e| blamed(&e))?;
    let claims = wire.convert(Near::domain(home))?;
    let grant = &claims.grant;
    check_body(home, &grant.sub, &grant.scope, &grant.rctx, &grant.tctx, None)?;
    check_requesters(&grant.req_chain)?;
    Ok(claims)
}

impl GrantWire<'_> {
    fn convert(self, near: Near<'_>) -> Result<GrantClaims, InvalidContext> {
        let txn = required("txn", self.txn)?;
        check_txn("txn", &txn)?;
        let may_act = required("may_act.sub", required("may_act", self.may_act)?.sub)?;
        let chain = required("req_chain", self.req_chain)?;
        Ok(GrantClaims {
            iss: id("iss", &required("iss", self.iss)?, near)?,
            aud: id("aud", &required("aud", self.aud)?, near)?,
            iat: required("iat", self.iat)?.0,
            exp: required("exp", self.exp)?.0,
            jti: jti(required("jti", self.jti)?)?,
            grant: NewGrant {
                txn,
                sub: parsed("sub", Subject::parse(&required("sub", self.sub)?.0))?,
                scope: scope(&required("scope", self.scope)?),
                req_wl: id("req_wl", &required("req_wl", self.req_wl)?, near)?,
                may_act: id("may_act.sub", &may_act, near)?,
                msg: digest(&required("msg", self.msg)?)?,
                req_chain: chain
                    .iter()
                    .map(|text| id("req_chain", text, near))
                    .collect::<Result<_, _>>()?,
                rctx: required("rctx", self.rctx)?.convert(near)?,
                tctx: self.tctx.map_or(Ok(crate::Tctx::default()), |tctx| tctx.convert(near))?,
            },
        })
    }
}

/// The base64url form of 32 bytes.
fn digest(text: &Text<'_>) -> Result<[u8; 32], InvalidContext> {
    let bytes = jws::decode(text.0.as_bytes()).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(InvalidContext { claim: "msg", problem: ClaimProblem::BadValue })
}
