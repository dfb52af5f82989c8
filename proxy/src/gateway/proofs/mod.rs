//! Whether a token came from whoever may use it: DPoP proofs (RFC 9449) and client certificates
//! (RFC 8705). Runs for every request, after the token was verified or remembered.
//! Invariant: a [`ProvenUser`] is made only here, and only once everything its token is bound to
//! was shown with this very request; a bound token is never taken as one anybody may use.

pub mod alone;
pub mod challenge;
pub mod dpop;
mod error;
pub mod nonce;
pub mod target;
pub mod used;

use std::sync::Arc;

use countersign_ctxtoken::SenderConstraint;
use countersign_policy::doc::{BearerTokens, Demand, Nonce, SenderRules};
use http::{HeaderMap, HeaderValue};

pub use self::error::ProofError;
use self::nonce::{Freshness, Nonces};
use self::target::Target;
use self::used::UsedProofs;
use super::identify::EndUser;
use super::user_cache::Identified;
use crate::clock::Now;

/// What all workers remember about proofs.
pub struct Proofs {
    used: UsedProofs,
    nonces: Nonces,
}

impl Proofs {
    /// Nothing was used yet; nonces are this process's own.
    pub fn new(nonce_key: &[u8; 32]) -> Proofs {
        Proofs { used: UsedProofs::default(), nonces: Nonces::new(nonce_key) }
    }

    /// A nonce for a client that has none, or an old one.
    pub fn nonce(&self, now: Now) -> Option<HeaderValue> {
        HeaderValue::try_from(self.nonces.issue(now)).ok()
    }
}

/// A user whose token was presented by whoever may use it. Made only in this file.
#[derive(Clone, Debug)]
#[must_use]
pub struct ProvenUser {
    user: Arc<EndUser>,
    shown: Option<SenderConstraint>,
    /// Whether the client should be told a fresh nonce.
    nonce_ages: bool,
}

impl ProvenUser {
    /// The user.
    pub fn user(&self) -> &EndUser {
        &self.user
    }

    /// The proof of possession that was checked: `rctx.sc`.
    pub fn shown(&self) -> Option<SenderConstraint> {
        self.shown
    }

    /// Whether the client's nonce will soon be too old.
    pub fn nonce_ages(&self) -> bool {
        self.nonce_ages
    }

    /// A user whose token comes where no proof can be shown, such as in the body of a request to
    /// the token service: it must be bound to nothing, and its provider must allow that.
    ///
    /// # Errors
    /// [`ProofError`] for every token that needs a proof.
    pub fn without_proof(user: Arc<EndUser>) -> Result<ProvenUser, ProofError> {
        let binding = user.binding();
        if binding.key.is_some() || binding.certificate.is_some() {
            return Err(ProofError::NoPlaceForProof);
        }
        check_demands(&user)?;
        Ok(ProvenUser { user, shown: None, nonce_ages: false })
    }
}

/// What a request shows beside its token.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Method and address, as the client means them.
    pub target: Target<'a>,
    /// SHA-256 of the certificate whose key the client of the connection holds.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// Checks what the token is bound to against what the request shows.
///
/// # Errors
/// The first proof that is missing, does not fit, or is not wanted.
pub fn prove(
    identified: Identified,
    shown: &Shown<'_>,
    proofs: &Proofs,
    now: Now,
) -> Result<ProvenUser, ProofError> {
    let Identified { user, token_sha256, as_dpop } = identified;
    let binding = user.binding();
    check_demands(&user)?;
    let mut proven = ProvenUser { user, shown: None, nonce_ages: false };
    if let Some(wanted) = binding.certificate {
        match shown.certificate_sha256 {
            None => return Err(ProofError::CertificateMissing),
            Some(seen) if seen != wanted => return Err(ProofError::CertificateWrong),
            Some(_) => proven.shown = Some(SenderConstraint::Mtls),
        }
    }
    match (binding.key, as_dpop) {
        (None, false) => Ok(proven),
        (None, true) => Err(ProofError::NotBoundToKey),
        (Some(_), false) => Err(ProofError::SentAsBearer),
        (Some(key), true) => {
            let rules = &proven.user.sender_rules().proofs;
            let proof = dpop::check(shown, key, &token_sha256, rules, now)?;
            if rules.nonce == Nonce::Required {
                proven.nonce_ages = match proofs.nonces.judge(proof.nonce.as_deref(), now) {
                    Freshness::Fresh => false,
                    Freshness::Ages => true,
                    Freshness::Stale => return Err(ProofError::NonceWanted),
                };
            }
            // Last, so that nobody without a sound proof takes room.
            proofs.used.enter(&key, &proof, rules.max_age_s, now)?;
            proven.shown = Some(SenderConstraint::Dpop);
            Ok(proven)
        }
    }
}

/// Whether a token that is bound the way this one is counts at all.
fn check_demands(user: &EndUser) -> Result<(), ProofError> {
    let (rules, binding): (&SenderRules, _) = (user.sender_rules(), user.binding());
    let kinds = [
        (rules.dpop, binding.key, "DPoP"),
        (rules.mtls, binding.certificate, "client certificate"),
    ];
    for (demand, bound, kind) in kinds {
        match (demand, bound) {
            (Demand::Off, Some(_)) => return Err(ProofError::NotTaken { kind }),
            (Demand::Required, None) => return Err(ProofError::NotBound),
            (Demand::Off | Demand::Optional, None) | (Demand::Optional | Demand::Required, _) => {}
        }
    }
    if rules.bearer == BearerTokens::Refused && !binding.is_bound() {
        return Err(ProofError::NotBound);
    }
    Ok(())
}
