//! Custody: is the workload on the other end of the connection the one this token has come to?
//!
//! | the mTLS peer is | it shows | signatures checked |
//! |---|---|---|
//! | the issuer | nothing; `rctx.to` is this workload | 0 |
//! | `rctx.to` | nothing, or its own record | 0 |
//! | anybody else | records from `rctx.to` to itself, then its own | all but its own |
//!
//! The peer's own record needs no signature here: the channel proves what it says. Whoever relies
//! on it later checks it.
//!
//! Order: what costs nothing first, then the keys, then signatures, oldest first. Invariant: a
//! [`Custody`] that is `proven` exists only after every record but the peer's own was found true.

use std::sync::Arc;

use countersign_workload_id::WorkloadId;

use super::{HopList, Record, VerifiedHops};
use crate::{
    ChainKey, CustodyProblem, RequestContext, UnixTime, Verified, VerifyError, verify::sha256,
};

/// The keys of hop records.
pub trait HopKeys {
    /// What the certificate with this SHA-256 says, if its chain was validated against the bundle
    /// in force, has not ended and was not revoked.
    fn find(&self, thumbprint: &[u8; 32], now: UnixTime) -> Option<Arc<ChainKey>>;
}

/// Everything custody depends on besides the token.
pub struct CustodyWith<'a> {
    /// The workload the mTLS connection proved.
    pub peer: &'a WorkloadId,
    /// SHA-256 of the certificate it proved it with.
    pub peer_leaf_sha256: [u8; 32],
    /// This workload.
    pub me: &'a WorkloadId,
    /// What came in `Countersign-Hops`.
    pub hops: Option<&'a HopList>,
    /// Keys of the signers of older records.
    pub keys: &'a dyn HopKeys,
    /// Records verified before.
    pub seen: Option<&'a VerifiedHops>,
    /// The time of this request.
    pub now: UnixTime,
    /// How far clocks may differ, in seconds.
    pub skew_s: u64,
    /// Whether custody is demanded. Without, a token works for whoever holds it.
    pub required: bool,
}

/// How a token came here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custody {
    /// Whether the path was shown. Never false where custody is demanded.
    pub proven: bool,
    /// Who held the token before this workload, oldest first; the last is the peer. Empty when it
    /// came from the issuer itself, and when nothing is proven.
    pub holders: Vec<WorkloadId>,
    /// What is left of the token's scope.
    pub scope: Vec<String>,
    /// Whether this workload may pass the token on: it was addressed to us, by the issuer or by a
    /// record.
    pub may_pass_on: bool,
}

/// Step 11, on every request, whether the token was cached or not.
pub fn check_custody(
    token: &Verified<RequestContext>,
    with: &CustodyWith<'_>,
) -> Result<Custody, VerifyError> {
    let shown = match with.hops {
        None => without_list(token, with),
        Some(list) => with_list(token, list, with),
    };
    match shown {
        Err(_) if !with.required => Ok(unproven(token, with)),
        shown => shown,
    }
}

fn without_list(token: &RequestContext, with: &CustodyWith<'_>) -> Result<Custody, VerifyError> {
    let to = &token.rctx.to;
    let from_issuer = *with.peer == token.iss && to == with.me;
    let holders = if with.peer == to {
        vec![to.clone()]
    } else if from_issuer {
        Vec::new()
    } else if *with.peer == token.iss {
        return Err(broken(CustodyProblem::MadeForAnother { to: to.clone() }));
    } else {
        let peer = with.peer.clone();
        return Err(broken(CustodyProblem::NoPathToPeer { peer, to: to.clone() }));
    };
    Ok(Custody { proven: true, holders, scope: token.scope.clone(), may_pass_on: to == with.me })
}

fn with_list(
    token: &Verified<RequestContext>,
    list: &HopList,
    with: &CustodyWith<'_>,
) -> Result<Custody, VerifyError> {
    check_ends(token, list, with)?;
    let hashes = check_links(token, list, with.skew_s)?;
    let scope = narrowed(token, list)?;
    check_signatures(token, list, &hashes, with)?;
    let holders = list.records.iter().map(|record| record.sub.clone()).collect();
    Ok(Custody { proven: true, holders, scope, may_pass_on: true })
}

/// From the first holder to the peer, and from the peer to us.
fn check_ends(
    token: &RequestContext,
    list: &HopList,
    with: &CustodyWith<'_>,
) -> Result<(), VerifyError> {
    let (Some(first), Some(last)) = (list.records.first(), list.records.last()) else {
        return Err(VerifyError::HopsMalformed("an empty list"));
    };
    let to = &token.rctx.to;
    ensure(first.sub == *to, || CustodyProblem::StartsElsewhere { to: to.clone() })?;
    ensure(last.sub == *with.peer, || CustodyProblem::NoPathToPeer {
        peer: with.peer.clone(),
        to: to.clone(),
    })?;
    ensure(last.aud == *with.me, || CustodyProblem::AddressedToAnother)?;
    // The key that must be answered for later is the one of this connection.
    ensure(last.thumbprint == with.peer_leaf_sha256, || CustodyProblem::OtherCertificate)
}

