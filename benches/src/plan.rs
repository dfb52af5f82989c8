//! What a run measures, and for how long: the cases of one round and how often it is repeated.

use std::time::Duration;

use serde::Serialize;

use crate::load::{Protocol, Shape};
use crate::sidecars::Variant;

/// Lengths and rates of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    /// Every case is measured once per round, each time with all pairs one after the other.
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
    pub(crate) const FULL: Plan = Plan { rounds: 7, warm_up_s: 1.0, closed_s: 4.0, open_s: 8.0 };
    /// For a look after a change.
    pub(crate) const QUICK: Plan = Plan { rounds: 3, warm_up_s: 0.5, closed_s: 1.5, open_s: 3.0 };

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

/// How requests are started.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loop {
    /// Each slot as soon as it is free.
    Closed,
    /// So many per second, whatever happens.
    Open(u32),
}

/// One thing every pair is measured at in every round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The stable part of the figures' names.
    pub(crate) name: &'static str,
    /// With or without a token.
    pub(crate) variant: Variant,
    /// What the client speaks.
    pub(crate) protocol: Protocol,
    /// Connections and streams.
    pub(crate) shape: Shape,
    /// Closed or open.
    pub(crate) pacing: Loop,
    /// Whether the server alone is measured too.
    pub(crate) direct: bool,
}

const ONE: Shape = Shape { connections: 1, streams: 1 };
const H1_32: Shape = Shape { connections: 32, streams: 1 };
const H2_4X8: Shape = Shape { connections: 4, streams: 8 };
const LOW_RATE: Loop = Loop::Open(500);
const MID_RATE: Loop = Loop::Open(1500);

/// The cases of a round, in this order. The names are part of `summary.json`: keep them.
pub(crate) const CASES: [Case; 8] = {
    use Protocol::{H1, H2};
    use Variant::{FreshToken, NoToken};
    [
        case("h1_fresh_es256", FreshToken, H1, H1_32, Loop::Closed, true),
        case("h1_no_token", NoToken, H1, H1_32, Loop::Closed, false),
        case("h2_fresh_es256", FreshToken, H2, H2_4X8, Loop::Closed, true),
        case("h2_no_token", NoToken, H2, H2_4X8, Loop::Closed, false),
        case("h1_one_connection_fresh", FreshToken, H1, ONE, Loop::Closed, true),
        case("low_rate_fresh", FreshToken, H1, H1_32, LOW_RATE, true),
        case("low_rate_no_token", NoToken, H1, H1_32, LOW_RATE, false),
        case("mid_rate_fresh", FreshToken, H1, H1_32, MID_RATE, true),
    ]
};

/// The case whose load is on when memory is read.
pub(crate) const MEMORY_CASE: &str = "h1_fresh_es256";

const fn case(
    name: &'static str,
    variant: Variant,
    protocol: Protocol,
    shape: Shape,
    pacing: Loop,
    direct: bool,
) -> Case {
    Case { name, variant, protocol, shape, pacing, direct }
}
