//! What a window cost: requests, CPU time of the proxies, of ourselves and of everybody else.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Tally;
use crate::machine;

/// What one window cost.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Requests per second.
    pub(crate) throughput: f64,
    /// CPU microseconds per request, all proxies together.
    pub(crate) cpu_us: f64,
    /// The same for each proxy, in the order of the path.
    pub(crate) cpu_us_each: Vec<f64>,
    /// How busy generator and server kept their core; near 1 the throughput is theirs.
    pub(crate) load_core: f64,
    /// How much of a core processes took that have nothing to do with the run.
    pub(crate) foreign: f64,
}

/// The counters at one moment.
pub(super) struct Reading {
    at: Instant,
    completed: u64,
    proxies: Vec<Duration>,
    own: Duration,
    all: Duration,
}

impl Reading {
    pub(super) fn take(tally: &Tally, pids: &[u32]) -> Result<Reading> {
        let proxies = pids.iter().map(|pid| machine::cpu_time(*pid)).collect::<Result<_>>()?;
        let own = machine::cpu_time(std::process::id())?;
        let all = machine::cpu_time_of_all()?;
        Ok(Reading { at: Instant::now(), completed: tally.completed.get(), proxies, own, all })
    }

    pub(super) fn since(&self, before: &Reading) -> Load {
        let seconds = (self.at - before.at).as_secs_f64();
        let requests = (self.completed - before.completed).max(1) as f64;
        let each: Vec<f64> = self
            .proxies
            .iter()
            .zip(&before.proxies)
            .map(|(now, then)| now.saturating_sub(*then).as_secs_f64())
            .collect();
        let proxies: f64 = each.iter().sum();
        let own = (self.own - before.own).as_secs_f64();
        let all = (self.all - before.all).as_secs_f64();
        Load {
            throughput: requests / seconds,
            cpu_us: proxies * 1e6 / requests,
            cpu_us_each: each.iter().map(|seconds| seconds * 1e6 / requests).collect(),
            load_core: own / seconds,
            foreign: ((all - proxies - own) / seconds).max(0.0),
        }
    }
}
