//! When: back-off and lateness, from numbers to numbers.

use crate::{
    State,
    renewal::{BACKOFF_MS_MAX, BACKOFF_MS_MIN, backoff, backoff_ms_max, state_at},
};

#[test]
fn the_wait_grows_is_jittered_and_has_bounds() {
    let ms = |attempt, random| backoff(attempt, random, BACKOFF_MS_MAX).as_millis();
    assert_eq!(ms(0, 0), u128::from(BACKOFF_MS_MIN));
    assert_eq!(ms(0, u32::MAX), 1_000);
    assert_eq!(ms(3, u32::MAX), 8_000);
    assert_eq!(ms(3, u32::MAX / 2), 3_999, "full jitter");
    assert_eq!(ms(30, u32::MAX), u128::from(BACKOFF_MS_MAX));
    assert_eq!(backoff(30, u32::MAX, 5_000).as_millis(), 5_000);
}

/// An agent that comes back while a short certificate still lives is found in time.
#[test]
fn w7_the_wait_is_short_beside_what_is_left() {
    assert_eq!(backoff_ms_max(None), 5_000);
    assert_eq!(backoff_ms_max(Some(3600)), BACKOFF_MS_MAX);
    assert_eq!(backoff_ms_max(Some(30)), 3_000);
    assert_eq!(backoff_ms_max(Some(0)), 1_000);
}

#[test]
fn an_identity_becomes_late_then_critical_then_expired() {
    let at = |now| state_at(1_000, 2_000, now);
    assert_eq!(at(1_000), State::Valid);
    assert_eq!(at(1_749), State::Valid);
    assert_eq!(at(1_750), State::Late);
    assert_eq!(at(1_900), State::Critical);
    assert_eq!(at(2_000), State::Critical);
    assert_eq!(at(2_001), State::Expired);
    assert_eq!(at(0), State::Valid, "a clock that went back");
    assert_eq!(state_at(5, 5, 5), State::Critical, "no life at all");
}
