//! Why an exchange is refused: a fine reason for the record, a coarse code for the requester.
//!
//! Codes are those of RFC 6749 §5.2 and RFC 8693 §2.2.2, which wants `invalid_request` for every
//! subject token that does not count. Invariant: the answer holds nothing the request held.

use crate::refusal::{Refusal, Refused, Stage};

/// A refused exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError {
    /// Which rule refused it.
    pub why: Why,
    /// What was seen, for audit and `why`; never a token.
    pub detail: String,
}

macro_rules! reasons {
    ($($variant:ident => $reason:literal, $code:literal, $refusal:ident, $says:literal;)*) => {
        /// Which rule refuses an exchange. Closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Why {
            $(#[doc = $says] $variant,)*
        }

        impl Why {
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [Why] = &[$(Why::$variant,)*];

            /// The name in records and metrics.
            pub const fn reason(self) -> &'static str {
                match self { $(Why::$variant => $reason,)* }
            }

            /// `error` of the answer.
            pub const fn code(self) -> &'static str {
                match self { $(Why::$variant => $code,)* }
            }

            /// `error_description` of the answer.
            pub const fn says(self) -> &'static str {
                match self { $(Why::$variant => $says,)* }
            }

            /// The row of the table of refusals.
            pub const fn refusal(self) -> Refusal {
                match self { $(Why::$variant => Refusal::$refusal,)* }
            }
        }
    };
}

reasons! {
    AsNotPermitted => "as_not_permitted", "invalid_request", TokenRequestRefused, "the requester may not act for this subject";
    ContextInvalid => "context_invalid", "invalid_request", TokenRequestRefused, "what was stated does not fit a context token";
    FormMalformed => "form_malformed", "invalid_request", TokenRequestRefused, "the form is malformed, or a parameter is missing, repeated or unknown";
    GrantType => "grant_type", "unsupported_grant_type", TokenRequestRefused, "only token exchange is served here";
    GrantInvalid => "grant_invalid", "invalid_request", TokenRequestRefused, "the deferred grant does not count here";
    GrantLife => "grant_life", "invalid_request", TokenRequestRefused, "a deferred grant may not live that long";
    GrantOfAnother => "grant_of_another", "invalid_request", TokenRequestRefused, "the deferred grant is for another workload";
    GrantSpent => "grant_spent", "invalid_request", TokenRequestRefused, "the deferred grant was redeemed too often";
    IssuerForbids => "issuer_forbids", "invalid_request", TokenRequestRefused, "the issuer may not make such a token";
    JustificationRefused => "justification_refused", "invalid_request", TokenRequestRefused, "the justification does not hold";
    JustificationUnchecked => "justification_unchecked", "invalid_request", TokenRequestRefused, "acting for somebody needs a justification that was checked";
    KeysMissing => "keys_missing", "temporarily_unavailable", UserKeysUnavailable, "keys that verify the subject token are not loaded";
    MessageDiffers => "message_differs", "invalid_request", TokenRequestRefused, "the deferred grant is for another message";
    NoGrantKey => "no_grant_key", "temporarily_unavailable", IdentityUnavailable, "the service has no key for deferred grants now";
    NoIssuer => "no_issuer", "temporarily_unavailable", IdentityUnavailable, "the service cannot sign now";
    NoService => "no_service", "invalid_request", TokenRequestRefused, "this process serves no tokens";
    OriginNotPermitted => "origin_not_permitted", "unauthorized_client", TokenRequestRefused, "the requester gets no tokens of this origin";
    RateLimited => "requester_rate", "temporarily_unavailable", RateLimited, "too many requests of this workload";
    ReplacedTooOften => "replaced_too_often", "invalid_request", TokenRequestRefused, "the tokens of this transaction were replaced too often";
    RequestedTypeUnsupported => "requested_type", "invalid_request", TokenRequestRefused, "this type of token is not issued here";
    RequesterUnlisted => "requester_unlisted", "unauthorized_client", TokenRequestRefused, "the requester is not listed";
    ScopeNotGranted => "scope_not_granted", "invalid_scope", TokenRequestRefused, "nothing of the scope is granted";
    SubjectExpired => "subject_expired", "invalid_request", TokenRequestRefused, "the subject token has ended";
    SubjectInvalid => "subject_invalid", "invalid_request", TokenRequestRefused, "the subject token does not count";
    SubjectNotHeld => "subject_not_held", "invalid_request", TokenRequestRefused, "the requester does not hold the subject token";
    SubjectNotPermitted => "subject_not_permitted", "unauthorized_client", TokenRequestRefused, "the requester may not bring this type of subject token";
    SubjectRevoked => "subject_revoked", "invalid_request", TokenRequestRefused, "the subject is revoked";
    SubjectTypeUnsupported => "subject_type", "invalid_request", TokenRequestRefused, "this type of subject token is never accepted";
    TargetWrong => "target_wrong", "invalid_target", TokenRequestRefused, "the audience is not this trust domain";
    ValidatorUnavailable => "validator_unavailable", "temporarily_unavailable", ValidatorUnavailable, "whoever checks the justification does not answer";
}

impl Why {
    /// A refusal for this reason.
    pub fn error(self, detail: impl Into<String>) -> TokenError {
        TokenError { why: self, detail: detail.into() }
    }
}

impl TokenError {
    /// As the account of the request keeps it.
    pub fn refused(&self) -> Refused {
        let refused = Refused::new(self.why.refusal(), Stage::Mint, self.detail.clone());
        refused.with_sub(self.why.reason())
    }
}
