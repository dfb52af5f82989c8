//! `MeshConfig.federation`: the other trust domains, and where the bundle of each comes from.

use std::collections::BTreeMap;

use countersign_workload_id::{TrustDomain, WorkloadId};

use super::{FileRef, TlsRoots, TrustedIssuer};

/// One entry of `federation`: a trust domain of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Its name. Never inferred from the bundle or the endpoint.
    pub trust_domain: TrustDomain,
    /// Where its authorities come from.
    pub bundle: FederatedBundle,
    /// What of request context crosses; by default nothing does.
    pub context: ForeignContext,
}

/// `context` of a federated trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignContext {
    /// Whose tokens of that domain are taken and minted anew; empty: nobody's.
    pub issuers: Vec<TrustedIssuer>,
    /// What each scope name of theirs becomes here; others become nothing.
    pub scopes: BTreeMap<String, Vec<String>>,
    /// Whether our context is handed to workloads of that domain.
    pub hand_over: bool,
}

/// `bundle`: exactly one of three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FederatedBundle {
    /// `{source: true}`: our own identity source delivers it (the Workload API's federated
    /// bundles, a bundle map beside certificate files).
    Source,
    /// `{file: PATH}`: PEM authorities, or a SPIFFE bundle.
    File(FileRef),
    /// `{endpoint: …}`: fetched, and fetched again.
    Endpoint(BundleEndpoint),
}

/// A SPIFFE bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// Its `https` URL.
    pub url: String,
    /// How its server is authenticated.
    pub profile: EndpointProfile,
    /// Whether redirects are followed, each under the same rules.
    pub redirects: bool,
    /// A bundle that was not confirmed for so long is dropped, seconds.
    pub max_stale_s: u64,
}

/// `profile`, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By its host name.
    Web {
        /// Who vouches for its certificate.
        roots: TlsRoots,
    },
    /// By its SPIFFE ID, with the bundle that was fetched last.
    Spiffe {
        /// The one identity that may answer.
        endpoint_id: WorkloadId,
        /// The first bundle, until one was fetched.
        initial_bundle: FileRef,
    },
}
