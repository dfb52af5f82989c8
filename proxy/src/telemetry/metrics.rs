//! All metrics of a process, and their scrape.
//!
//! Built once in the composition root. [`Metrics::worker`] hands a worker its counters;
//! [`Metrics::render`] adds up what the workers counted. A scrape takes no lock that a request
//! could wait for longer than a push into a short list.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use countersign_config::limits;

use super::breakers;
use super::encode::Page;
use super::labels::{Direction, Label};
use super::names::{self, Def};
use super::process::ProcessMetrics;
use super::series::{
    BUCKETS, Budget, DecisionKey, Family, HISTOGRAM_CELLS, Reasons, RequestKey, Table,
};
use super::worker::{Shard, WorkerMetrics};
use crate::audit::AuditStats;
use crate::clock::Now;

/// The metrics of this process. Clones share everything.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: Mutex<Vec<Arc<Shard>>>,
    requests: Arc<Budget>,
    decisions: Arc<Budget>,
    process: ProcessMetrics,
    audit: OnceLock<Arc<AuditStats>>,
    log_dropped: OnceLock<Arc<AtomicU64>>,
}

impl Metrics {
    /// Metrics of a process that starts now.
    pub fn new(now: Now) -> Metrics {
        // The overflow series themselves stay below the cap too.
        let budget = |reserve| {
            let series = usize::saturating_sub(limits::SERIES_PER_METRIC_MAX, reserve);
            Arc::new(Budget::new(series))
        };
        let inner = Inner {
            shards: Mutex::default(),
            requests: budget(RequestKey::COUNT),
            decisions: budget(DecisionKey::COUNT),
            process: ProcessMetrics::new(now),
            audit: OnceLock::new(),
            log_dropped: OnceLock::new(),
        };
        Metrics { inner: Arc::new(inner) }
    }

    /// The counters of worker `number`. Called once per worker, on its own thread.
    pub fn worker(&self, number: usize) -> Rc<WorkerMetrics> {
        let Inner { requests, decisions, .. } = &*self.inner;
        let shard = Arc::new(Shard::new(number, requests.clone(), decisions.clone()));
        self.lock_shards().push(shard.clone());
        Rc::new(WorkerMetrics::new(shard))
    }

    /// What is counted off the data path.
    pub fn process(&self) -> &ProcessMetrics {
        &self.inner.process
    }

    /// Includes the counters of the audit writer in scrapes.
    pub fn attach_audit(&self, stats: Arc<AuditStats>) {
        _ = self.inner.audit.set(stats);
    }

    /// Includes the count of dropped log lines in scrapes.
    pub fn attach_log_dropped(&self, dropped: Arc<AtomicU64>) {
        _ = self.inner.log_dropped.set(dropped);
    }

    /// Workers whose event loop has not turned for `limit_ms`; those that never did are left out.
    pub fn stuck_workers(&self, now: Now, limit_ms: u64) -> Vec<usize> {
        let shards = self.lock_shards();
        let stuck = shards.iter().filter(|shard| {
            let beat = shard.beat_ms.load(Relaxed);
            beat > 0 && now.millis().saturating_sub(beat) > limit_ms
        });
        stuck.map(|shard| shard.worker).collect()
    }

    /// Connections from outside this pod that are open.
    pub fn entered(&self) -> u64 {
        let shards = self.lock_shards().clone();
        let entering = [Direction::Inbound, Direction::Gateway];
        let count = |table: Vec<u64>| -> u64 {
            entering.iter().filter_map(|direction| table.get(direction.index())).sum()
        };
        let opened = count(sum_table(&shards, |shard| &shard.opened));
        opened.saturating_sub(count(sum_table(&shards, |shard| &shard.closed)))
    }

    /// Everything as Prometheus text.
    pub fn render(&self, now: Now) -> String {
        let shards = self.lock_shards().clone();
        let mut page = Page::default();
        write_requests(&mut page, &shards);
        write_family(&mut page, &names::DECISIONS, &shards, |shard| &shard.decisions);
        write_reasons(&mut page, &names::REFUSALS, &shards, |shard| &shard.refusals);
        write_reasons(&mut page, &names::CALLER_TOKENS, &shards, |shard| &shard.callers);
        write_reasons(&mut page, &names::LOCAL_CALLS, &shards, |shard| &shard.local);
        write_reasons(&mut page, &names::CONTEXT_MINTED, &shards, |shard| &shard.minted);
        write_reasons(&mut page, &names::CONTEXT_VERIFIED, &shards, |shard| &shard.verified);
        write_table(&mut page, &names::CONTEXT_CACHE, &shards, |shard| &shard.cache);
        write_table(&mut page, &names::CONTEXT_LOOKUP, &shards, |shard| &shard.lookup);
        write_table(&mut page, &names::RESERVED_REMOVED, &shards, |shard| &shard.removed);
        write_reasons(&mut page, &names::HANDSHAKES, &shards, |shard| &shard.handshakes);
        write_connections(&mut page, &shards);
        write_table(&mut page, &names::TCP_BYTES, &shards, |shard| &shard.tcp_bytes);
        write_table(&mut page, &names::DETECT_TIMEOUT, &shards, |shard| &shard.detect_timeout);
        write_reasons(&mut page, &names::LIMITS_HIT, &shards, |shard| &shard.limits);
        write_reasons(&mut page, &names::LOOP_GUARD, &shards, |shard| &shard.loop_guard);
        write_reasons(&mut page, &names::UPSTREAM_RETRIES, &shards, |shard| &shard.retries);
        breakers::write(&mut page, &shards);
        if let Some(audit) = self.inner.audit.get() {
            audit.write(&mut page);
        }
        if let Some(dropped) = self.inner.log_dropped.get() {
            page.begin(&names::LOG_DROPPED);
            page.sample(&names::LOG_DROPPED, &[], dropped.load(Relaxed));
        }
        self.inner.process.write(&mut page, now);
        page.finish()
    }

