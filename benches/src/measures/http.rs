//! Requests through a pair: CPU per request, throughput, latency.

use anyhow::{Result, bail};

use super::{Measure, Sample};
use crate::figures::Side;
use crate::load::{self, Load, Protocol, Shape, Target};
use crate::plan::Plan;
use crate::sidecars::{Make, Variant};
use crate::stage::Stage;

/// How requests are started.
#[derive(Clone, Copy, Debug)]
enum Loop {
    /// Each slot as soon as it is free.
    Closed,
    /// So many per second, whatever happens.
    Open(u32),
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// The stable part of the figures' names.
    name: &'static str,
    /// What the pair has to do.
    variant: Variant,
    /// What the client speaks.
    protocol: Protocol,
    /// Connections and streams.
    shape: Shape,
    /// Closed or open.
    pacing: Loop,
    /// Whether the server alone is measured too.
    direct: bool,
    /// Whether a short run has it.
    quick: bool,
}

const ONE: Shape = Shape { connections: 1, streams: 1 };
const H1_32: Shape = Shape { connections: 32, streams: 1 };
const H1_128: Shape = Shape { connections: 128, streams: 1 };
const H2_4X8: Shape = Shape { connections: 4, streams: 8 };
const LOW_RATE: Loop = Loop::Open(1000);

/// The cases in the order of a round. The names are part of `summary.json`: keep them.
const CASES: [Case; 10] = {
    use Loop::Closed;
    use Protocol::{H1, H2};
    use Variant::{FreshToken, NoToken};
    [
        case("h1_fresh_es256", FreshToken, H1, H1_32, Closed).direct(),
        case("h1_no_token", NoToken, H1, H1_32, Closed),
        case("h2_fresh_es256", FreshToken, H2, H2_4X8, Closed).direct(),
        case("h2_no_token", NoToken, H2, H2_4X8, Closed),
        case("h1_one_connection_fresh", FreshToken, H1, ONE, Closed).full(),
        case("h1_one_connection_no_token", NoToken, H1, ONE, Closed).full(),
        case("h1_128_fresh", FreshToken, H1, H1_128, Closed).full(),
        case("h1_128_no_token", NoToken, H1, H1_128, Closed).full(),
        case("low_rate_fresh", FreshToken, H1, H1_32, LOW_RATE).direct(),
        case("low_rate_no_token", NoToken, H1, H1_32, LOW_RATE),
    ]
};

const fn case(
    name: &'static str,
    variant: Variant,
    protocol: Protocol,
    shape: Shape,
    pacing: Loop,
) -> Case {
    Case { name, variant, protocol, shape, pacing, direct: false, quick: true }
}

impl Case {
    const fn direct(mut self) -> Case {
        self.direct = true;
        self
    }

    const fn full(mut self) -> Case {
        self.quick = false;
        self
    }
}

/// The case whose load is on when loaded memory is read.
const MEMORY_CASE: &str = "h1_fresh_es256";

/// Those of the plan.
pub(super) fn cases(plan: &Plan) -> impl Iterator<Item = Box<dyn Measure>> {
    let quick = plan.quick;
    let of_plan = CASES.into_iter().filter(move |case| case.quick || !quick);
    of_plan.map(|case| Box::new(case) as Box<dyn Measure>)
}

impl Measure for Case {
    fn name(&self) -> &str {
        self.name
    }

    fn sides(&self) -> Vec<Side> {
        let direct = self.direct.then_some(Side::Direct);
        let sides = direct.into_iter().chain([Make::Countersign, Make::Envoy].map(Side::Of));
        sides.chain(self.baselines().iter().copied().map(Side::Of)).collect()
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        let Side::Of(make) = side else { return self.bare(stage) };
        let pair = stage.pair(make, self.variant)?;
        let (target, pids) = (pair.target(self.protocol).clone(), pair.pids());
        let before = stage.server.served();
        let mut samples = self.measure(stage, &target, &pids)?;
        check_protocol(self.variant.server_protocol(self.protocol), before, stage.server.served())?;
        let pair = stage.pair(make, self.variant)?;
        pair.empty_audit()?;
        if self.name == MEMORY_CASE {
            samples.push(Sample::new("rss_loaded_mb", "MiB", pair.resident_mb()?));
        }
        Ok(samples)
    }
}

impl Case {
    /// Who can do this without deciding anything.
    fn baselines(&self) -> &'static [Make] {
        match (self.variant, self.protocol) {
            (Variant::NoToken, Protocol::H1) => &[Make::Haproxy, Make::Nginx],
            (Variant::NoToken, Protocol::H2) => &[Make::Haproxy],
            (Variant::FreshToken, _) => &[],
        }
    }

    /// The server without proxies; what it costs is not ours to compare.
    fn bare(&self, stage: &mut Stage<'_>) -> Result<Vec<Sample>> {
        let target = Target {
            address: stage.server.address,
            protocol: self.protocol,
            tokens: Some(stage.setting.tokens.clone()),
        };
        let mut samples = self.measure(stage, &target, &[])?;
        for sample in samples.iter_mut().filter(|sample| sample.name.starts_with("cpu_")) {
            sample.value = None;
        }
        Ok(samples)
    }

    fn measure(&self, stage: &mut Stage<'_>, target: &Target, pids: &[u32]) -> Result<Vec<Sample>> {
        let (plan, name) = (stage.plan, self.name);
        match self.pacing {
            Loop::Closed => {
                let (warm_up, window) = (plan.warm_up(), plan.closed_window());
                let load = load::closed(target, self.shape, warm_up, window, pids)?;
                stage.saw(&load, !pids.is_empty());
                let mut samples = cpu(name, &load);
                samples.push(Sample::new(format!("throughput_{name}"), "1/s", load.throughput));
                Ok(samples)
            }
            Loop::Open(rate) => {
                let (warm_up, window) = (plan.warm_up(), plan.open_window());
                let (latency, load) = load::open(target, self.shape, rate, warm_up, window, pids)?;
                stage.saw(&load, !pids.is_empty());
                let mut samples = cpu(name, &load);
                samples.push(Sample::new(format!("p50_{name}"), "us", latency.p50_us));
                samples.push(Sample::new(format!("p99_{name}"), "us", latency.p99_us));
                Ok(samples)
            }
        }
    }
}

fn cpu(name: &str, load: &Load) -> Vec<Sample> {
    let mut samples = vec![Sample::new(format!("cpu_{name}"), "us", load.cpu_us)];
    for (which, cpu_us) in ["a", "b", "c"].iter().zip(&load.cpu_us_each) {
        samples.push(Sample::new(format!("cpu_{which}_{name}"), "us", *cpu_us));
    }
    samples
}

/// Pairs that speak different protocols to the server do different jobs.
fn check_protocol(wanted: Protocol, before: (u64, u64), after: (u64, u64)) -> Result<()> {
    let (h1, h2) = (after.0 - before.0, after.1 - before.1);
    let (right, wrong) = match wanted {
        Protocol::H1 => (h1, h2),
        Protocol::H2 => (h2, h1),
    };
    if right == 0 || wrong > 0 {
        bail!("the server saw {h1} HTTP/1.1 and {h2} HTTP/2 requests, not only {wanted:?}");
    }
    Ok(())
}