/// Every record belongs to this token and to the record before it. Gives each record's hash but
/// the last one's.
fn check_links(
    token: &Verified<RequestContext>,
    list: &HopList,
    skew_s: u64,
) -> Result<Vec<[u8; 32]>, VerifyError> {
    let mut hashes = Vec::with_capacity(list.records.len());
    let mut before: Option<&Record> = None;
    for (at, record) in list.records.iter().enumerate() {
        let wrong = |what| CustodyProblem::BadRecord { at, what };
        if let Some(before) = before {
            ensure(before.aud == record.sub, || wrong("does not follow the one before it"))?;
            let late_enough = record.iat.plus(skew_s) >= before.iat;
            ensure(late_enough, || wrong("is older than the one before it"))?;
            hashes.push(sha256(list.text_of(before).as_bytes()));
        }
        ensure(u64::try_from(at) == Ok(record.n), || wrong("has another number"))?;
        ensure(record.prev.as_ref() == hashes.last(), || wrong("does not hash the one before it"))?;
        ensure(record.tth == *token.token_sha256(), || wrong("belongs to another token"))?;
        ensure(*record.sub.trust_domain() == token.aud, || wrong("is of another trust domain"))?;
        let in_life = record.iat.plus(skew_s) >= token.iat && record.iat <= token.exp.plus(skew_s);
        ensure(in_life, || wrong("was not made during the token's life"))?;
        before = Some(record);
    }
    Ok(hashes)
}

/// The scope that is left: each record may only take away.
fn narrowed(token: &RequestContext, list: &HopList) -> Result<Vec<String>, VerifyError> {
    let mut scope = token.scope.as_slice();
    for (at, record) in list.records.iter().enumerate() {
        let Some(next) = record.scope.as_deref() else { continue };
        ensure(next.iter().all(|name| scope.contains(name)), || CustodyProblem::BadRecord {
            at,
            what: "adds to the scope",
        })?;
        scope = next;
    }
    Ok(scope.to_vec())
}

/// All records but the peer's own, oldest first, under the certificates of those they name.
fn check_signatures(
    token: &RequestContext,
    list: &HopList,
    hashes: &[[u8; 32]],
    with: &CustodyWith<'_>,
) -> Result<(), VerifyError> {
    let mut missing = Vec::new();
    let mut keys = Vec::with_capacity(hashes.len());
    let older = || list.records.iter().zip(hashes).enumerate();
    for (_, (record, _)) in older() {
        match with.keys.find(&record.thumbprint, with.now) {
            Some(key) => keys.push(key),
            None if missing.contains(&record.thumbprint) => {}
            None => missing.push(record.thumbprint),
        }
    }
    if !missing.is_empty() {
        return Err(VerifyError::HopCertUnknown { thumbprints: missing });
    }
    for ((at, (record, hash)), key) in older().zip(&keys) {
        check_signature(at, record, hash, list, key, token, with)?;
    }
    Ok(())
}

fn check_signature(
    at: usize,
    record: &Record,
    hash: &[u8; 32],
    list: &HopList,
    key: &ChainKey,
    token: &RequestContext,
    with: &CustodyWith<'_>,
) -> Result<(), VerifyError> {
    let wrong = |what| CustodyProblem::BadRecord { at, what };
    let of_domain = *key.id.trust_domain() == token.aud;
    ensure(key.id == record.sub && of_domain, || wrong("is signed by somebody else"))?;
    ensure(key.not_after >= with.now, || wrong("is signed under a certificate that has ended"))?;
    ensure(key.key.algorithm() == record.algorithm, || wrong("names another algorithm"))?;
    if with.seen.is_some_and(|seen| seen.contains(hash)) {
        return Ok(());
    }
    let signed = list.text_of(record).as_bytes().get(..record.signed).unwrap_or_default();
    ensure(key.key.verifies(signed, &record.signature), || wrong("has a false signature"))?;
    if let Some(seen) = with.seen {
        seen.insert(*hash);
    }
    Ok(())
}

/// Custody is not demanded and was not shown. What the records take from the scope stays taken:
/// that needs no proof.
fn unproven(token: &RequestContext, with: &CustodyWith<'_>) -> Custody {
    let records = with.hops.map_or(&[][..], |list| list.records.as_slice());
    let taken = |name: &String| {
        records.iter().any(|record| record.scope.as_ref().is_some_and(|kept| !kept.contains(name)))
    };
    let scope = token.scope.iter().filter(|name| !taken(name)).cloned().collect();
    Custody { proven: false, holders: Vec::new(), scope, may_pass_on: true }
}

fn ensure(condition: bool, problem: impl FnOnce() -> CustodyProblem) -> Result<(), VerifyError> {
    if condition { Ok(()) } else { Err(broken(problem())) }
}

fn broken(problem: CustodyProblem) -> VerifyError {
    VerifyError::CustodyBroken(problem)
}
