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
    /// How often an app behind B calls on for each request, if there is one. Such a request goes
    /// through a pair that often and once more: figures are per passage of a pair.
    calls: usize,
}

const ONE: Shape = Shape { connections: 1, streams: 1 };
const H1_32: Shape = Shape { connections: 32, streams: 1 };
const H1_128: Shape = Shape { connections: 128, streams: 1 };
const H2_4X8: Shape = Shape { connections: 4, streams: 8 };
const LOW_RATE: Loop = Loop::Open(1000);

/// The cases in the order of a round. The names are part of `summary.json`: keep them.
const CASES: [Case; 15] = {
    use Loop::Closed;
    use Protocol::{Grpc, H1, H2};
    use Variant::{FreshEd25519, FreshToken, NoToken, Onward, OnwardNoToken};
    [
        case("h1_fresh_es256", FreshToken, H1, H1_32, Closed).direct(),
        case("h1_no_token", NoToken, H1, H1_32, Closed),
        case("h2_fresh_es256", FreshToken, H2, H2_4X8, Closed).direct(),
        case("h2_no_token", NoToken, H2, H2_4X8, Closed),
        case("grpc_no_token", NoToken, Grpc, H2_4X8, Closed),
        case("h1_fresh_ed25519", FreshEd25519, H1, H1_32, Closed),
        case("h1_reused4", Onward, H1, H1_32, Closed).calling_on(4),
        case("h1_onward_fresh", Onward, H1, H1_32, Closed),
        case("h1_onward_no_token", OnwardNoToken, H1, H1_32, Closed),
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
    Case { name, variant, protocol, shape, pacing, direct: false, quick: true, calls: 1 }
}

impl Case {
    const fn direct(mut self) -> Case {
        self.direct = true;
        self
    }

    const fn calling_on(mut self, times: usize) -> Case {
        self.calls = times;
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
        let pairs = [Make::Countersign, Make::Envoy].iter().chain(self.baselines());
        direct.into_iter().chain(pairs.copied().map(Side::Of)).collect()
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        let Side::Of(make) = side else { return self.bare(stage) };
        if self.is_onward() && !stage.has_pods() {
            return Ok(Vec::new());
        }
        let pair = stage.pair(make, self.variant)?;
        pair.call_on(self.calls);
        let (target, pids) = (pair.target(self.protocol).clone(), pair.pids());
        let before = stage.server.served();
        let mut samples = self.measure(stage, &target, &pids)?;
        let after = stage.server.served();
        check_protocol(self.variant.server_protocol(self.protocol), before, after)?;
        if self.calls > 1 {
            per_passage(&mut samples, self.calls + 1);
        }
        let pair = stage.pair(make, self.variant)?;
        pair.check_audit(after.0 + after.1 - before.0 - before.1)?;
        if self.name == MEMORY_CASE {
            samples.push(Sample::new("rss_loaded_mb", "MiB", pair.resident_mb()?));
        }
        Ok(samples)
    }
}

impl Case {
    /// Who else: Envoy with HTTP/1.1 in between where that differs and nothing hides it, and who can
    /// do this without deciding anything.
    fn baselines(&self) -> &'static [Make] {
        match (self.variant, self.protocol) {
            (Variant::NoToken, Protocol::H1) => &[Make::EnvoyHttp1, Make::Haproxy, Make::Nginx],
            (Variant::NoToken, Protocol::H2) => &[Make::Haproxy],
            (Variant::FreshToken | Variant::FreshEd25519, Protocol::H1) => &[Make::EnvoyHttp1],
            _ => &[],
        }
    }

    fn is_onward(&self) -> bool {
        matches!(self.variant, Variant::Onward | Variant::OnwardNoToken)
    }

    /// The server without proxies; what it costs is not ours to compare.
    fn bare(&self, stage: &mut Stage<'_>) -> Result<Vec<Sample>> {
        let target = Target {
            address: stage.server.address,
            protocol: self.protocol,
            tokens: Some(stage.setting.tokens.clone()),
            pod: None,
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

/// A request that went through a pair `passages` times.
fn per_passage(samples: &mut [Sample], passages: usize) {
    for sample in samples {
        let times = passages as f64;
        sample.value = sample.value.map(|value| match sample.unit {
            "1/s" => value * times,
            _ => value / times,
        });
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
        Protocol::H2 | Protocol::Grpc => (h2, h1),
    };
    if right == 0 || wrong > 0 {
        bail!("the server saw {h1} HTTP/1.1 and {h2} HTTP/2 requests, not only {wanted:?}");
    }
    Ok(())
}
