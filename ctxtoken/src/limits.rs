//! The bounds of minting and verifying that a deployment may set. Bounds of the profile itself
//! (lengths of claims, nesting, members) stand beside the code that applies them.

/// Records a token may gather on its way.
pub(crate) const HOPS_MAX: usize = 8;
/// Longest `Countersign-Hops` value: eight records with long IDs do not fit 4 KiB.
pub(crate) const HOPS_BYTES_MAX: usize = 6144;

/// Sizes, lifetimes and cache bounds. [`Default`] is the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest token that is looked at, in bytes.
    pub token_bytes_max: usize,
    /// Longest decoded JOSE header, in bytes.
    pub header_bytes_max: usize,
    /// Longest life of any token, whatever an issuer entry says, in seconds.
    pub ttl_s_max: u64,
    /// Longest token minted with a `kid` header, in bytes.
    pub mint_kid_bytes_max: usize,
    /// Longest token minted with an `x5c` header, in bytes.
    pub mint_x5c_bytes_max: usize,
    /// Verified tokens kept per cache.
    pub cache_entries_max: usize,
    /// Memory of verified tokens kept per cache, in bytes (estimated).
    pub cache_bytes_max: usize,
    /// Longest time a verified token is kept, in seconds.
    pub cache_age_s_max: u64,
    /// Validated certificate chains kept per cache.
    pub chains_max: usize,
    /// Most hop records of one token.
    pub hops_max: usize,
    /// Longest `Countersign-Hops` value that is looked at, in bytes.
    pub hops_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            token_bytes_max: 4096,
            header_bytes_max: 2048,
            ttl_s_max: 300,
            mint_kid_bytes_max: 2048,
            mint_x5c_bytes_max: 3072,
            cache_entries_max: 1024,
            cache_bytes_max: 4 << 20,
            cache_age_s_max: 60,
            chains_max: 256,
            hops_max: HOPS_MAX,
            hops_bytes_max: HOPS_BYTES_MAX,
        }
    }
}
