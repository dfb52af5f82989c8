//! Runs the streams of one HTTP/2 server connection, and ends those that stand still.
//!
//! A stream whose client opens no window is woken by nobody: hyper does not ask its body for more,
//! so no timer of the body runs. Everything else that a stream may wait for has a clock of at most
//! `BODY_IDLE_MS_MAX` that wakes it. Invariant: a stream that nobody woke for half as long again is
//! reset, and frees what it held.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Spawns streams on this worker's thread.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    patience: Duration,
}

impl Streams {
    /// For bodies that may stand still for this long.
    pub fn new(body_idle: Duration) -> Streams {
        Streams { patience: body_idle.saturating_mul(3) / 2 }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let patience = self.patience;
        tokio::task::spawn_local(async move {
            if !until_forgotten(stream, patience).await {
                tracing::debug!("a stream stood still and was reset");
            }
        });
    }
}

/// Drives a future to its end; `false` if nobody woke it for as long as `patience`.
async fn until_forgotten<F: Future>(work: F, patience: Duration) -> bool {
    let mut work = pin!(work);
    let mut timer = pin!(sleep(patience));
    let mut woken = Instant::now();
    poll_fn(|cx| {
        if timer.as_mut().poll(cx).is_ready() {
            let due = woken + patience;
            if Instant::now() >= due {
                return Poll::Ready(false);
            }
            timer.as_mut().reset(due);
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
        } else {
            woken = Instant::now();
        }
        work.as_mut().poll(cx).map(|_| true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::upstream::upload::{self, Patience, Upload};

    const MS: Duration = Duration::from_millis(1);

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn what_nobody_wakes_ends() {
        run(async {
            assert!(!until_forgotten(std::future::pending::<()>(), 30 * MS).await);
            assert!(until_forgotten(async {}, 30 * MS).await);
        });
    }

    #[test]
    fn what_is_woken_now_and_then_goes_on() {
        run(async {
            let turns = Rc::new(Cell::new(0));
            let counted = Rc::clone(&turns);
            let work = async move {
                for _ in 0..10 {
                    sleep(20 * MS).await;
                    counted.set(counted.get() + 1);
                }
            };
            // Far longer than its patience in all, never that long without being woken.
            assert!(until_forgotten(work, 150 * MS).await);
            assert_eq!(turns.get(), 10);
        });
    }

    /// A gRPC call without a deadline may wait for its answer for as long as its server likes.
    #[test]
    fn a_wait_for_a_head_without_a_limit_is_not_forgotten() {
        run(async {
            let upload = Upload::begin();
            upload.sent();
            let patience = Patience { head: None, idle: 20 * MS, until: None };
            let answer = async {
                sleep(900 * MS).await;
                Ok::<_, ()>(())
            };
            let waits = upload::head(answer, &upload, patience);
            assert!(until_forgotten(waits, 600 * MS).await);
        });
    }
}
