//! Closed loop: every slot sends its next request as soon as the last one is answered. What it
//! measures is the most a pair can do, and what a request costs the proxies then.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::LocalSet;

use super::slot::{Slot, connect};
use super::{Shape, Tally, Target, runtime};
use crate::machine;

/// The outcome of one closed-loop window.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    /// Requests per second.
    pub(crate) throughput: f64,
    /// CPU microseconds per request, all of `pids` together.
    pub(crate) cpu_us: f64,
    /// The same for each proxy of the pair, in the order of the path.
    pub(crate) cpu_us_each: Vec<f64>,
    /// How busy generator and server kept their core; near 1 the throughput is theirs.
    pub(crate) load_core: f64,
    /// How much of a core processes took that have nothing to do with the run.
    pub(crate) foreign: f64,
}

/// Drives `target` for `warm_up` and then `window`; only the window counts.
pub(crate) fn closed(
    target: &Target,
    shape: Shape,
    warm_up: Duration,
    window: Duration,
    pids: &[u32],
) -> Result<Closed> {
    LocalSet::new().block_on(&runtime()?, async {
        let tally = Rc::new(Tally::default());
        let mut tasks = Vec::new();
        for slot in connect(target, shape).await? {
            tasks.push(tokio::task::spawn_local(keep_busy(slot, target.clone(), tally.clone())));
        }
        tokio::time::sleep(warm_up).await;
        let before = Reading::take(&tally, pids)?;
        tokio::time::sleep(window).await;
        let after = Reading::take(&tally, pids)?;
        tally.stop.set(true);
        for task in tasks {
            task.await?;
        }
        tally.check()?;
        Ok(after.since(&before))
    })
}

async fn keep_busy(mut slot: Slot, target: Target, tally: Rc<Tally>) {
    while !tally.stop.get() {
        let outcome = slot.exchange(target.next_token()).await;
        if !tally.count(outcome) {
            return;
        }
    }
}

struct Reading {
    at: Instant,
    completed: u64,
    proxies: Vec<Duration>,
    own: Duration,
    all: Duration,
}

impl Reading {
    fn take(tally: &Tally, pids: &[u32]) -> Result<Reading> {
        let proxies = pids.iter().map(|pid| machine::cpu_time(*pid)).collect::<Result<_>>()?;
        let own = machine::cpu_time(std::process::id())?;
        let all = machine::cpu_time_of_all()?;
        Ok(Reading { at: Instant::now(), completed: tally.completed.get(), proxies, own, all })
    }

    fn since(&self, before: &Reading) -> Closed {
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
        Closed {
            throughput: requests / seconds,
            cpu_us: proxies * 1e6 / requests,
            cpu_us_each: each.iter().map(|seconds| seconds * 1e6 / requests).collect(),
            load_core: own / seconds,
            foreign: ((all - proxies - own) / seconds).max(0.0),
        }
    }
}
