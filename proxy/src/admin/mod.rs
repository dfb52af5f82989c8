//! Read-only HTTP for operators: recent decisions and their reasons, status, metrics, readiness.
//!
//! The admin address answers on loopback only and shows personal values as configured; the metrics
//! address shows none and may be reached by a scraper.
//! Invariant: nothing here changes state, and no answer holds a token, a key or a header value.

mod carried;
pub mod explain;
mod html;
pub mod pages;
pub mod readiness;
pub mod ring;
pub mod server;
#[cfg(test)]
mod tests;

pub use carried::Carried;
pub use explain::StageRefusal;
pub use pages::{Pages, StatusParts};
pub use readiness::{Condition, Readiness};
pub use ring::{Explain, Explained, WhyEntry, WhyRing};
pub use server::AdminServer;
