//! Every way this crate says no. [`VerifyError`] is closed: a new variant must visit every place
//! that answers for it. Texts name the rule that was broken; what a peer wrote is never repeated,
//! except identities, which are safe to print by their grammar.

use countersign_workload_id::WorkloadId;

use crate::{Algorithm, Origin};

/// Why a token was refused. [`reason`](Self::reason) is the stable name for metrics and audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `aud` is not the verifier's trust domain.
    #[error("the token was made for another trust domain")]
    AudienceWrong,
    /// A claim is missing, of the wrong type, out of bounds or contradicts another.
    #[error("claim `{claim}` {problem}")]
    ClaimInvalid {
        /// Name of the claim, nested names with dots.
        claim: &'static str,
        /// What is wrong with it.
        problem: ClaimProblem,
    },
    /// The issuer signed something its entry in the allow-list does not cover.
    #[error("the issuer may not mint this: {0}")]
    ConstraintViolated(Constraint),
    /// The path from the token's first holder does not end at the mTLS peer.
    #[error("custody is broken: {0}")]
    CustodyBroken(CustodyProblem),
    /// Certificates of signers of hop records are not known here: their SHA-256, each once. The
    /// sender repeats the request with them.
    #[error("{} certificate(s) of signers of hop records are not known", thumbprints.len())]
    HopCertUnknown {
        /// SHA-256 of each missing leaf.
        thumbprints: Vec<[u8; 32]>,
    },
    /// `Countersign-Hops` is not a list of hop records of this profile.
    #[error("not a list of hop records: {0}")]
    HopsMalformed(&'static str),
    /// `Countersign-Hops` is longer than the limit.
    #[error("the list of hop records has {bytes} bytes, the limit is {limit}")]
    HopsTooLarge {
        /// Bytes received.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// `iss` is not on the allow-list.
    #[error("the issuer is not on the allow-list")]
    IssuerNotAllowed,
    /// There is no usable key for what the header names.
    #[error("no key: {0}")]
    KeyUnknown(KeyProblem),
    /// The issuer is listed, but its key set is not loaded or too old.
    #[error("the key set of the issuer is not loaded or too old")]
    KeysUnavailable,
    /// This peer may not present tokens on this path.
    #[error("the peer may not present a token here")]
    PresenterRefused,
    /// The signature does not fit the bytes and the key.
    #[error("the signature does not fit")]
    SignatureInvalid,
    /// More than one token, as two fields or joined with a comma. Two fields are seen by the
    /// caller, who owns the headers.
    #[error("more than one token in the request")]
    TokenDuplicated,
    /// The token has ended.
    #[error("the token ended {by_secs} s ago (skew allowed for)")]
    TokenExpired {
        /// Seconds since `exp`.
        by_secs: u64,
    },
    /// Not a compact JWS of this profile.
    #[error("not a context token: {0}")]
    TokenMalformed(&'static str),
    /// Longer than the limit.
    #[error("the token has {bytes} bytes, the limit is {limit}")]
    TokenTooLarge {
        /// Bytes received.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl VerifyError {
    /// The stable reason code, also the metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AudienceWrong => "audience_wrong",
            Self::ClaimInvalid { .. } => "claim_invalid",
            Self::ConstraintViolated(_) => "constraint_violated",
            Self::CustodyBroken(_) => "custody_broken",
            Self::HopCertUnknown { .. } => "hops_cert_unknown",
            Self::HopsMalformed(_) => "hops_malformed",
            Self::HopsTooLarge { .. } => "hops_too_large",
            Self::IssuerNotAllowed => "issuer_not_allowed",
            Self::KeyUnknown(_) => "key_unknown",
            Self::KeysUnavailable => "keys_unavailable",
            Self::PresenterRefused => "presenter_refused",
            Self::SignatureInvalid => "signature_invalid",
            Self::TokenDuplicated => "token_duplicated",
            Self::TokenExpired { .. } => "token_expired",
            Self::TokenMalformed(_) => "token_malformed",
            Self::TokenTooLarge { .. } => "token_too_large",
        }
    }
}

/// What is wrong with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimProblem {
    /// The value breaks the claim's own rule: length, characters, range.
    #[error("has a value outside its limits")]
    BadValue,
    /// The claim contradicts another one.
    #[error("contradicts another claim")]
    Contradiction,
    /// A member that this profile cannot honour is present.
    #[error("is present, and this profile cannot honour it")]
    Forbidden,
    /// Issued later than now: a clock differs.
    #[error("lies in the future: the issuer's clock is ahead by {by_secs} s")]
    InFuture {
        /// Seconds from now to the claim.
        by_secs: u64,
    },
    /// `exp - iat` over the cap.
    #[error("gives a life of {secs} s, which is too long")]
    LifeTooLong {
        /// `exp - iat`.
        secs: u64,
    },
    /// A required member is absent.
    #[error("is missing")]
    Missing,
    /// `iss` is not the owner of the key.
    #[error("does not own the signing key")]
    NotKeyOwner,
    /// `exp` is later than the end of the certificate that signed.
    #[error("is {by_secs} s later than the end of the signer's certificate")]
    OutlivesSigner {
        /// Seconds from the certificate's end to `exp`.
        by_secs: u64,
    },
    /// `rctx.v` names a version this code does not know.
    #[error("names an unknown profile version")]
    UnknownVersion,
    /// A value of another JSON type.
    #[error("has the wrong JSON type")]
    WrongType,
}

