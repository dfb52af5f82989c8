//! Endpoints left alone, by callee. Touched only when a breaker changes, never per request.
//!
//! LIMIT: beyond `SERIES_PER_METRIC_MAX` callees the rest counts under `overflow`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_config::limits;

use super::encode::Page;
use super::names;
use super::series::OVERFLOW;
use super::worker::{Shard, WorkerMetrics};

/// What is known of one callee's endpoints.
#[derive(Clone, Debug, Default)]
struct Callee {
    open: u64,
    opened: Vec<(&'static str, u64)>,
}

/// The breakers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<Arc<str>, Callee>>);

impl Breakers {
    /// One opened; says under which name it counts.
    fn opened(&self, callee: &Arc<str>, reason: &'static str) -> Arc<str> {
        let mut callees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = callees.len() + 1 < limits::SERIES_PER_METRIC_MAX;
        let known = callees.contains_key(callee);
        let name = if room || known { Arc::clone(callee) } else { Arc::from(OVERFLOW) };
        let entry = callees.entry(Arc::clone(&name)).or_default();
        entry.open += 1;
        match entry.opened.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => entry.opened.push((reason, 1)),
        }
        name
    }

    fn closed(&self, name: &Arc<str>) {
        let mut callees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = callees.get_mut(name) {
            entry.open = entry.open.saturating_sub(1);
        }
    }
}

/// An open breaker in the gauge.
#[derive(Debug)]
pub struct BreakerOpen {
    metrics: Rc<WorkerMetrics>,
    name: Arc<str>,
}

impl Drop for BreakerOpen {
    fn drop(&mut self) {
        self.metrics.shard().breakers.closed(&self.name);
    }
}

impl WorkerMetrics {
    /// An endpoint of `callee` is left alone until the value is dropped.
    pub fn breaker_opened(self: &Rc<Self>, callee: &Arc<str>, reason: &'static str) -> BreakerOpen {
        let name = self.shard().breakers.opened(callee, reason);
        BreakerOpen { metrics: Rc::clone(self), name }
    }
}

/// Writes the breakers of all workers.
pub(crate) fn write(page: &mut Page, shards: &[Arc<Shard>]) {
    let mut all: BTreeMap<Arc<str>, (u64, BTreeMap<&str, u64>)> = BTreeMap::new();
    for shard in shards {
        let callees = shard.breakers.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, callee) in callees {
            let (open, opened) = all.entry(name).or_default();
            *open += callee.open;
            for (reason, count) in callee.opened {
                *opened.entry(reason).or_default() += count;
            }
        }
    }
    page.begin(&names::BREAKER_OPEN);
    for (name, (open, _)) in &all {
        page.sample(&names::BREAKER_OPEN, &[name], open);
    }
    page.begin(&names::BREAKER_OPENED);
    for (name, (_, opened)) in &all {
        for (reason, count) in opened {
            page.sample(&names::BREAKER_OPENED, &[name, reason], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::telemetry::Metrics;

    #[test]
    fn open_ones_are_a_gauge_and_callees_are_capped() {
        let metrics = Metrics::new(Now::from_micros(0));
        let worker = metrics.worker(0);
        let billing: Arc<str> = "shop/billing".into();
        let first = worker.breaker_opened(&billing, "failures");
        let _second = worker.breaker_opened(&billing, "unexpected_identity");
        drop(first);
        let others =
            (0..2_000).map(|n| worker.breaker_opened(&format!("a/{n}").into(), "failures"));
        drop(others.collect::<Vec<_>>());
        let page = metrics.render(Now::from_micros(0));
        let has = |line: &str| assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        has("countersign_breaker_open{callee=\"shop/billing\"} 1");
        has("countersign_breaker_opened_total{callee=\"shop/billing\",reason=\"failures\"} 1");
        has("countersign_breaker_open{callee=\"overflow\"} 0");
        let series = page.lines().filter(|line| line.starts_with("countersign_breaker_open{"));
        assert!(series.count() <= limits::SERIES_PER_METRIC_MAX);
    }
}
