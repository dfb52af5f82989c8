//! The audit trail: one JSON line per decision, chained by hash.
//!
//! Workers put a typed [`Record`] into a queue and go on; one thread serialises, chains and writes.
//! Invariants: a worker never waits for the sink, nothing is lost without a `gap` record that says
//! how much, and personal values leave as pseudonyms unless the sink is marked clear.
//! Exactly one record per decision is the duty of the pipelines.

pub mod chain;
pub mod decided;
pub mod id;
mod json;
pub mod pseudonym;
pub mod record;
pub mod sink;
mod syncing;
mod wire;
mod writer;

pub use decided::DecidedInput;
pub use id::{DecisionId, IdText};
pub use pseudonym::{Personal, PseudonymKey};
pub use record::{
    AuditContext, Callee, ContextFields, Control, DeviceFields, JustificationFields, Peer,
    PodFields, Reason, Record, RecordKind, RequestFacts, ResponseFacts, ServiceFields,
    SourceFields, Text, Timing, Trace, UserFields,
};
pub use sink::{
    AuditConfig, AuditSink, AuditSlot, AuditStats, AuditUnavailable, AuditWriter, OnFull, Place,
    Target,
};

#[cfg(test)]
mod tests;
