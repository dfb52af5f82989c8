//! What live things are judged against, and what becomes of them.
//!
//! Invariant: every way to end names its reason from a closed set; only a reason that is nobody's
//! fault leaves time to finish.

use countersign_policy::{Decision, DenyReason};

use crate::clock::Now;
use crate::live::Snapshot;

/// Why something ends although nobody closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its permit, or its connection, is too old.
    Age,
    /// The process ends.
    Drain,
    /// The certificate of this or of the other end has ended.
    Expiry,
    /// Policy no longer allows it.
    Policy(DenyReason),
    /// What it rests on was revoked: `certificate`, `crl`, `identity`, `pod`, `user`, `issuer_key`,
    /// `device`, `transaction` or `authority`.
    Revoked(&'static str),
}

impl EndReason {
    /// Label of `countersign_connections_ended_total`, and the `reason` of `ended` records.
    pub const fn text(self) -> &'static str {
        match self {
            EndReason::Age => "age",
            EndReason::Drain => "drain",
            EndReason::Expiry => "expiry",
            EndReason::Policy(_) => "policy",
            EndReason::Revoked(_) => "revoked",
        }
    }

    /// What narrows the reason down.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            EndReason::Age | EndReason::Drain | EndReason::Expiry => None,
            EndReason::Policy(reason) => Some(reason.as_str()),
            EndReason::Revoked(what) => Some(what),
        }
    }

    /// Every label, for metrics that start at zero.
    pub const TEXTS: &'static [&'static str] = &["age", "drain", "expiry", "policy", "revoked"];

    /// Whether what is in progress gets time to finish.
    pub const fn has_grace(self) -> bool {
        match self {
            EndReason::Age | EndReason::Drain | EndReason::Expiry => true,
            EndReason::Policy(_) | EndReason::Revoked(_) => false,
        }
    }
}

/// What an entry is judged against.
pub struct Against<'a> {
    /// The snapshot in force.
    pub snap: &'a Snapshot,
    /// Whether an authority was removed, or revoked something, since the entry was judged: chains
    /// are checked again.
    pub trust_shrank: bool,
    /// The time.
    pub now: Now,
}

/// Something that may lose its reason.
pub trait Judged: 'static {
    /// Whether it may go on.
    ///
    /// # Errors
    /// Why not, with the decision where policy made one.
    fn judge(&self, against: &Against<'_>) -> Result<Standing, Verdict>;

    /// Whether it is left alone during its first second: an exchange, as opposed to a connection.
    fn is_exchange(&self) -> bool {
        false
    }
}

/// It may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Unix milliseconds at which the permit ends.
    pub valid_until_ms: Option<u64>,
}

/// It must end.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Why.
    pub reason: EndReason,
    /// What policy said, if it was policy.
    pub decision: Option<Decision>,
    /// Milliseconds until then, for what is in progress; 0 for at once.
    pub spares_ms: u64,
}

impl From<EndReason> for Verdict {
    fn from(reason: EndReason) -> Verdict {
        Verdict { reason, decision: None, spares_ms: 0 }
    }
}
