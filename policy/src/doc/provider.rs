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

/// A claim that policy may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimDeclaration {
    /// Declared type.
    pub kind: ClaimType,
    /// What it means to countersign.
    pub role: Option<ClaimRole>,
    /// Of a list, only these values are kept; empty: all.
    pub keep: Vec<String>,
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
