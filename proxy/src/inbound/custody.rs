//! How a token came here: step 11 of the verification order, on the wire.
//!
//! Reads `Countersign-Hops`, finds the certificates of earlier holders among those this worker knows
//! or in `Countersign-Certs`, and has the path checked. Invariant: a chain that came along is looked
//! at only when a record of a token that verified needs it, and only after everything that costs
//! nothing held.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_certs_client::svid;
use countersign_ctxtoken::{
    ChainKey, Custody, CustodyProblem, CustodyWith, HopKeys, HopList, RequestContext, UnixTime,
    Verified, VerifyError, check_custody,
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use http::HeaderValue;

use crate::clock::Now;
use crate::http::certs::{self, CertsError, Chain, Thumbprint};
use crate::http::hygiene::Field;
use crate::inbound::context::SKEW_S;
use crate::live::Snapshot;
use crate::signers::Signer;
use crate::tls::peer::MeshPeer;
use crate::worker::Worker;

/// The way a verified token came, and what handing it on needs.
#[derive(Debug)]
pub struct Path {
    /// Who held it, what is left of its scope, and whether it may be handed on.
    pub custody: Custody,
    /// The records, as they came.
    pub hops: Option<Arc<HopList>>,
    /// Who signed them, as far as that is known: all of them where custody is demanded.
    pub signers: Arc<[Arc<Signer>]>,
    /// Our own token, where it was minted here for one of another trust domain.
    pub minted: Option<HeaderValue>,
    /// Theirs, which it was minted for.
    pub theirs: Option<Arc<Verified<RequestContext>>>,
}

/// Why a token is not accepted, with what only operators are to know.
pub struct Broken {
    /// What failed.
    pub error: VerifyError,
    /// What was seen of a certificate.
    pub seen: Option<String>,
    /// Whether only somebody who makes things up, or passes them on unseen, produces it.
    pub garbage: bool,
}

impl From<VerifyError> for Broken {
    fn from(error: VerifyError) -> Broken {
        let garbage = is_garbage(&error);
        Broken { error, seen: None, garbage }
    }
}

/// A peer must not be blocked for what others cause: an expired token, a path it may not present on,
/// a certificate that is not known here.
fn is_garbage(error: &VerifyError) -> bool {
    match error {
        VerifyError::TokenMalformed(_)
        | VerifyError::TokenTooLarge { .. }
        | VerifyError::SignatureInvalid
        | VerifyError::IssuerNotAllowed
        | VerifyError::KeyUnknown(_)
        | VerifyError::AudienceWrong
        | VerifyError::ClaimInvalid { .. }
        | VerifyError::ConstraintViolated(_)
        | VerifyError::TokenDuplicated
        | VerifyError::HopsMalformed(_)
        | VerifyError::HopsTooLarge { .. } => true,
        VerifyError::CustodyBroken(_)
        | VerifyError::HopCertUnknown { .. }
        | VerifyError::KeysUnavailable
        | VerifyError::PresenterRefused
        | VerifyError::TokenExpired { .. } => false,
    }
}

/// The workload that presents a token.
#[derive(Clone, Copy)]
pub(crate) struct Holder<'a> {
    /// Who it is.
    pub peer: &'a MeshPeer,
    /// Generation of the snapshot by which it was believed, or of an older one.
    pub believed_at: u64,
}

/// Shows that the token was handed to the peer, and what it became on the way to `me`.
///
/// # Errors
/// [`Broken`].
pub(crate) fn prove(
    worker: &Worker,
    (from, me): (Holder<'_>, &WorkloadId),
    (token, (hops, certs)): (&Verified<RequestContext>, (&Field, &Field)),
    (snap, now): (&Snapshot, Now),
) -> Result<Path, Broken> {
    let Holder { peer, believed_at } = from;
    let hops = match hops {
        Field::Absent => None,
        Field::One(field) => {
            let near = [peer.id(), me, &token.rctx.to];
            Some(HopList::parse_near(field.as_bytes(), &snap.token_limits, &near)?)
        }
        Field::Repeated => return Err(VerifyError::HopsMalformed("more than one field").into()),
    };
    let keys = Keys::new(worker, (certs, &token.aud), snap, now);
    let with = CustodyWith {
        peer: peer.id(),
        peer_leaf_sha256: peer.leaf_sha256(),
        me,
        hops: hops.as_ref(),
        keys: &keys,
        seen: Some(&worker.verified_hops),
        now: UnixTime(now.secs()),
        skew_s: SKEW_S,
        // What another trust domain does without counts for nothing here.
        required: snap.custody_required || token.aud != *snap.trust_domain(),
    };
    let custody = check_custody(token, &with).map_err(|error| keys.blame(error, hops.as_ref()))?;
    let mut signers = keys.found.into_inner();
    // Where custody is not demanded, a list may lead elsewhere: nobody can go on with it here.
    let leads_here = |hops: &HopList| hops.path().last().is_some_and(|(_, aud)| aud == me);
    let hops = hops.filter(|hops| custody.proven || leads_here(hops));
    if hops.is_none() {
        signers.clear();
    }
    if hops.is_some() && custody.may_pass_on {
        // The peer's own record is its newest.
        let mut known = worker.signers.borrow_mut();
        signers.extend(known.learn(peer, believed_at, (snap, now)));
    }
    Ok(Path {
        custody,
        hops: hops.map(Arc::new),
        signers: signers.into(),
        minted: None,
        theirs: None,
    })
}

/// The keys of earlier holders, for one request.
struct Keys<'a> {
    worker: &'a Worker,
    field: &'a Field,
    domain: &'a TrustDomain,
    snap: &'a Snapshot,
    now: Now,
    came: OnceCell<Result<Vec<(Thumbprint, Chain)>, CertsError>>,
    found: RefCell<Vec<Arc<Signer>>>,
    refused: RefCell<Vec<Refusal>>,
}

