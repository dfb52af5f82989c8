//! The type tree of policy documents, resolved: addresses parsed, durations in seconds, IDs typed.
//!
//! One file per kind. Only `parse` makes these from text; `check` has passed over every value
//! that is found in a [`Documents`]. Nothing here is a serde type.

/// An enum whose variants are the words of a closed set.
macro_rules! closed_names {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }
        impl $name {
            /// Every name, in the order of the documentation.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
            /// As written in documents.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

pub mod access;
pub mod attributes;
pub mod callers;
pub mod destination;
pub mod device;
pub mod federation;
pub mod gateway;
mod matching;
pub mod mesh;
pub mod provider;
pub mod revocation;
pub mod shown;
pub mod token_service;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use access::{
    AccessPolicy, Atom, AuditLevel, CallerMatch, ContextNeed, Effect, GrpcMatch, HeaderMatch,
    HeaderValues, HttpMatch, Match, Obligations, PathPattern, ProtocolMatch, Resource, Rule,
};
pub use attributes::{
    AskAs, Asked, AskedId, AttributeCache, AttributeProvider, AttributeSource, AuthZen, FactType,
    LdapBind, LdapFilter, LdapSearch, LdapSecurity, OnUnavailable, ValuePart,
};
pub use callers::{ApiServer, Callers, JwtSvidCallers, ServiceAccountCallers, SvidBundle};
pub use destination::{
    Destination, DestinationName, DestinationPeer, DestinationPort, Endpoint, PortProtocol,
    TlsRoots,
};
pub use device::{CertificateName, DeviceRules, DeviceSource, HeaderGroups, VouchingProxy};
pub use federation::{
    BundleEndpoint, EndpointProfile, FederatedBundle, FederatedDomain, ForeignContext,
};
pub use gateway::{
    ClientAddress, ClientAddressFrom, ContextPolicy, ContextRole, GroupsFrom, JustificationKind,
    MintRule, RctxKey, TctxKey, WhenMissing,
};
pub use mesh::{
    Custody, IssuerJwks, IssuerKeys, MeshConfig, OnAuditFull, Outbound, Presenter, TrustedIssuer,
    Unknown,
};
pub use provider::{
    BearerTokens, ClaimDeclaration, ClaimRole, ClaimType, CredentialSource, Demand,
    IdentityProvider, Nonce, ProofRules, ProviderKeys, SenderRules, UserAlgorithm,
};
pub use revocation::{Revocation, RevokedIdentity, RevokedKey, RevokedUser};
pub use token_service::{AssertKey, Requester, SubjectToken, TokenService};

use crate::diagnostic::Diagnostic;

/// Everything that was loaded together: parsed, resolved, cross-checked.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The one `MeshConfig`.
    pub mesh: MeshConfig,
    /// Every `AccessPolicy`, sorted by namespace and name.
    pub access: Vec<AccessPolicy>,
    /// Identity providers, inline and standalone, sorted by name.
    pub providers: Vec<Named<IdentityProvider>>,
    /// Attribute providers, inline and standalone, sorted by name.
    pub attributes: Vec<Named<AttributeProvider>>,
    /// Gateways (`ContextPolicy`), inline and standalone, sorted by namespace and name.
    pub gateways: Vec<Named<ContextPolicy>>,
    /// Destinations, inline and standalone, sorted by namespace and name.
    pub destinations: Vec<Named<Destination>>,
    /// Revocations, sorted by name.
    pub revocations: Vec<Named<Revocation>>,
    /// Findings that do not reject the documents.
    pub warnings: Vec<Diagnostic>,
    /// SHA-256 over the canonical JSON of all documents.
    pub(crate) sha256: [u8; 32],
}

impl Documents {
    /// Hash of what was loaded: independent of formatting, comments, file names and order.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The identity provider of that name.
    pub fn provider(&self, name: &str) -> Option<&IdentityProvider> {
        self.providers.iter().find(|named| named.name == name).map(|named| &named.spec)
    }

    /// The destination `namespace/name`.
    pub fn destination(&self, namespace: &str, name: &str) -> Option<&Named<Destination>> {
        self.destinations.iter().find(|d| d.namespace == namespace && d.name == name)
    }

    /// The destination that lists this canonical host (see [`crate::host`]).
    pub fn destination_for_host(&self, host: &str) -> Option<&Named<Destination>> {
        self.destinations.iter().find(|d| d.spec.hosts.iter().any(|known| known == host))
    }
}

/// A document that other documents refer to by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// Empty for kinds of cluster scope.
    pub namespace: String,
    /// The name references use.
    pub name: String,
    /// The body.
    pub spec: T,
    /// Where it is written.
    pub place: Place,
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the source.
    pub file: Arc<str>,
    /// 1-based line.
    pub line: u32,
    /// 1-based column.
    pub column: u32,
}

/// A file named in a document. Relative paths are relative to the document's own file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// As written.
    pub written: String,
    /// Name of the source that says so.
    pub declared_in: Arc<str>,
}

impl FileRef {
    /// The path to open.
    pub fn resolve(&self) -> PathBuf {
        match Path::new(&*self.declared_in).parent() {
            Some(folder) => folder.join(&self.written),
            None => PathBuf::from(&self.written),
        }
    }
}

/// Which workloads a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `{all: true}`.
    All,
    /// `{matchLabels: {…}}`: every label must be there with this value.
    Labels(BTreeMap<String, String>),
}

impl Selector {
    /// Whether a workload with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            Self::Labels(wanted) => {
                wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
            }
        }
    }
}
