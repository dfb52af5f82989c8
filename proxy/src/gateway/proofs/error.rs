//! Why a token does not count although it is genuine: nothing shows that its sender may use it.
//! Texts name the check that failed and never repeat what a client wrote.

use crate::refusal::{Refusal, Refused, Stage};

/// Why a proof of possession does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// The provider document does not list the proof's algorithm.
    #[error("the algorithm of the DPoP proof is not listed for the provider")]
    AlgorithmNotPermitted,
    /// The token is bound to a certificate and the connection has none.
    #[error(
        "the user token is bound to a client certificate and the connection has none; is the \
         listener one that asks for it (`clientRoots` or `clientCertificates: any`)?"
    )]
    CertificateMissing,
    /// The certificate the token is bound to was withdrawn.
    #[error("the user token is bound to a client certificate that a Revocation names")]
    CertificateRevoked,
    /// The connection's certificate is another one.
    #[error("the user token is bound to another client certificate than the connection's")]
    CertificateWrong,
    /// `iat` lies ahead of our clock.
    #[error("the DPoP proof was made {by_s} s from now; the client's clock is ahead")]
    FromTheFuture {
        /// Seconds until `iat`.
        by_s: u64,
    },
    /// The proof is made with a key the token is not bound to.
    #[error("the DPoP proof is made with another key than the token is bound to (`cnf.jkt`)")]
    KeyWrong,
    /// Not a DPoP proof.
    #[error("the DPoP proof is malformed: {0}")]
    Malformed(&'static str),
    /// The proof is for another method.
    #[error("the DPoP proof is for another method (`htm`)")]
    MethodWrong,
    /// The token needs a proof and no `DPoP` field came.
    #[error("the user token is bound to a key and the request has no DPoP proof")]
    Missing,
    /// A proof must repeat a nonce of ours, and this one does not.
    #[error("the DPoP proof repeats no current nonce of this gateway")]
    NonceWanted,
    /// The token is bound, and there is no way to show a proof here.
    #[error("the user token is bound to its sender, and no proof can be shown here")]
    NoPlaceForProof,
    /// The provider document demands a binding that the token has not.
    #[error("the user token is not bound as the provider document demands (`senderConstraint`)")]
    NotBound,
    /// Sent as `DPoP`, but bound to no key.
    #[error("the user token was sent as `DPoP` and is bound to no key")]
    NotBoundToKey,
    /// The provider document does not take tokens that are bound this way.
    #[error("the user token is bound ({kind}), which the provider document does not take")]
    NotTaken {
        /// The kind of binding.
        kind: &'static str,
    },
    /// More than one `DPoP` field.
    #[error("the request has more than one DPoP proof")]
    Repeated,
    /// The proof was used before.
    #[error("the DPoP proof was used before")]
    Replayed,
    /// A token bound to a key, sent as if it were not.
    #[error("the user token is bound to a key and was sent as `Bearer`")]
    SentAsBearer,
    /// The signature does not fit.
    #[error("the signature of the DPoP proof is wrong")]
    SignatureInvalid,
    /// The proof is for another token.
    #[error("the DPoP proof is for another token (`ath`)")]
    TokenWrong,
    /// The proof is too old.
    #[error("the DPoP proof was made {by_s} s ago; the provider document allows less")]
    TooOld {
        /// Seconds since `iat`.
        by_s: u64,
    },
    /// The proofs in use fill what we can remember.
    #[error("too many DPoP proofs are in use to tell whether this one was used before")]
    TooMany,
    /// The proof is for another URL.
    #[error("the DPoP proof is for another URL (`htu`)")]
    UrlWrong,
}

impl ProofError {
    /// The sub-reason: metric label and part of the reason in audit.
    pub fn sub(self) -> &'static str {
        match self {
            ProofError::AlgorithmNotPermitted => "proof_algorithm",
            ProofError::CertificateMissing => "certificate_missing",
            ProofError::CertificateRevoked => "certificate_revoked",
            ProofError::CertificateWrong => "certificate_wrong",
            ProofError::FromTheFuture { .. } => "proof_from_the_future",
            ProofError::KeyWrong => "proof_key",
            ProofError::Malformed(_) => "proof_malformed",
            ProofError::MethodWrong => "proof_method",
            ProofError::Missing => "proof_missing",
            ProofError::NonceWanted => "proof_nonce",
            ProofError::NoPlaceForProof => "no_place_for_proof",
            ProofError::NotBound => "not_bound",
            ProofError::NotBoundToKey => "not_bound_to_key",
            ProofError::NotTaken { .. } => "binding_not_taken",
            ProofError::Repeated => "proof_repeated",
            ProofError::Replayed => "proof_replayed",
            ProofError::SentAsBearer => "sent_as_bearer",
            ProofError::SignatureInvalid => "proof_signature",
            ProofError::TokenWrong => "proof_token",
            ProofError::TooOld { .. } => "proof_too_old",
            ProofError::TooMany => "proofs",
            ProofError::UrlWrong => "proof_url",
        }
    }

    /// The refusal it is.
    pub fn refused(self) -> Refused {
        let refusal = match self {
            ProofError::TooMany => Refusal::Overloaded,
            _ => Refusal::UserProofInvalid,
        };
        Refused::new(refusal, Stage::Identify, self.to_string()).with_sub(self.sub())
    }
}
