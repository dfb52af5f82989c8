//! How costs grow with what is configured: each case beside the same with little. Only ours, without
//! redirect, and only when asked for: `--case scaling`.

use std::time::Duration;

use anyhow::Result;

use super::{Measure, Sample};
use crate::figures::Side;
use crate::load::{self, Protocol, Shape};
use crate::plan::Plan;
use crate::sidecars::Variant;
use crate::sidecars::scaled::{Extent, SMALL, Scaled};
use crate::stage::Stage;

/// Rounds at most: each starts every pair anew.
const ROUNDS_MAX: usize = 3;
const SHAPE: Shape = Shape { connections: 32, streams: 1 };
const RATE: u32 = 1000;
/// Also of a short run: some changes of documents must come into force meanwhile.
const LATENCY_WINDOW_MIN: Duration = Duration::from_secs(8);

/// What is measured of a pair.
#[derive(Clone, Copy, Debug)]
enum What {
    /// CPU per request, as many requests as the pair takes.
    Cpu,
    /// Latency at [`RATE`]; whether the documents change each second.
    Latency { swapped: bool },
}

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    variant: Variant,
    extent: Extent,
    what: What,
}

const LARGE: Extent = Extent { large: true, ..SMALL };
const SPREAD: Extent = Extent { both_cores: true, ..SMALL };
const SPREAD_LARGE: Extent = Extent { large: true, ..SPREAD };

const CASES: [Case; 8] = {
    use Variant::{FreshToken, NoToken};
    use What::{Cpu, Latency};
    let case = Case { name: "scaling_small", variant: NoToken, extent: SMALL, what: Cpu };
    [
        case,
        Case { name: "scaling_large", extent: LARGE, ..case },
        Case {
            name: "scaling_1000_endpoints",
            extent: Extent { endpoints: true, ..SMALL },
            ..case
        },
        Case { name: "scaling_1_worker", extent: SPREAD, ..case },
        Case { name: "scaling_2_workers", extent: Extent { workers: 2, ..SPREAD }, ..case },
        Case {
            name: "scaling_small_fresh",
            variant: FreshToken,
            extent: SPREAD,
            what: Latency { swapped: false },
        },
        Case {
            name: "scaling_large_fresh",
            variant: FreshToken,
            extent: SPREAD_LARGE,
            what: Latency { swapped: false },
        },
        Case {
            name: "scaling_swapped_fresh",
            variant: FreshToken,
            extent: SPREAD_LARGE,
            what: Latency { swapped: true },
        },
    ]
};

/// All of them.
pub(super) fn cases() -> impl Iterator<Item = Box<dyn Measure>> {
    CASES.into_iter().map(|case| Box::new(case) as Box<dyn Measure>)
}

impl Measure for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn sides(&self) -> Vec<Side> {
        vec![Side::OURS]
    }

    fn rounds(&self, plan: &Plan) -> usize {
        plan.rounds.min(ROUNDS_MAX)
    }

    fn sample(&self, stage: &mut Stage<'_>, _: Side) -> Result<Vec<Sample>> {
        // Not kept: others are measured beside as few processes as possible.
        let scaled = Scaled::start(self.variant, self.extent, stage.setting)?;
        match self.what {
            What::Cpu => self.cpu(stage, &scaled),
            What::Latency { swapped } => self.latency(stage, &scaled, swapped),
        }
    }
}

impl Case {
    fn cpu(&self, stage: &mut Stage<'_>, scaled: &Scaled) -> Result<Vec<Sample>> {
        let (target, pids) = (scaled.pair.target(Protocol::H1), scaled.pair.pids());
        let (warm_up, window) = (stage.plan.warm_up(), stage.plan.closed_window());
        if self.extent.endpoints {
            // Until there is a connection to nearly each: handshakes are no part of a request.
            load::closed(target, SHAPE, warm_up, window, &pids)?;
        }
        let load = load::closed(target, SHAPE, warm_up, window, &pids)?;
        stage.saw(&load, true);
        let mut samples = vec![Sample::new(format!("cpu_{}", self.name), "us", load.cpu_us)];
        samples.push(Sample::new(format!("throughput_{}", self.name), "1/s", load.throughput));
        samples.push(Sample::new(format!("rss_{}", self.name), "MiB", scaled.pair.resident_mb()?));
        Ok(samples)
    }

    fn latency(
        &self,
        stage: &mut Stage<'_>,
        scaled: &Scaled,
        swapped: bool,
    ) -> Result<Vec<Sample>> {
        let (target, pids) = (scaled.pair.target(Protocol::H1), scaled.pair.pids());
        let warm_up = stage.plan.warm_up();
        let window = stage.plan.open_window().max(LATENCY_WINDOW_MIN);
        let swapping = swapped.then(|| scaled.swap(self.variant)).transpose()?;
        let before = scaled.pair.swaps()?;
        let (latency, load) = load::open(target, SHAPE, RATE, warm_up, window, &pids)?;
        stage.saw(&load, true);
        let mut samples = vec![
            Sample::new(format!("p50_{}", self.name), "us", latency.p50_us),
            Sample::new(format!("p99_{}", self.name), "us", latency.p99_us),
            Sample::new(format!("cpu_{}", self.name), "us", load.cpu_us),
        ];
        if let Some(swapping) = swapping {
            swapping.end()?;
            let swaps = scaled.pair.swaps()?.saturating_sub(before);
            samples.push(Sample::new("swaps_of_both", "", swaps as f64));
        }
        Ok(samples)
    }
}
