//! [`RequestContext`](super::RequestContext) to JSON: members in a fixed order, no spaces, absent
//! facts left out. Writes straight into one buffer, because every minted token passes here.

use std::fmt::Display;

use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{
    Approval, Device, IngressWorkload, JsonMap, Justification, Rctx, RequestContext, Tctx, TlsFacts,
};
use crate::{NewContext, NewGrant, UnixTime, jws};

/// What the minter adds to a [`NewContext`].
pub(crate) struct Envelope<'a> {
    pub(crate) iss: &'a WorkloadId,
    pub(crate) aud: &'a TrustDomain,
    pub(crate) iat: UnixTime,
    pub(crate) exp: UnixTime,
    pub(crate) txn: &'a str,
    pub(crate) jti: &'a [u8; 16],
}

/// What the maker of grants adds to a [`NewGrant`].
pub(crate) struct GrantEnvelope<'a> {
    pub(crate) iss: &'a WorkloadId,
    pub(crate) iat: UnixTime,
    pub(crate) exp: UnixTime,
    pub(crate) jti: &'a [u8; 16],
}

/// Appends the payload of a token.
pub(crate) fn write(out: &mut Vec<u8>, envelope: &Envelope<'_>, context: &NewContext) {
    let mut object = Object::open(out);
    object.plain("iss", envelope.iss.as_str());
    object.plain("aud", envelope.aud.as_str());
    object.integer("iat", envelope.iat.0);
    object.integer("exp", envelope.exp.0);
    object.plain("txn", envelope.txn);
    object.plain("jti", &jws::encode(envelope.jti));
    object.text("sub", &context.sub.to_string());
    object.words("scope", &context.scope);
    object.plain("req_wl", context.req_wl.as_str());
    object.nested("rctx", |out| write_rctx(out, &context.rctx));
    if !context.tctx.is_empty() {
        object.nested("tctx", |out| write_tctx(out, &context.tctx));
    }
    if let Some(worker) = &context.act {
        object.nested("act", |out| {
            let mut act = Object::open(out);
            act.plain("sub", worker.as_str());
            act.close();
        });
    }
    object.close();
}

/// Appends the payload of a deferred grant.
pub(crate) fn write_grant(out: &mut Vec<u8>, envelope: &GrantEnvelope<'_>, grant: &NewGrant) {
    let mut object = Object::open(out);
    object.plain("iss", envelope.iss.as_str());
    object.plain("aud", envelope.iss.as_str());
    object.integer("iat", envelope.iat.0);
    object.integer("exp", envelope.exp.0);
    object.plain("txn", &grant.txn);
    object.plain("jti", &jws::encode(envelope.jti));
    object.text("sub", &grant.sub.to_string());
    object.words("scope", &grant.scope);
    object.plain("req_wl", grant.req_wl.as_str());
    object.nested("may_act", |out| {
        let mut may_act = Object::open(out);
        may_act.plain("sub", grant.may_act.as_str());
        may_act.close();
    });
    object.plain("msg", &jws::encode(&grant.msg));
    object.list("req_chain", Some(&grant.req_chain));
    object.nested("rctx", |out| write_rctx(out, &grant.rctx));
    if !grant.tctx.is_empty() {
        object.nested("tctx", |out| write_tctx(out, &grant.tctx));
    }
    object.close();
}

/// The JSON an app is shown, of these members.
pub(super) fn shown(
    context: &RequestContext,
    scope: &[String],
    rctx: &Rctx,
    tctx: &Tctx,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut object = Object::open(&mut out);
    object.text("sub", &context.sub.to_string());
    object.plain("txn", &context.txn);
    object.words("scope", scope);
    object.integer("exp", context.exp.0);
    object.nested("rctx", |out| write_rctx(out, rctx));
    if !tctx.is_empty() {
        object.nested("tctx", |out| write_tctx(out, tctx));
    }
    object.close();
    out
}

fn write_rctx(out: &mut Vec<u8>, rctx: &Rctx) {
    let mut object = Object::open(out);
    object.integer("v", 1);
    object.plain("origin", rctx.origin.as_str());
    object.plain("to", rctx.to.as_str());
    object.display("req_ip", rctx.req_ip.as_ref());
    object.display("ip_src", rctx.ip_src.as_ref());
    object.opt_text("idp", rctx.idp.as_deref());
    object.opt_text("client_id", rctx.client_id.as_deref());
    object.opt_text("acr", rctx.acr.as_deref());
    object.opt_text("authn", rctx.authn.as_deref());
    object.list("amr", rctx.amr.as_deref());
    object.opt_time("auth_time", rctx.auth_time);
    object.opt_text("acct", rctx.acct.as_deref());
    object.list("groups", rctx.groups.as_deref());
    object.opt_text("groups_src", rctx.groups_src.as_deref());
    object.map("claims", rctx.claims.as_ref());
    object.opt("dev", rctx.dev.as_ref(), write_device);
    object.opt("tls", rctx.tls.as_ref(), write_tls);
    object.display("sc", rctx.sc.as_ref());
    object.opt("just", rctx.just.as_ref(), write_justification);
    object.opt("appr", rctx.appr.as_deref(), write_approvals);
    object.opt_bool("bg", rctx.bg);
    object.opt("wl", rctx.wl.as_ref(), write_workload);
    object.display("src_td", rctx.src_td.as_ref());
    object.opt_text("src_txn", rctx.src_txn.as_deref());
    object.close();
}

