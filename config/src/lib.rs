//! What a user configures: [`ProxyConfig`] per process, every bound in [`limits`], every
//! environment variable in [`env`]; and the loader of all documents.
//!
//! Invariant: nothing is half-applied. A file with a problem is refused whole, with every problem
//! of every file, each at its line and column. Only `load.rs` reads the disk; policy documents and
//! their cross-checks belong to `countersign-policy`.
//!
//! Codes of its own, beside those of policy documents: `P001` unreadable file · `P002` two
//! listeners on one address · `P003` a call that would come back to this process · `P004` inbound
//! port without app · `P005` gateway listener and routes do not fit · `P006` identity of another
//! trust domain · `P007` identity of another namespace (warning) · `P008` not exactly one
//! ContextPolicy for a gateway · `P009` listeners and ports that do not fit the redirect ·
//! `P010` a rule about requests that closes an opaque port (warning).
#![forbid(unsafe_code)]

mod check;
pub mod env;
mod fields;
pub mod limits;
mod load;
mod planned;
mod proxy;
mod read;
pub mod reference;

pub use limits::Limits;
pub use load::{check_files, document_files, load_documents};
pub use proxy::{
    AppPort, AppTls, Audit, AuditSink, CorsPreflight, DestinationRef, EgressOther, GatewayListener,
    IdentitySource, InboundListener, Interception, ListenMode, OutboundListener, PROXY_UID,
    PersonalData, Propagation, ProxyConfig, Route, ServerCertificate, TcpSettings, TlsGroup,
    WELL_KNOWN_TCP,
};

#[cfg(test)]
mod tests;
