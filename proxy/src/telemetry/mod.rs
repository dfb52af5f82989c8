//! What operators see: metrics and logs.
//!
//! Workers count into their own shard ([`WorkerMetrics`]), the control thread into
//! [`ProcessMetrics`]; a scrape adds the shards up. Every metric is defined once, in [`names`].
//! Invariant: label values come from closed sets or from authenticated identities and documents,
//! never from request data, and the number of series has a cap.

pub mod breakers;
pub mod encode;
pub mod labels;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod process;
pub mod series;
pub mod worker;

pub use breakers::BreakerOpen;
pub use labels::{
    CacheUse, Direction, Flow, LocalCall, Lookup, PortClass, Protocol, RemovedFrom, StatusClass,
    Verdict,
};
pub use metrics::Metrics;
pub use process::ProcessMetrics;

pub use series::PeerSeries;
pub use worker::{OpenConnection, WorkerMetrics};
