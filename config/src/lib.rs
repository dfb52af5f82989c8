//! What a user configures: [`ProxyConfig`] per process, every bound in [`limits`], every
//! environment variable in [`env`]; and the loader of all documents.
//!
//! Invariant: nothing is half-applied. A file with a problem is refused whole, with every problem
//! of every file, each at its line and column. Only `load.rs` reads the disk; policy documents and
//! their cross-checks belong to `countersign-policy`.
#![forbid(unsafe_code)]

mod check;
mod codes;
mod endpoint;
pub mod env;
mod fields;
mod grants;
pub mod identity;
mod issuer;
pub mod limits;
mod load;
pub mod pkcs11;
mod planned;
mod proxy;
mod read;
pub mod reference;
mod signer;

pub use endpoint::{WorkloadApiEndpoint, WorkloadApiEndpointError};
pub use grants::Grants;
pub use identity::{
    FilesKey, IdentitySource, KeyPlace, KubernetesApi, KubernetesCsr, KubernetesTrust,
};
pub use issuer::{IssuerSettings, TokenKeyKind, TokenKeys};
pub use limits::Limits;
pub use load::{check_files, document_files, load_documents};
pub use proxy::{
    AppPort, AppService, AppTls, Audit, AuditSink, CallerCertificate, ClientCertificates,
    CorsPreflight, DestinationRef, EgressOther, GatewayListener, InboundListener, Interception,
    ListenMode, OutboundListener, PROXY_UID, PersonalData, Propagation, ProxyConfig, Route,
    ServerCertificate, TcpSettings, TlsGroup, WELL_KNOWN_TCP,
};
pub use signer::SignerConfig;

#[cfg(test)]
mod tests;
