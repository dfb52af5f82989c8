//! Read-only HTTP for operators: recent decisions and their reasons, status, metrics, readiness.
//!
//! `admin` answers on loopback only and shows personal values as configured;
//! `metrics` shows none and may be reached by a scraper.
//! Invariant: nothing here changes state, and no answer holds a token, a key or a header value.

pub mod readiness;
pub mod ring;

pub use readiness::{Condition, Readiness};
pub use ring::{Explain, Explained, WhyEntry, WhyRing};
