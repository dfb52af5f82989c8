//! The messages and calls of the SPIFFE Workload API, written by hand from its specification.
//!
//! The proto has no package, so a path is `/SpiffeWorkloadAPI/<call>`. The proxy uses the streams;
//! the two unary calls are here for whoever serves this API. `Debug` of a message never prints a
//! private key or a token.

use std::{collections::HashMap, fmt};

/// Metadata every call must carry, so that a request forged through a web client is refused.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";
/// Path of the stream of identities.
pub const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Path of the stream of bundles.
pub const FETCH_X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
/// Path of the stream of the keys of JWT-SVIDs.
pub const FETCH_JWT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchJWTBundles";
/// Path of the call for a JWT-SVID.
pub const FETCH_JWT_SVID: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
/// Path of the call that checks a JWT-SVID.
pub const VALIDATE_JWT_SVID: &str = "/SpiffeWorkloadAPI/ValidateJWTSVID";

/// Asks for identities.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509SvidRequest {}

/// All identities of the caller: the complete state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509SvidResponse {
    /// The identities; the first one is the default.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// Concatenated DER authorities by foreign trust domain.
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// One identity.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct X509Svid {
    /// Its SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// Concatenated DER certificates, leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS#8 DER.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// Concatenated DER authorities of its trust domain.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// What the operator says this identity is for.
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Asks for bundles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509BundlesRequest {}

/// All bundles the caller may use: the complete state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct X509BundlesResponse {
    /// Revocation lists, DER.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    /// Concatenated DER authorities by trust domain.
    #[prost(map = "string, bytes", tag = "2")]
    pub bundles: HashMap<String, Vec<u8>>,
}

/// Asks for the keys of JWT-SVIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtBundlesRequest {}

/// The keys of all trust domains the caller may use: the complete state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtBundlesResponse {
    /// JWK sets by trust domain.
    #[prost(map = "string, bytes", tag = "1")]
    pub bundles: HashMap<String, Vec<u8>>,
}

/// Asks for JWT-SVIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtSvidRequest {
    /// Whom they are for.
    #[prost(string, repeated, tag = "1")]
    pub audience: Vec<String>,
    /// Of which identity; empty: of all.
    #[prost(string, tag = "2")]
    pub spiffe_id: String,
}

/// The JWT-SVIDs asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JwtSvidResponse {
    /// At least one.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<JwtSvid>,
}

/// One JWT-SVID.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct JwtSvid {
    /// Its SPIFFE ID.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The token, compact form.
    #[prost(string, tag = "2")]
    pub svid: String,
    /// What the operator says this identity is for.
    #[prost(string, tag = "3")]
    pub hint: String,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Asks whether a JWT-SVID holds.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ValidateJwtSvidRequest {
    /// Whom it must be for.
    #[prost(string, tag = "1")]
    pub audience: String,
    /// The token, compact form.
    #[prost(string, tag = "2")]
    pub svid: String,
}

impl fmt::Debug for ValidateJwtSvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtSvidRequest")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}
