//! When keys are fetched, by a clock that is turned by hand.

use std::time::Duration;

use crate::clock::Now;
use crate::gateway::key_schedule::KeySchedule;

fn at(secs: u64) -> Now {
    Now::from_micros((1_000_000 + secs) * 1_000_000)
}

fn schedule() -> KeySchedule {
    KeySchedule::new(Duration::from_secs(900), Duration::from_secs(30))
}

#[test]
fn the_first_fetch_is_due_at_once_and_the_next_after_the_interval() {
    let mut schedule = schedule();
    assert_eq!(schedule.wait_ms(at(0), false), 0);
    schedule.succeeded(at(0), 0);
    assert_eq!(schedule.wait_ms(at(0), false), 900_000);
    assert_eq!(schedule.wait_ms(at(899), false), 1_000);
    assert_eq!(schedule.wait_ms(at(900), false), 0);
    schedule.succeeded(at(900), 100);
    assert_eq!(schedule.wait_ms(at(900), false), 990_000);
}

#[test]
fn attack_floods_unknown_kids() {
    let mut schedule = schedule();
    schedule.succeeded(at(0), 0);
    let mut fetches = Vec::new();
    for second in 0..300 {
        // Thousands of tokens per second all say the same: a key is wanted.
        if schedule.wait_ms(at(second), true) == 0 {
            fetches.push(second);
            schedule.succeeded(at(second), 0);
        }
    }
    assert_eq!(fetches, [30, 60, 90, 120, 150, 180, 210, 240, 270]);
}

#[test]
fn failures_are_retried_with_growing_waits() {
    let mut schedule = schedule();
    let mut waits = Vec::new();
    for _ in 0..9 {
        schedule.failed(at(0), 0);
        waits.push(schedule.wait_ms(at(0), false) / 1_000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    schedule.succeeded(at(0), 0);
    schedule.failed(at(0), 0);
    assert_eq!(schedule.wait_ms(at(0), false), 1_000);
}

#[test]
fn a_clock_set_back_does_not_stop_fetching() {
    let mut schedule = schedule();
    schedule.succeeded(at(10_000), 0);
    assert_eq!(schedule.wait_ms(at(0), false), 0);
}