/// Which part of an issuer's entry forbids the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Constraint {
    /// `rctx.origin` is not listed.
    #[error("origin `{0}` is not allowed to it")]
    Origin(Origin),
    /// A scope name matches no pattern.
    #[error("a scope is not allowed to it")]
    Scope,
    /// The subject matches no pattern.
    #[error("this subject is not allowed to it")]
    Subject,
    /// `exp - iat` is over the entry's own cap.
    #[error("a life of {secs} s is over its limit of {limit} s")]
    TimeToLive {
        /// `exp - iat`.
        secs: u64,
        /// The entry's cap.
        limit: u64,
    },
}

/// Why custody cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CustodyProblem {
    /// The peer's own record is for another callee.
    #[error("the last hop record is addressed to another workload")]
    AddressedToAnother,
    /// A record contradicts the token, its neighbour or its certificate.
    #[error("hop record {at} (from 0) {what}")]
    BadRecord {
        /// Position in the list.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The issuer itself presents a token that it handed to somebody else.
    #[error("the issuer made this token for {to}, not for this workload")]
    MadeForAnother {
        /// The first holder the token names.
        to: WorkloadId,
    },
    /// The peer is neither the issuer nor the first holder, and no record leads to it.
    #[error("{peer} presents a token handed to {to}, and nothing shows how it got there")]
    NoPathToPeer {
        /// The mTLS peer.
        peer: WorkloadId,
        /// The first holder the token names.
        to: WorkloadId,
    },
    /// The peer's own record was made with another certificate than the connection's.
    #[error("the last hop record is signed under another certificate than the connection's")]
    OtherCertificate,
    /// The list does not begin at the token's first holder.
    #[error("the hop records do not begin at {to}, the first holder")]
    StartsElsewhere {
        /// The first holder the token names.
        to: WorkloadId,
    },
}

/// Why no hop record was made. The request must not go out with this token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// The records so far lead to another workload.
    #[error("the hop records do not lead to this workload")]
    NotTheHolder,
    /// The scope breaks a rule of the token's own, or is wider than what is left.
    #[error("the scope of the hop record is not part of what is left")]
    ScopeInvalid,
    /// The library could not sign.
    #[error("the hop record could not be signed")]
    Sign(#[from] SignError),
    /// The field would be longer than receivers read.
    #[error("the list of hop records would have {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes it would have.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// One record too many, which usually is a loop.
    #[error("the token was passed on {limit} times, which usually is a loop")]
    TooMany {
        /// Records allowed.
        limit: usize,
    },
}

