//! One end-user token issuer as the gateway uses it: what its tokens must look like and where its
//! keys come from. Made from an `IdentityProvider` document; everything is resolved here, so that
//! `identify` only compares and `provider_keys` only fetches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::user_keys::UserAlgorithm;

/// Settings of one identity provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Provider {
    /// Our name for it: the `IdentityProvider` document's name, `rctx.idp`.
    pub name: String,
    /// The exact `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// Accepted `aud` values; never empty.
    pub audiences: Vec<String>,
    /// Accepted signature algorithms; never empty.
    pub algorithms: Vec<UserAlgorithm>,
    /// Accepted `typ` values. A token without `typ` counts as `JWT`.
    pub token_types: Vec<String>,
    /// Declared claims by name. What is not declared here does not exist.
    pub claims: BTreeMap<String, DeclaredClaim>,
    /// How subjects of this provider are named in the trust domain.
    pub subjects: SubjectPrefix,
    /// Where the keys come from.
    pub keys: KeySource,
}

/// How `sub` of a context token is made from a user id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SubjectPrefix {
    /// `user:<id>`: for one provider per trust domain.
    None,
    /// `user:<provider>/<id>`.
    ProviderName,
}

/// A claim the provider document declares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeclaredClaim {
    /// The type its value must have.
    pub kind: ClaimKind,
    /// The fact it becomes.
    pub role: ClaimRole,
    /// For lists: the members that are kept; everything else is dropped. `None` keeps all.
    pub keep: Option<Vec<String>>,
}

/// The declared type of a claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClaimKind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// Text.
    String,
    /// A list of texts.
    StringList,
    /// Seconds since 1970.
    Timestamp,
}

/// What a declared claim is used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClaimRole {
    /// `user.accountId`, `rctx.acct`.
    AccountId,
    /// `user.authTime`, `rctx.auth_time`.
    AuthTime,
    /// `user.claims`, under its own name.
    Extra,
    /// `user.groups`, `rctx.groups`.
    Groups,
    /// The user's id, the end of `sub`.
    Id,
}

/// Where a provider's keys come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// `<issuer>/.well-known/openid-configuration`, then its `jwks_uri`.
    Discovery(Discovery),
    /// A JWKS file, read again when it changes.
    File(PathBuf),
}

/// How often and from where keys are fetched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovery {
    /// Hosts that may be asked. Empty: the host of the issuer only.
    pub allowed_hosts: Vec<String>,
    /// Time between fetches, ± 10 %.
    pub refresh: Duration,
    /// Least time between two fetches caused by a key nobody knows.
    pub unknown_key_cooldown: Duration,
    /// Age beyond which keys are no longer used.
    pub max_stale: Duration,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery {
            allowed_hosts: Vec::new(),
            refresh: Duration::from_secs(15 * 60),
            unknown_key_cooldown: Duration::from_secs(30),
            max_stale: Duration::from_secs(24 * 60 * 60),
        }
    }
}
