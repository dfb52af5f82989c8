//! Workloads with keys and certificates, and paths of a token over them: sound ones through
//! [`append`], and any record at all, properly signed or not.
use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::world::*;
use crate::{verify::sha256, *};

/// A key for every workload; made from the name, so that a world can be made again.
pub(super) fn signer_of(workload: &str) -> Arc<LocalSigner> {
    const ED25519_PKCS8: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let key = [&ED25519_PKCS8[..], &sha256(workload.as_bytes())].concat();
    Arc::new(LocalSigner::from_pkcs8_der(&key).unwrap())
}

/// What stands for the SHA-256 of a workload's leaf certificate.
pub(super) fn leaf_of(workload: &str) -> [u8; 32] {
    sha256(format!("leaf of {workload}").as_bytes())
}

/// Certificates by thumbprint.
#[derive(Default, Clone)]
pub(super) struct Leaves(pub(super) BTreeMap<[u8; 32], Arc<ChainKey>>);

impl Leaves {
    pub(super) fn of(workloads: &[&str]) -> Self {
        let mut leaves = Self::default();
        for workload in workloads {
            leaves.add(leaf_of(workload), workload, workload, NOW.plus(3600));
        }
        leaves
    }

    /// A certificate that says `id` for the key of `key_of`.
    pub(super) fn add(&mut self, leaf: [u8; 32], name: &str, key_of: &str, not_after: UnixTime) {
        let key = signer_of(key_of).verifying_key().clone();
        self.0.insert(leaf, Arc::new(ChainKey { id: id(name), key, not_after }));
    }
}

impl HopKeys for Leaves {
    fn find(&self, thumbprint: &[u8; 32], _: UnixTime) -> Option<Arc<ChainKey>> {
        self.0.get(thumbprint).cloned()
    }
}

/// The way of a token over workloads.
pub(super) struct Path<'a>(Vec<&'a str>);

impl<'a> Path<'a> {
    pub(super) fn from(first: &'a str) -> Self {
        Self(vec![first])
    }

    pub(super) fn to(mut self, next: &'a str) -> Self {
        self.0.push(next);
        self
    }

    /// The list that shows it, each record signed by its sender.
    pub(super) fn list(&self, token: &str) -> HopList {
        let mut list = None;
        for pair in self.0.windows(2) {
            list = Some(passed_on(list.as_ref(), pair[0], pair[1], token, None));
        }
        list.expect("a path over two workloads")
    }
}

/// One record more, as a sidecar makes it.
pub(super) fn passed_on(
    list: Option<&HopList>,
    sub: &str,
    aud: &str,
    token: &str,
    scope: Option<&[String]>,
) -> HopList {
    let (sub_id, aud_id) = (id(sub), id(aud));
    let token_sha256 = sha256(token.as_bytes());
    let hop = NewHop { sub: &sub_id, aud: &aud_id, iat: NOW, token_sha256: &token_sha256, scope };
    let field = append(list, &hop, &*signer_of(sub), &leaf_of(sub)).unwrap();
    read(&field)
}

pub(super) fn read(field: &str) -> HopList {
    HopList::parse(field.as_bytes(), &Limits::default()).unwrap()
}

/// The header of a record of `workload`.
pub(super) fn hop_header(workload: &str) -> Value {
    json!({"alg": "Ed25519", "typ": "csign-hop+jwt", "kid": jws::encode(&leaf_of(workload))})
}

/// The payload of a first record.
pub(super) fn hop_payload(sub: &str, aud: &str, token: &str) -> Value {
    let tth = jws::encode(&sha256(token.as_bytes()));
    json!({"sub": sub, "aud": aud, "iat": NOW.0, "n": 0, "tth": tth})
}

/// Any record, signed with the key of `key_of`.
pub(super) fn record(header: &Value, payload: &Value, key_of: &str) -> String {
    signed(&header.to_string(), &payload.to_string(), &signer_of(key_of))
}

/// Custody where no certificate of others is known.
pub(super) fn custody(
    token: &Verified<RequestContext>,
    peer: &str,
    me: &str,
    hops: Option<&HopList>,
) -> Result<Custody, VerifyError> {
    custody_by(token, peer, me, hops, &Leaves::default())
}

/// Custody with the certificates that are known.
pub(super) fn custody_by(
    token: &Verified<RequestContext>,
    peer: &str,
    me: &str,
    hops: Option<&HopList>,
    keys: &Leaves,
) -> Result<Custody, VerifyError> {
    let (peer_id, me_id) = (id(peer), id(me));
    let with = CustodyWith {
        peer: &peer_id,
        peer_leaf_sha256: leaf_of(peer),
        me: &me_id,
        hops,
        keys,
        seen: None,
        now: NOW,
        skew_s: 30,
        required: true,
    };
    check_custody(token, &with)
}
