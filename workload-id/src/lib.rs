//! SPIFFE IDs: what a workload is called, parsed once and then compared by bytes.
//!
//! ```text
//! spiffe://prod.example.com/ns/shop/sa/orders
//!          └ trust domain ┘└────── path ─────┘
//! ```
//!
//! Invariant: every value of these types is canonical. Nothing is decoded, folded or normalised;
//! text that is not already in canonical form is refused. Two IDs are therefore the same exactly
//! when their bytes are, and no API hands out a path without its trust domain to compare with.
//! Pure: no I/O, no clock, no allocation beyond the value itself.
//!
//! ```
//! use countersign_workload_id::{IdPattern, WorkloadId};
//!
//! let orders: WorkloadId = "spiffe://prod.example.com/ns/shop/sa/orders".parse()?;
//! assert_eq!(orders.trust_domain().as_str(), "prod.example.com");
//! assert_eq!(orders.namespace(), Some("shop"));
//! assert_eq!(orders.service_account(), Some("orders"));
//!
//! let shop = IdPattern::parse("spiffe://prod.example.com/ns/shop/**")?;
//! assert!(shop.matches(&orders));
//! # Ok::<(), countersign_workload_id::IdError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod id;
mod pattern;
mod trust_domain;

pub use error::IdError;
pub use id::{ID_BYTES_MAX, WorkloadId};
pub use pattern::IdPattern;
pub use trust_domain::{TRUST_DOMAIN_BYTES_MAX, TrustDomain};

#[cfg(test)]
mod tests;