    fn lock_shards(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shard>>> {
        self.inner.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds `values` to `totals`, cell by cell.
fn add_up(totals: &mut Vec<u64>, values: impl Iterator<Item = u64>) {
    for (position, value) in values.enumerate() {
        match totals.get_mut(position) {
            Some(total) => *total = total.wrapping_add(value),
            None => totals.push(value),
        }
    }
}

fn texts<L: Label>(index: usize) -> Vec<&'static str> {
    let mut texts = Vec::with_capacity(4);
    L::write_texts(index, &mut texts);
    texts
}

fn sum_table<L: Label>(shards: &[Arc<Shard>], table: fn(&Shard) -> &Table<L>) -> Vec<u64> {
    let mut totals = vec![0; L::COUNT];
    for shard in shards {
        add_up(&mut totals, table(shard).values());
    }
    totals
}

fn write_table<L: Label>(
    page: &mut Page,
    def: &Def,
    shards: &[Arc<Shard>],
    table: fn(&Shard) -> &Table<L>,
) {
    page.begin(def);
    for (index, total) in sum_table(shards, table).into_iter().enumerate() {
        page.sample(def, &texts::<L>(index), total);
    }
}

fn write_reasons<L: Label>(
    page: &mut Page,
    def: &Def,
    shards: &[Arc<Shard>],
    reasons: fn(&Shard) -> &Reasons<L>,
) {
    let mut totals: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    for (index, reason, count) in shards.iter().flat_map(|shard| reasons(shard).values()) {
        *totals.entry((index, reason)).or_default() += count;
    }
    page.begin(def);
    for ((index, reason), total) in totals {
        let mut values = texts::<L>(index);
        values.push(reason);
        page.sample(def, &values, total);
    }
}

fn write_family<L: Label>(
    page: &mut Page,
    def: &Def,
    shards: &[Arc<Shard>],
    family: fn(&Shard) -> &Family<L>,
) {
    let mut totals: BTreeMap<[Box<str>; 2], Vec<u64>> = BTreeMap::new();
    for entry in shards.iter().flat_map(|shard| family(shard).entries()) {
        add_up(totals.entry(entry.labels.clone()).or_default(), entry.values());
    }
    page.begin(def);
    for (labels, counts) in &totals {
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let mut values = texts::<L>(index);
            values.extend(labels.iter().map(|label| &**label));
            page.sample(def, &values, count);
        }
    }
}

fn write_requests(page: &mut Page, shards: &[Arc<Shard>]) {
    write_family(page, &names::REQUESTS, shards, |shard| &shard.requests);
    let mut totals = Vec::new();
    for shard in shards {
        add_up(&mut totals, shard.durations.values());
    }
    page.begin(&names::REQUEST_DURATION);
    for (index, cells) in totals.chunks_exact(HISTOGRAM_CELLS).enumerate() {
        let Some((sum_us, counts)) = cells.split_last() else { continue };
        if counts.iter().all(|count| *count == 0) {
            continue;
        }
        let bounds = BUCKETS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
        let sum_s = std::time::Duration::from_micros(*sum_us).as_secs_f64();
        page.histogram(&names::REQUEST_DURATION, &texts::<RequestKey>(index), &buckets, sum_s);
    }
}

fn write_connections(page: &mut Page, shards: &[Arc<Shard>]) {
    let opened = sum_table(shards, |shard| &shard.opened);
    let closed = sum_table(shards, |shard| &shard.closed);
    page.begin(&names::CONNECTIONS);
    for (index, (opened, closed)) in opened.iter().zip(&closed).enumerate() {
        let open = opened.saturating_sub(*closed);
        page.sample(&names::CONNECTIONS, &texts::<Direction>(index), open);
    }
    page.begin(&names::CONNECTIONS_TOTAL);
    for (index, opened) in opened.iter().enumerate() {
        page.sample(&names::CONNECTIONS_TOTAL, &texts::<Direction>(index), opened);
    }
    write_reasons(page, &names::CONNECTIONS_ENDED, shards, |shard| &shard.ended);
    let past: u64 = shards.iter().map(|shard| shard.past_expiry.load(Relaxed)).sum();
    page.begin(&names::CONNECTIONS_PAST_EXPIRY);
    page.sample(&names::CONNECTIONS_PAST_EXPIRY, &[], past);
    page.begin(&names::WORKER_CONNECTIONS);
    for shard in shards {
        let opened: u64 = shard.opened.values().sum();
        let closed: u64 = shard.closed.values().sum();
        let worker = shard.worker.to_string();
        page.sample(&names::WORKER_CONNECTIONS, &[&worker], opened.saturating_sub(closed));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::series::OVERFLOW;
    use crate::telemetry::{CacheUse, Protocol, Verdict};

    fn metrics() -> Metrics {
        Metrics::new(Now::from_micros(1_000_000_000))
    }

    fn value(page: &str, series: &str) -> Option<u64> {
        let line = page.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn a_scrape_adds_up_the_workers() {
        let metrics = metrics();
        for number in 0..3 {
            let worker = metrics.worker(number);
            let peer = worker.peer("shop", "cart");
            let took = Duration::from_millis(3);
            worker.request(Direction::Inbound, Protocol::Http2, 200, &peer, took);
            worker.decision_by(Direction::Inbound, Verdict::Allow, "shop/orders", "read");
            worker.cache(CacheUse::Hit);
            worker.refusal(Direction::Inbound, "token_expired");
            worker.handshake(Direction::Outbound, "ok");
        }
        let page = metrics.render(Now::from_micros(2_000_000_000));
        for series in [
            r#"countersign_requests_total{direction="inbound",protocol="http2",status_class="2xx",peer_namespace="shop",peer_service_account="cart"}"#,
            r#"countersign_request_duration_seconds_bucket{direction="inbound",protocol="http2",status_class="2xx",le="0.005"}"#,
            r#"countersign_decisions_total{direction="inbound",decision="allow",policy="shop/orders",rule="read"}"#,
            r#"countersign_context_cache_total{result="hit"}"#,
            r#"countersign_refusals_total{direction="inbound",reason="token_expired"}"#,
            r#"countersign_tls_handshakes_total{direction="outbound",result="ok"}"#,
        ] {
            assert_eq!(value(&page, series), Some(3), "{series}\n{page}");
        }
    }

    #[test]
    fn a_connection_counts_as_open_until_it_is_dropped() {
        let metrics = metrics();
        let worker = metrics.worker(0);
        let first = worker.connection(Direction::Inbound);
        let _second = worker.connection(Direction::Inbound);
        drop(first);
        let page = metrics.render(Now::from_micros(0));
        let open = r#"countersign_connections{direction="inbound"}"#;
        assert_eq!(value(&page, open), Some(1));
        assert_eq!(value(&page, r#"countersign_worker_connections{worker="0"}"#), Some(1));
        let opened = r#"countersign_connections_total{direction="inbound"}"#;
        assert_eq!(value(&page, opened), Some(2));
    }

    #[test]
    fn ten_thousand_random_peers_and_rules_do_not_grow_series() {
        let metrics = metrics();
        let workers = [metrics.worker(0), metrics.worker(1)];
        for number in 0..10_000_u32 {
            let name = format!("name-{}", number.wrapping_mul(2_654_435_761));
            for worker in &workers {
                let peer = worker.peer(&name, &name);
                for status in [200, 403] {
                    let took = Duration::ZERO;
                    worker.request(Direction::Gateway, Protocol::Http1, status, &peer, took);
                }
                worker.decision_by(Direction::Inbound, Verdict::Deny, &name, &name);
            }
        }
        let page = metrics.render(Now::from_micros(0));
        for def in [&names::REQUESTS, &names::DECISIONS] {
            let samples = page.lines().filter(|line| line.starts_with(&format!("{}{{", def.name)));
            let (mut series, mut total) = (0, 0);
            for sample in samples {
                series += 1;
                total += sample.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
            }
            assert!(series <= limits::SERIES_PER_METRIC_MAX, "{}: {series}", def.name);
            let expected = if def.name == names::REQUESTS.name { 40_000 } else { 20_000 };
            assert_eq!(total, expected, "nothing is lost, {}", def.name);
            assert!(page.contains(OVERFLOW));
        }
    }

    #[test]
    fn a_wedged_worker_shows() {
        let metrics = metrics();
        let (turning, wedged) = (metrics.worker(0), metrics.worker(1));
        wedged.beat(Now::from_micros(1_000_000));
        turning.beat(Now::from_micros(20_000_000));
        _ = metrics.worker(2);
        assert_eq!(metrics.stuck_workers(Now::from_micros(21_000_000), 5_000), [1]);
    }
}
