//! Resident memory of one proxy: idle after its first requests, and with connections of clients
//! that have each been used once and have been silent for some seconds. The processes are new: none has seen load.

use std::time::Duration;

use anyhow::{Context, Result};

use super::hold::Held;
use super::{Measure, Sample};
use crate::figures::Side;
use crate::load::Protocol;
use crate::machine;
use crate::plan::Plan;
use crate::sidecars::{Make, Pair, Setting, Variant};
use crate::stage::Stage;

/// Silence before memory is read: buffers are given back after a second or two, and leave the process
/// up to two seconds later.
const SETTLE: Duration = Duration::from_secs(5);
/// The same where time is short: most of it has left.
const QUICK_SETTLE: Duration = Duration::from_secs(3);
/// Idle clients held at once.
const IDLE: [usize; 2] = [1000, 8000];

/// MB of proxy A, whose clients are the idle ones; without them the larger of both.
pub(super) struct Resident;

impl Measure for Resident {
    fn name(&self) -> &str {
        "rss"
    }

    fn sides(&self) -> Vec<Side> {
        [Make::Countersign, Make::Envoy, Make::Haproxy, Make::Nginx].map(Side::Of).into()
    }

    fn rounds(&self, plan: &Plan) -> usize {
        if plan.quick { 1 } else { 3 }
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        let Side::Of(make) = side else { return Ok(Vec::new()) };
        // A folder of its own: the pairs that stay read their documents again when they change.
        let own = Setting { work: stage.setting.work.join("memory"), ..stage.setting.clone() };
        std::fs::create_dir_all(&own.work)?;
        let pair = Pair::start(make, Variant::NoToken, &own)?;
        let settle = if stage.plan.quick { QUICK_SETTLE } else { SETTLE };
        std::thread::sleep(settle);
        let larger = resident(&pair)?.into_iter().fold(0.0, f64::max);
        let mut samples = vec![Sample::new("rss_idle_mb", "MB", larger)];
        for count in IDLE {
            let held = Held::open(pair.target(Protocol::H1).address, count)?;
            std::thread::sleep(settle);
            let first = resident(&pair)?.first().copied().context("a pair without proxies")?;
            drop(held);
            samples.push(Sample::new(format!("rss_{count}_idle_mb"), "MB", first));
        }
        Ok(samples)
    }
}

/// Megabytes of each proxy, in the order of the path.
fn resident(pair: &Pair) -> Result<Vec<f64>> {
    let megabytes = |pid| Ok(machine::resident_bytes(pid)? as f64 / 1e6);
    pair.pids().into_iter().map(megabytes).collect()
}
