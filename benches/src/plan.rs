//! How long a run takes: rounds, warm-up and windows.

use std::time::Duration;

use serde::Serialize;

/// Lengths of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    /// The short one: measures may leave something out.
    pub(crate) quick: bool,
    /// Every measure is taken once per round, each time of all sides one after the other.
    pub(crate) rounds: usize,
    /// Uncounted seconds before each window.
    pub(crate) warm_up_s: f64,
    /// Seconds of a closed-loop window.
    pub(crate) closed_s: f64,
    /// Seconds of an open-loop window.
    pub(crate) open_s: f64,
}

impl Plan {
    /// What `docs/performance.md` is made from.
    pub(crate) const FULL: Plan =
        Plan { quick: false, rounds: 5, warm_up_s: 1.0, closed_s: 3.0, open_s: 8.0 };
    /// For a look after a change.
    pub(crate) const QUICK: Plan =
        Plan { quick: true, rounds: 2, warm_up_s: 0.5, closed_s: 1.5, open_s: 3.0 };

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up_s)
    }

    pub(crate) fn closed_window(&self) -> Duration {
        Duration::from_secs_f64(self.closed_s)
    }

    pub(crate) fn open_window(&self) -> Duration {
        Duration::from_secs_f64(self.open_s)
    }
}
