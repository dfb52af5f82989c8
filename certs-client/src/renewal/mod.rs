//! When: how late an identity is, when a new one is asked for, and how long to wait after a
//! failure. Pure, no clock and no randomness inside: [`machine`] is told both.

pub mod machine;

use std::time::Duration;

use crate::status::State;

/// Shortest wait after a failure.
pub const BACKOFF_MS_MIN: u64 = 100;
/// Longest wait after a failure, while a good identity is held.
pub const BACKOFF_MS_MAX: u64 = 60_000;
/// Longest wait after a failure while there is no identity, so that a process that came up before
/// its agent is not without identity for a minute.
pub const BACKOFF_EMPTY_MS_MAX: u64 = 5_000;
/// First ceiling of the wait; it doubles with every attempt.
const BACKOFF_MS_BASE: u64 = 1_000;

/// The longest wait of a source that is asked by us and pushes, with `left_s` until the identity
/// that is held ends: what waits must not sleep through it.
pub fn backoff_ms_max(left_s: Option<u64>) -> u64 {
    let Some(left_s) = left_s else { return BACKOFF_EMPTY_MS_MAX };
    left_s.saturating_mul(1000 / 10).clamp(BACKOFF_MS_BASE, BACKOFF_MS_MAX)
}

/// The wait before attempt `attempt + 1`, full jitter: `random` is uniform in `0..=u32::MAX`.
pub fn backoff(attempt: u32, random: u32, ms_max: u64) -> Duration {
    let ceiling = BACKOFF_MS_BASE.saturating_mul(1 << attempt.min(16)).min(ms_max);
    let ms = u128::from(ceiling) * u128::from(random) / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(ms).unwrap_or(ceiling).max(BACKOFF_MS_MIN))
}

/// How late an identity is that lives from `from` (start of validity or receipt) to `not_after`.
pub fn state_at(from: u64, not_after: u64, now: u64) -> State {
    if now > not_after {
        return State::Expired;
    }
    let life = not_after.saturating_sub(from);
    let used = now.saturating_sub(from);
    let share = used.saturating_mul(100).checked_div(life).unwrap_or(100);
    match share {
        0..75 => State::Valid,
        75..90 => State::Late,
        _ => State::Critical,
    }
}
