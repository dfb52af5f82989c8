//! What an app is shown of a context: JSON for the header `Countersign-Claims`.
//!
//! Invariant: only what verification understood is shown; unknown members of a token, and members
//! that the filter does not keep, never appear.

use super::{Rctx, RequestContext, Tctx, write};

/// The JSON of `{sub, txn, scope, exp, rctx, tctx}`. `scope` is the one in effect here. `keep` is
/// asked for every member of `rctx` and `tctx` by its name, `rctx.groups` or `tctx.p`; how the
/// transaction began and who held it first are always there.
pub fn shown(
    context: &RequestContext,
    scope: &[String],
    keep: &dyn Fn(&'static str) -> bool,
) -> Vec<u8> {
    let (mut rctx, mut tctx) = (context.rctx.clone(), context.tctx.clone());
    for (name, forget) in RCTX {
        if !keep(name) {
            forget(&mut rctx);
        }
    }
    for (name, forget) in TCTX {
        if !keep(name) {
            forget(&mut tctx);
        }
    }
    write::shown(context, scope, &rctx, &tctx)
}

type Members<T> = &'static [(&'static str, fn(&mut T))];

/// Every member of `rctx` that may be left out, and how.
const RCTX: Members<Rctx> = &[
    ("rctx.req_ip", |rctx| (rctx.req_ip, rctx.ip_src) = (None, None)),
    ("rctx.idp", |rctx| rctx.idp = None),
    ("rctx.client_id", |rctx| rctx.client_id = None),
    ("rctx.acr", |rctx| rctx.acr = None),
    ("rctx.auth_time", |rctx| rctx.auth_time = None),
    ("rctx.authn", |rctx| rctx.authn = None),
    ("rctx.amr", |rctx| rctx.amr = None),
    ("rctx.acct", |rctx| rctx.acct = None),
    ("rctx.groups", |rctx| rctx.groups = None),
    ("rctx.claims", |rctx| rctx.claims = None),
    ("rctx.dev", |rctx| rctx.dev = None),
    ("rctx.tls", |rctx| rctx.tls = None),
    ("rctx.sc", |rctx| rctx.sc = None),
    ("rctx.just", |rctx| rctx.just = None),
    ("rctx.appr", |rctx| rctx.appr = None),
    ("rctx.bg", |rctx| rctx.bg = None),
    ("rctx.wl", |rctx| rctx.wl = None),
    ("rctx.src_td", |rctx| rctx.src_td = None),
    ("rctx.src_txn", |rctx| rctx.src_txn = None),
];

/// Every member of `tctx`.
const TCTX: Members<Tctx> = &[
    ("tctx.m", |tctx| tctx.m = None),
    ("tctx.h", |tctx| tctx.h = None),
    ("tctx.p", |tctx| tctx.p = None),
    ("tctx.params", |tctx| tctx.params = None),
    ("tctx.deadline", |tctx| tctx.deadline = None),
    ("tctx.parent", |tctx| tctx.parent = None),
    ("tctx.parent_txn", |tctx| tctx.parent_txn = None),
    ("tctx.req_chain", |tctx| tctx.req_chain = None),
];

/// The names `keep` is asked for.
pub fn shown_names() -> impl Iterator<Item = &'static str> {
    RCTX.iter().map(|(name, _)| *name).chain(TCTX.iter().map(|(name, _)| *name))
}
