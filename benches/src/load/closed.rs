//! Closed loop: every slot sends its next request as soon as the last one is answered. What it
//! measures is the most a pair can do, and what a request costs the proxies then.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::LocalSet;

use super::reading::{Load, Reading};
use super::slot::{Slot, connect};
use super::{Shape, Tally, Target, runtime};

/// Drives `target` for `warm_up` and then `window`; only the window counts.
pub(crate) fn closed(
    target: &Target,
    shape: Shape,
    warm_up: Duration,
    window: Duration,
    pids: &[u32],
) -> Result<Load> {
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
