//! What a user configures: [`ProxyConfig`] per process, every bound in [`limits`], every
//! environment variable in [`env`]; and the loader of all documents.
//!
//! Invariant: nothing is half-applied. A file with a problem is refused whole, with every problem
//! of every file, each at its line and column. Only `load.rs` reads the disk; policy documents and
//! their cross-checks belong to `countersign-policy`.
#![forbid(unsafe_code)]

pub mod env;
pub mod limits;
mod proxy;

pub use limits::Limits;
pub use proxy::{
    AppPort, AuditSink, CorsPreflight, DestinationRef, GatewayListener, IdentitySource,
    InboundListener, ListenMode, OutboundListener, Propagation, ProxyConfig, Route,
    ServerCertificate, TlsGroup,
};