fn write_device(out: &mut Vec<u8>, dev: &Device) {
    let mut object = Object::open(out);
    object.text("id", &dev.id);
    object.opt_bool("managed", dev.managed);
    object.opt_text("tier", dev.tier.as_deref());
    object.text("src", &dev.src.to_string());
    object.opt_time("at", dev.at);
    object.close();
}

fn write_tls(out: &mut Vec<u8>, tls: &TlsFacts) {
    let mut object = Object::open(out);
    object.opt_text("v", tls.v.as_deref());
    object.opt_text("sni", tls.sni.as_deref());
    object.opt_text("cert", tls.cert.as_deref());
    object.close();
}

fn write_justification(out: &mut Vec<u8>, just: &Justification) {
    let mut object = Object::open(out);
    object.text("kind", &just.kind);
    object.text("ref", &just.reference);
    object.opt_text("by", just.by.as_deref());
    object.opt_bool("checked", Some(just.checked));
    object.opt_time("at", just.at);
    object.map("facts", just.facts.as_ref());
    object.close();
}

fn write_approvals(out: &mut Vec<u8>, approvals: &[Approval]) {
    out.push(b'[');
    for (at, approval) in approvals.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut object = Object::open(out);
        object.text("sub", &approval.sub);
        object.integer("at", approval.at.0);
        object.close();
    }
    out.push(b']');
}

fn write_workload(out: &mut Vec<u8>, wl: &IngressWorkload) {
    let mut object = Object::open(out);
    object.opt_text("pod", wl.pod.as_deref());
    object.opt_text("node", wl.node.as_deref());
    object.opt_text("img", wl.img.as_deref());
    if let Some(level) = wl.slsa {
        object.integer("slsa", level);
    }
    object.close();
}

fn write_tctx(out: &mut Vec<u8>, tctx: &Tctx) {
    let mut object = Object::open(out);
    object.opt_text("m", tctx.m.as_deref());
    object.opt_text("h", tctx.h.as_deref());
    object.opt_text("p", tctx.p.as_deref());
    object.map("params", tctx.params.as_ref());
    object.opt_time("deadline", tctx.deadline);
    object.opt_text("parent", tctx.parent.as_deref());
    object.opt_text("parent_txn", tctx.parent_txn.as_deref());
    object.list("req_chain", tctx.req_chain.as_deref());
    object.close();
}

/// One JSON object being written. Names are literals of this file and need no escaping.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    fn close(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
    }

    /// Text that cannot need escaping: IDs, base64url, enum spellings.
    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_json(self.out, value);
    }

    fn opt_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn integer(&mut self, name: &str, value: u64) {
        self.name(name);
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    fn opt_time(&mut self, name: &str, value: Option<UnixTime>) {
        if let Some(value) = value {
            self.integer(name, value.0);
        }
    }

    fn opt_bool(&mut self, name: &str, value: Option<bool>) {
        if let Some(value) = value {
            self.name(name);
            self.out.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }

    fn display(&mut self, name: &str, value: Option<&impl Display>) {
        if let Some(value) = value {
            self.plain(name, &value.to_string());
        }
    }

    fn list(&mut self, name: &str, values: Option<&[impl AsRef<str>]>) {
        let Some(values) = values else { return };
        self.name(name);
        self.out.push(b'[');
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            write_json(self.out, value.as_ref());
        }
        self.out.push(b']');
    }

    /// Scope names, which the rules keep to characters without escapes.
    fn words(&mut self, name: &str, words: &[String]) {
        self.plain(name, &words.join(" "));
    }

    fn map(&mut self, name: &str, map: Option<&JsonMap>) {
        self.opt(name, map, write_json);
    }

    fn nested(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        write(self.out);
    }

    fn opt<T: ?Sized>(
        &mut self,
        name: &str,
        value: Option<&T>,
        write: impl FnOnce(&mut Vec<u8>, &T),
    ) {
        if let Some(value) = value {
            self.nested(name, |out| write(out, value));
        }
    }
}

/// JSON of a text or of a map, whose names are always texts.
fn write_json(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    // INVARIANT: writing texts and maps of JSON values into memory cannot fail.
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "JSON into memory");
}
