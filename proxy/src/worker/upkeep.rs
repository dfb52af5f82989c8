//! What a worker does without being asked: idle connections, counters, and judging again what lives
//! on it. Invariant: whatever there may be thousands of is done a batch at a time, with a turn for
//! everybody else in between.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Worker;
use crate::clock::Now;
use crate::upstream::budget;

/// Once a second, and when another snapshot is in force.
pub(super) async fn run(worker: Rc<Worker>) {
    const { assert!(budget::TICK_MS == 1_000) };
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut changes = worker.shared.live.changes();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let (generation, now) = (worker.snapshot().peers_generation, Instant::now());
                while worker.pool.sweep(generation, now) {
                    tokio::task::yield_now().await;
                }
                worker.metrics.beat(Now::read());
                worker.own_addresses.forget();
                worker.retries.borrow_mut().tick();
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        reevaluate(&worker).await;
    }
}

/// Judges what is registered again, if anything may have changed for it.
async fn reevaluate(worker: &Worker) {
    let (snap, now) = (worker.snapshot(), Now::read());
    if worker.registry.is_due(snap.generation, now) {
        let mut pass = worker.registry.pass(snap, now);
        while pass.turn() {
            tokio::task::yield_now().await;
            let now = Now::read();
            worker.metrics.beat(now);
            pass.follow(worker.snapshot(), now);
        }
    }
    worker.metrics.past_expiry(worker.registry.past_expiry());
}
