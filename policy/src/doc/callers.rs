//! `callers` of a `ContextPolicy`: workloads outside the mesh, and what they prove themselves by.

use countersign_workload_id::TrustDomain;

use super::{FileRef, ProviderKeys};

/// Which bearer tokens of workloads a gateway takes; none at all by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callers {
    /// Service account tokens of one Kubernetes cluster.
    pub service_account: Option<ServiceAccountCallers>,
    /// JWT-SVIDs.
    pub jwt_svid: Option<JwtSvidCallers>,
}

impl Callers {
    /// Whether this gateway takes none.
    pub fn is_empty(&self) -> bool {
        self.service_account.is_none() && self.jwt_svid.is_none()
    }
}

/// `callers.serviceAccountToken`. There is a `review`, `keys`, or both.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAccountCallers {
    /// The cluster's `iss`, compared byte for byte.
    pub issuer: String,
    /// The one `aud` value that is ours.
    pub audience: String,
    /// `tokenReview`: the API server is asked whether the token still counts.
    pub review: Option<ApiServer>,
    /// `discovery`: signatures are checked here; alone it cannot see a deleted pod.
    pub keys: Option<ProviderKeys>,
    /// Scopes such a caller may get; a token of this kind carries none.
    pub grants: Vec<String>,
}

/// A Kubernetes API server. What is left out is found as in any pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiServer {
    /// `https://host:port`; `None`: the one of the pod's environment.
    pub server: Option<String>,
    /// Its CA; `None`: the pod's.
    pub ca: Option<FileRef>,
    /// The token to ask with, read again at each use; `None`: the pod's.
    pub token_file: Option<FileRef>,
}

/// `callers.jwtSvid`.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSvidCallers {
    /// The `aud` value that is ours.
    pub audience: String,
    /// Whose workloads may call; the mesh's own domain unless the document says otherwise.
    pub trust_domains: Vec<TrustDomain>,
    /// Where the keys come from.
    pub bundle: SvidBundle,
    /// Scopes such a caller may get.
    pub grants: Vec<String>,
}

/// Where the JWT bundle comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum SvidBundle {
    /// From the source of this process's own identity.
    Source,
    /// A SPIFFE bundle file of the own trust domain.
    File(FileRef),
}
