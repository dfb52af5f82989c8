//! Open loop: requests become due on a clock, whatever the pair is doing. A request that finds no
//! free slot waits, and its wait is part of its latency.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::pace::Pace;
use super::reading::{Load, Reading};
use super::slot::{Slot, connect};
use super::{Shape, Tally, Target, runtime};

/// How long the last requests may take after the clock has stopped.
const TAIL_MAX: Duration = Duration::from_secs(5);

/// The outcome of one open-loop window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// Median latency from the intended start, in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, in microseconds.
    pub(crate) p99_us: f64,
}

/// What the clock hands to the slots, and what the slots hand back.
#[derive(Default)]
struct Queue {
    due: RefCell<VecDeque<Instant>>,
    waiting: Notify,
    /// Intended start and latency of each answered request.
    answered: RefCell<Vec<(Instant, Duration)>>,
    tally: Tally,
}

/// Starts `rate` requests per second for `warm_up` and then `window`; only the window counts.
pub(crate) fn open(
    target: &Target,
    shape: Shape,
    rate: u32,
    warm_up: Duration,
    window: Duration,
    pids: &[u32],
) -> Result<(Open, Load)> {
    LocalSet::new().block_on(&runtime()?, async {
        let queue = Rc::new(Queue::default());
        for slot in connect(target, shape).await? {
            tokio::task::spawn_local(serve_queue(slot, target.clone(), queue.clone()));
        }
        let start = Instant::now();
        let end = start + warm_up + window;
        let readings = async {
            tokio::time::sleep(warm_up).await;
            let before = Reading::take(&queue.tally, pids)?;
            tokio::time::sleep(window).await;
            Ok((before, Reading::take(&queue.tally, pids)?))
        };
        let (issued, (before, after)) = tokio::try_join!(issue(&queue, rate, end), readings)?;
        drain(&queue, issued).await?;
        queue.tally.check()?;
        Ok((summarise(&queue.answered.borrow(), start + warm_up), after.since(&before)))
    })
}

/// Puts requests into the queue as they become due.
async fn issue(queue: &Queue, rate: u32, end: Instant) -> Result<u64> {
    let mut pace = Pace::start(Duration::from_secs(1) / rate)?;
    let mut issued = 0;
    loop {
        for due in pace.beats().await? {
            if due > end {
                return Ok(issued);
            }
            queue.due.borrow_mut().push_back(due);
            queue.waiting.notify_one();
            issued += 1;
        }
    }
}

async fn serve_queue(mut slot: Slot, target: Target, queue: Rc<Queue>) {
    loop {
        // The borrow must end before the wait.
        let due = queue.due.borrow_mut().pop_front();
        let Some(due) = due else {
            queue.waiting.notified().await;
            continue;
        };
        let outcome = slot.exchange(target.next_token()).await;
        let latency = due.elapsed();
        if !queue.tally.count(outcome) {
            return;
        }
        queue.answered.borrow_mut().push((due, latency));
    }
}

async fn drain(queue: &Queue, issued: u64) -> Result<()> {
    let deadline = Instant::now() + TAIL_MAX;
    while queue.tally.completed.get() + queue.tally.failed.get() < issued {
        if Instant::now() > deadline {
            queue.tally.check()?;
            bail!(
                "the pair does not keep up: requests unanswered {TAIL_MAX:?} after the last start"
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn summarise(answered: &[(Instant, Duration)], counted_from: Instant) -> Open {
    let mut latencies: Vec<f64> = answered
        .iter()
        .filter(|(due, _)| *due >= counted_from)
        .map(|(_, latency)| latency.as_secs_f64() * 1e6)
        .collect();
    latencies.sort_by(f64::total_cmp);
    Open { p50_us: quantile(&latencies, 0.5), p99_us: quantile(&latencies, 0.99) }
}

/// The nearest-rank quantile of sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
