//! What a user configures: `ProxyConfig` per process, every [`limits`] bound, every [`env`]
//! variable; and the loader of all documents.
//!
//! Invariant: nothing is half-applied. A file with a problem is refused whole, with every problem
//! of every file, each at its line and column. Only `load` reads the disk; policy documents and
//! their cross-checks belong to `countersign-policy`.
#![forbid(unsafe_code)]

pub mod env;
pub mod limits;

pub use limits::Limits;
