//! Why a user could not be identified: one variant per check, a few stable reasons for callers,
//! metrics and audit. Texts name the rule that was broken and never repeat what a client wrote.

use std::sync::Arc;

/// Why a user could not be identified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentifyError {
    /// The provider's document does not permit the algorithm, or the key is for another one.
    #[error("the signature algorithm of the user token is not permitted for its issuer")]
    AlgorithmNotPermitted,
    /// The token is meant for somebody else.
    #[error("the user token is not addressed to this gateway (`aud`)")]
    AudienceWrong,
    /// The token is bound to its sender in a way nobody here can check.
    #[error("the user token is bound to its sender (`cnf`) in a way this gateway cannot check")]
    BindingUnknown,
    /// A claim the provider document requires is missing or says something else.
    #[error("claim `{claim}` of the user token is not what the provider document requires")]
    ClaimNotAccepted {
        /// The name of the claim, from the provider document.
        claim: String,
    },
    /// A claim is missing, has another type than declared, or is too large.
    #[error(
        "claim `{claim}` of the user token is missing, of another type than declared, or too large"
    )]
    ClaimInvalid {
        /// The name of the claim, from the provider document.
        claim: String,
    },
    /// The token has ended.
    #[error("the user token ended {by_secs} s ago; if it is new, a clock is off")]
    Expired {
        /// Seconds since `exp`.
        by_secs: u64,
    },
    /// No provider of this gateway issues such tokens.
    #[error("no configured identity provider has the issuer of the user token")]
    IssuerUnknown,
    /// The provider is known, but its keys could not be fetched or are too old.
    #[error("no current keys of identity provider `{provider}`")]
    KeysUnavailable {
        /// The provider's name.
        provider: Arc<str>,
    },
    /// The provider has no such key; its keys are fetched again in the background.
    #[error("identity provider `{provider}` has no key with the id the user token names")]
    KeyUnknown {
        /// The provider's name.
        provider: Arc<str>,
    },
    /// Not a bearer token, or not a JWT of an acceptable form.
    #[error("{0}")]
    Malformed(&'static str),
    /// No user token was sent, and this gateway demands one.
    #[error("no user token was sent")]
    Missing,
    /// The token begins in the future.
    #[error("the user token begins {ahead_secs} s from now; its issuer's clock is ahead")]
    NotYetValid {
        /// Seconds until `nbf` or `iat`.
        ahead_secs: u64,
    },
    /// The signature does not fit.
    #[error("the signature of the user token is wrong")]
    SignatureInvalid,
    /// The token is of another kind (`typ`), such as an ID token where access tokens are asked for.
    #[error("the user token is of a type its issuer's document does not list (`typ`)")]
    TypeWrong,
}

impl IdentifyError {
    /// The stable name of the refusal; also the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            IdentifyError::AlgorithmNotPermitted
            | IdentifyError::AudienceWrong
            | IdentifyError::BindingUnknown
            | IdentifyError::ClaimNotAccepted { .. }
            | IdentifyError::IssuerUnknown
            | IdentifyError::KeyUnknown { .. }
            | IdentifyError::NotYetValid { .. }
            | IdentifyError::SignatureInvalid
            | IdentifyError::TypeWrong => "user_token_invalid",
            IdentifyError::ClaimInvalid { .. } => "user_claim_invalid",
            IdentifyError::Expired { .. } => "user_token_expired",
            IdentifyError::KeysUnavailable { .. } => "user_keys_unavailable",
            IdentifyError::Malformed(_) => "user_token_malformed",
            IdentifyError::Missing => "user_token_missing",
        }
    }

    /// 503 when the fault is ours to wait for, 401 otherwise.
    pub fn status(&self) -> http::StatusCode {
        match self {
            IdentifyError::KeysUnavailable { .. } => http::StatusCode::SERVICE_UNAVAILABLE,
            _ => http::StatusCode::UNAUTHORIZED,
        }
    }
}