/// A chain that came and does not count.
struct Refusal {
    thumbprint: Thumbprint,
    why: String,
    /// It may have counted when the peer looked at it.
    ended: bool,
}

impl<'a> Keys<'a> {
    fn new(
        worker: &'a Worker,
        (field, domain): (&'a Field, &'a TrustDomain),
        snap: &'a Snapshot,
        now: Now,
    ) -> Keys<'a> {
        Keys {
            worker,
            field,
            domain,
            snap,
            now,
            came: OnceCell::new(),
            found: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    fn signer(&self, thumbprint: &Thumbprint) -> Option<Arc<Signer>> {
        let mut known = self.worker.signers.borrow_mut();
        if let Some(signer) = known.find(thumbprint, self.snap, self.now) {
            return Some(signer);
        }
        let came = self.came.get_or_init(|| chains(self.field)).as_deref().unwrap_or_default();
        let (_, chain) = came.iter().find(|(own, _)| own == thumbprint)?;
        match known.validate(chain, self.domain, (self.snap, self.now)) {
            Ok(signer) => Some(signer),
            Err(why) => {
                let leaf = chain.first().and_then(|leaf| svid::not_after(leaf).ok());
                let ended = leaf.is_some_and(|end| end < self.now.secs());
                self.refused.borrow_mut().push(Refusal { thumbprint: *thumbprint, why, ended });
                None
            }
        }
    }

    /// Who is to blame, and for what.
    fn blame(&self, error: VerifyError, hops: Option<&HopList>) -> Broken {
        match &error {
            VerifyError::HopCertUnknown { thumbprints } => {
                self.of_certificates(thumbprints, hops).unwrap_or_else(|| error.into())
            }
            // The record that was addressed to the peer is the one its proxy could not check: the
            // channel stood for it.
            VerifyError::CustodyBroken(CustodyProblem::BadRecord { at, .. }) => {
                let checked = hops.is_some_and(|hops| at.saturating_add(2) != hops.len());
                Broken { garbage: checked, ..error.into() }
            }
            _ => error.into(),
        }
    }

    /// A certificate that came and does not count is not asked for again.
    fn of_certificates(&self, missing: &[Thumbprint], hops: Option<&HopList>) -> Option<Broken> {
        if let Some(Err(unreadable)) = self.came.get() {
            let error = match *unreadable {
                CertsError::Malformed(what) => VerifyError::HopsMalformed(what),
                CertsError::TooLarge { bytes, limit } => VerifyError::HopsTooLarge { bytes, limit },
            };
            return Some(Broken { seen: Some(unreadable.to_string()), ..error.into() });
        }
        let refused = self.refused.borrow();
        let Refusal { thumbprint, why, ended } =
            refused.iter().find(|refused| missing.contains(&refused.thumbprint))?;
        let at = hops.and_then(|hops| hops.thumbprints().position(|own| own == thumbprint));
        let what = "is signed under a certificate that does not count";
        let problem = CustodyProblem::BadRecord { at: at.unwrap_or_default(), what };
        let error = VerifyError::CustodyBroken(problem);
        Some(Broken { error, seen: Some(why.clone()), garbage: !ended })
    }
}

impl HopKeys for Keys<'_> {
    fn find(&self, thumbprint: &Thumbprint, _: UnixTime) -> Option<Arc<ChainKey>> {
        let signer = self.signer(thumbprint)?;
        let key = Arc::clone(signer.key());
        let mut found = self.found.borrow_mut();
        if !found.iter().any(|known| known.thumbprint() == *thumbprint) {
            found.push(signer);
        }
        Some(key)
    }
}

/// The chains of the field, by the thumbprint of their leaf.
fn chains(field: &Field) -> Result<Vec<(Thumbprint, Chain)>, CertsError> {
    let field = match field {
        Field::Absent => return Ok(Vec::new()),
        Field::One(field) => field,
        Field::Repeated => return Err(CertsError::Malformed("more than one `Countersign-Certs`")),
    };
    let named = |chain: Chain| {
        let mut thumbprint = [0; 32];
        let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        thumbprint.copy_from_slice(digest(&SHA256, leaf).as_ref());
        (thumbprint, chain)
    };
    Ok(certs::read_chains(field.as_bytes())?.into_iter().map(named).collect())
}
