//! Waiting for a condition, with a deadline far above what a busy two-core machine needs.

use std::time::{Duration, Instant};

/// Longest wait for anything; reaching it is a failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `probe` gives a value.
///
/// # Panics
/// After [`DEADLINE`], naming `what` was waited for.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, probe).await
}

/// As [`until`], for what takes long by its nature.
///
/// # Panics
/// After `deadline`, naming `what` was waited for.
pub async fn until_within<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Polls until `holds` is true.
///
/// # Panics
/// After [`DEADLINE`], naming `what` was waited for.
pub async fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || std::future::ready(holds().then_some(()))).await;
}

/// Runs `work`, which must end by itself.
///
/// # Panics
/// After [`DEADLINE`], naming `what` did not end.
pub async fn ends<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not end within {DEADLINE:?}"),
    }
}
