//! What runs once for a cluster and not once for a pod: the signer of workload certificates.
//!
//! A library, hosted by `countersign signer`. Invariant: an identity is derived from who the API
//! server says has asked, and from nothing the asker wrote.
#![forbid(unsafe_code)]

pub mod signer;

pub use signer::{Authority, CaKey, Signer, SignerError};