/// Why the header's `kid` or `x5c` leads to no usable key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The key's own algorithm differs from the header's.
    #[error("the header says {header}, the key is for {key}")]
    AlgorithmMismatch {
        /// `alg` of the header.
        header: Algorithm,
        /// The algorithm of the key record.
        key: Algorithm,
    },
    /// The certificate chain was refused.
    #[error("the certificate chain is not valid: {0}")]
    ChainInvalid(String),
    /// The issuer's entry does not accept this key form.
    #[error("the issuer may not use this key form")]
    FormNotAllowed,
    /// No key of this name in the issuer's set.
    #[error("no key of this name in the issuer's set")]
    NoSuchKid,
    /// The key exists, but its own `nbf`/`exp` exclude now.
    #[error("the key is not valid now")]
    NotValidNow,
}

/// Why a token could not be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The certificate chain cannot stand in a header: none, more than three, or too large.
    #[error("the signing certificate chain does not fit a token header: {0}")]
    ChainUnusable(&'static str),
    /// The issuer's own constraints forbid the token; every verifier would refuse it.
    #[error("the issuer's own constraints forbid this token: {0}")]
    ConstraintViolated(Constraint),
    /// The context breaks a rule that every verifier applies.
    #[error("this context cannot be put into a token")]
    Context(#[from] InvalidContext),
    /// The `kid` is not 16 characters of base64url.
    #[error("a key name has 16 characters of base64url")]
    KeyNameInvalid,
    /// The library could not sign.
    #[error("the token could not be signed")]
    Sign(#[from] SignError),
    /// The signing certificate has ended, so any token would be refused.
    #[error("the signing certificate has ended")]
    SignerExpired,
    /// The token would be longer than the limit for its key form.
    #[error("the token would have {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes it would have.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A lifetime of zero, or over the cap of the profile.
    #[error("a token lives 1..={limit} s, not {secs} s")]
    TtlInvalid {
        /// Seconds asked for.
        secs: u64,
        /// The cap.
        limit: u64,
    },
}

/// A context value that breaks a rule of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{claim}` {problem}")]
pub struct InvalidContext {
    /// Name of the claim, nested names with dots.
    pub claim: &'static str,
    /// What is wrong with it.
    pub problem: ClaimProblem,
}

impl From<InvalidContext> for VerifyError {
    fn from(invalid: InvalidContext) -> Self {
        Self::ClaimInvalid { claim: invalid.claim, problem: invalid.problem }
    }
}

/// The signature library gave no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signing key gave no signature")]
pub struct SignError;

/// A private or public key that cannot be used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// Neither P-256 nor Ed25519.
    #[error(
        "only P-256 and Ed25519 keys can sign or verify context tokens (SPIRE: workload_x509_svid_key_type = \"ec-p256\")"
    )]
    Unsupported,
    /// P-256 or Ed25519 by name, but the bytes are no such key.
    #[error("the key's bytes are not a valid key of its kind")]
    Invalid,
}

/// Why a JWK set was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not strict JSON of the expected shape.
    #[error("not a JWK set: {0}")]
    Malformed(&'static str),
    /// Longer than the limit.
    #[error("the key set is longer than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// More keys than the limit.
    #[error("the key set has more than {limit} keys")]
    TooManyKeys {
        /// Keys allowed.
        limit: usize,
    },
    /// One key is unusable, which makes the whole set suspect.
    #[error("key {index} (from 0): {problem}")]
    BadKey {
        /// Position in `keys`.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why a list of issuers was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuersError {
    /// Two entries for one ID.
    #[error("issuer {0} is listed twice")]
    Duplicate(WorkloadId),
}
