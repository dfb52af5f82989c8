//! Why a workload outside the mesh is not taken for whom its token names: one variant per check.
//! Texts name the rule that was broken, and never repeat a token.

use crate::refusal::{Refusal, Refused, Stage};

/// Why a caller's token does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallerError {
    /// The algorithm is none of those of its kind of token, or the key is for another one.
    #[error("the signature algorithm of the token is not one that its kind of token may have")]
    AlgorithmNotPermitted,
    /// The token is meant for somebody else.
    #[error("the token is not for this mesh: none of its `aud` is `{ours}`")]
    AudienceWrong {
        /// What we listen to.
        ours: String,
    },
    /// A claim is missing or of another type.
    #[error("claim `{0}` of the token is missing, or of another form than its kind of token has")]
    ClaimInvalid(&'static str),
    /// The review says something else than the token.
    #[error("the API server says of the token that its {0} is another than the token states")]
    Contradicted(&'static str),
    /// The token has ended.
    #[error("the token ended {by_s} s ago; read its file again at each use")]
    Expired {
        /// Seconds since `exp`.
        by_s: u64,
    },
    /// The header of a JWT-SVID has members that none has.
    #[error("the header of a JWT-SVID has `alg`, `kid` and `typ: JWT` or `JOSE`, and nothing else")]
    HeaderForbidden,
    /// Nobody published that key.
    #[error("no key `{kid}` among those of {whose}")]
    KeyUnknown {
        /// As the token names it.
        kid: String,
        /// The cluster or the trust domain.
        whose: String,
    },
    /// It lives longer than such a token may.
    #[error("the token lives {life_s} s, at most {max_s} s are accepted: {hint}")]
    LifeTooLong {
        /// `exp - iat`.
        life_s: u64,
        /// What is accepted.
        max_s: u64,
        /// What to do.
        hint: &'static str,
    },
    /// Not a compact JWS of the right form.
    #[error("{0}")]
    Malformed(&'static str),
    /// The API server does not know the token, or knows that it no longer counts.
    #[error("the API server does not accept the token: {0}")]
    NotAuthenticated(String),
    /// The token begins in the future.
    #[error("the token begins {ahead_s} s from now; a clock is off")]
    NotYetValid {
        /// Seconds until `nbf` or `iat`.
        ahead_s: u64,
    },
    /// It came over a connection without TLS.
    #[error("the token came without TLS: whoever was on the way has it now")]
    Plaintext,
    /// A `Revocation` names the workload or its pod.
    #[error("a Revocation names this {0}")]
    Revoked(&'static str),
    /// The signature does not fit.
    #[error("the signature of the token is wrong")]
    SignatureInvalid,
    /// The subject is no workload that may call here.
    #[error("{0}")]
    SubjectInvalid(&'static str),
    /// It is not bound to a pod.
    #[error(
        "the service account token is not bound to a pod; project one into the pod \
         (`serviceAccountToken` volume), tokens of Secrets and of `kubectl create token` are refused"
    )]
    Unbound,
    /// Who could tell cannot be asked, or has not told in time.
    #[error("{0}")]
    Unverifiable(String),
}

impl CallerError {
    /// The sub-reason for audit and metrics.
    pub fn sub(&self) -> &'static str {
        match self {
            CallerError::AlgorithmNotPermitted => "algorithm",
            CallerError::AudienceWrong { .. } => "audience",
            CallerError::ClaimInvalid(_) => "claim",
            CallerError::Contradicted(_) => "contradicted",
            CallerError::Expired { .. } => "expired",
            CallerError::HeaderForbidden => "header",
            CallerError::KeyUnknown { .. } => "key_unknown",
            CallerError::LifeTooLong { .. } => "life",
            CallerError::Malformed(_) => "malformed",
            CallerError::NotAuthenticated(_) => "not_authenticated",
            CallerError::NotYetValid { .. } => "not_yet_valid",
            CallerError::Plaintext => "plaintext",
            CallerError::Revoked(_) => "revoked",
            CallerError::SignatureInvalid => "signature",
            CallerError::SubjectInvalid(_) => "subject",
            CallerError::Unbound => "unbound",
            CallerError::Unverifiable(_) => "unverifiable",
        }
    }

    /// The refusal of the request.
    pub fn refused(&self) -> Refused {
        let detail = self.to_string();
        match self {
            CallerError::Expired { .. } => {
                Refused::new(Refusal::CallerTokenExpired, Stage::Identify, detail)
            }
            CallerError::Unverifiable(_) => {
                Refused::new(Refusal::CallerUnverifiable, Stage::Identify, detail)
            }
            _ => Refused::new(Refusal::CallerTokenInvalid, Stage::Identify, detail)
                .with_sub(self.sub()),
        }
    }
}
