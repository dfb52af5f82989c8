//! `IdentityProvider`: who logs end users in, with which keys, and which claims count.

use std::collections::BTreeMap;

use super::{ApiServer, FileRef};

/// An issuer of end-user tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityProvider {
    /// The `iss` value, compared byte for byte.
    pub issuer: String,
    /// Accepted `aud` values; never empty.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms; never empty.
    pub algorithms: Vec<UserAlgorithm>,
    /// Accepted `typ` header values.
    pub token_types: Vec<String>,
    /// Where the keys come from.
    pub keys: ProviderKeys,
    /// Where a request carries the credential.
    pub from: Vec<CredentialSource>,
    /// Claims that exist for policy; undeclared ones do not.
    pub claims: BTreeMap<String, ClaimDeclaration>,
    /// Put before the id in `sub` (`user:<prefix>/<id>`); at most one provider has none.
    pub subject_prefix: Option<String>,
    /// Scopes its users hold when its tokens carry no `scope`; `None`: the token must say.
    pub grants: Option<Vec<String>>,
    /// Claims without which a token does not count, each with the texts it may have.
    pub required_claims: BTreeMap<String, Vec<String>>,
    /// How its tokens are bound to whoever may use them.
    pub sender: SenderRules,
}

impl IdentityProvider {
    /// The claim that fills this role.
    pub fn claim_for(&self, role: ClaimRole) -> Option<(&str, &ClaimDeclaration)> {
        self.claims
            .iter()
            .find(|(_, declared)| declared.role == Some(role))
            .map(|(name, declared)| (name.as_str(), declared))
    }
}

closed_names! {
    /// Signature algorithms of user tokens. `none` and HMAC do not exist in this type.
    UserAlgorithm {
        /// RSASSA-PKCS1-v1_5, SHA-256.
        RS256 = "RS256",
        /// RSASSA-PKCS1-v1_5, SHA-384.
        RS384 = "RS384",
        /// RSASSA-PKCS1-v1_5, SHA-512.
        RS512 = "RS512",
        /// RSASSA-PSS, SHA-256.
        PS256 = "PS256",
        /// RSASSA-PSS, SHA-384.
        PS384 = "PS384",
        /// RSASSA-PSS, SHA-512.
        PS512 = "PS512",
        /// ECDSA, P-256.
        ES256 = "ES256",
        /// ECDSA, P-384.
        ES384 = "ES384",
        /// Ed25519; tokens call it `EdDSA` or `Ed25519`.
        Ed25519 = "EdDSA",
    }
}

/// Where the provider's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ProviderKeys {
    /// OpenID discovery at the issuer.
    Discovery {
        /// The API server to ask instead of the issuer's own address, which pods may not reach.
        api_server: Option<ApiServer>,
        /// Hosts the metadata and key URLs may name.
        allowed_hosts: Vec<String>,
        /// Seconds between refreshes.
        refresh_s: u64,
        /// Seconds between two fetches because of an unknown key id.
        unknown_key_cooldown_s: u64,
        /// Seconds after which keys that could not be refreshed no longer count.
        max_stale_s: u64,
    },
    /// A JWK set file.
    File(FileRef),
}

/// One place a credential may stand in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSource {
    /// Header name, lower case.
    pub header: String,
    /// Scheme before the token, such as `Bearer`.
    pub scheme: Option<String>,
}

/// `senderConstraint`: which proofs of possession count, and whether tokens may do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderRules {
    /// Tokens bound to a key of the client (`cnf.jkt`, RFC 9449).
    pub dpop: Demand,
    /// Tokens bound to a client certificate (`cnf.x5t#S256`, RFC 8705).
    pub mtls: Demand,
    /// Tokens bound to nothing.
    pub bearer: BearerTokens,
    /// What a DPoP proof must be like.
    pub proofs: ProofRules,
}

impl Default for SenderRules {
    fn default() -> SenderRules {
        SenderRules {
            dpop: Demand::Off,
            mtls: Demand::Off,
            bearer: BearerTokens::Taken,
            proofs: ProofRules::default(),
        }
    }
}

/// What a provider's tokens must say about one kind of binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A token bound this way is refused: nobody here would check the proof.
    Off,
    /// A token bound this way must come with its proof.
    Optional,
    /// Every token must be bound this way.
    Required,
}

/// Whether tokens that are bound to nothing count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BearerTokens {
    /// They count.
    Taken,
    /// They are refused.
    Refused,
}

/// `senderConstraint.proofs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRules {
    /// Accepted signature algorithms of proofs; never empty.
    pub algorithms: Vec<UserAlgorithm>,
    /// Seconds after which a proof no longer counts.
    pub max_age_s: u64,
    /// Whether a proof must repeat a nonce of this gateway.
    pub nonce: Nonce,
}

impl Default for ProofRules {
    fn default() -> ProofRules {
        let algorithms = vec![UserAlgorithm::ES256, UserAlgorithm::Ed25519];
        ProofRules { algorithms, max_age_s: 60, nonce: Nonce::Off }
    }
}

/// Whether proofs must repeat a nonce of this gateway (RFC 9449 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// None is asked for.
    Off,
    /// A proof without a current one is answered with one.
    Required,
}

/// A claim that policy may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimDeclaration {
    /// Declared type.
    pub kind: ClaimType,
    /// What it means to countersign.
    pub role: Option<ClaimRole>,
    /// Of a list, only these values are kept; empty: all.
    pub keep: Vec<String>,
    /// Names of the objects it stands in, outermost first, and its own there; empty: the claim
    /// stands at the top, under the name it is declared with.
    pub at: Vec<String>,
}

/// Types of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimType {
    /// A JSON string.
    String,
    /// An array of strings.
    StringList,
    /// An integer.
    Int,
    /// A boolean.
    Bool,
    /// Seconds since 1970.
    Timestamp,
}

/// `as:` of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimRole {
    /// The user's id.
    Id,
    /// What resource paths call the user.
    AccountId,
    /// When the user logged in.
    AuthTime,
    /// Group names.
    Groups,
}
