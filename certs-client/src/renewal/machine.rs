//! The life of an identity as a machine: events in, actions out.
//!
//! Sources that ask for certificates themselves follow [`Renewal::next`]; for the others the same
//! clock only raises alarms. Invariants: time is the wall clock, compared once a second, so that a
//! machine that slept wakes up to what is due; a failure never shortens what is held; after the end
//! of the certificate nothing is held; attempts go on until an authority says that they are
//! pointless.

use std::time::Duration;

use super::{BACKOFF_EMPTY_MS_MAX, BACKOFF_MS_MAX, backoff, state_at};
use crate::status::State;

/// A renewal begins at a random point of the life between these, in thousandths.
const TARGET_PERMILLE: (u64, u64) = (500, 600);
/// A step of the wall clock beyond this between two looks is told.
const CLOCK_STEP_MS_MAX: u64 = 30_000;
/// Time between two warnings about the same thing.
const WARN_EVERY_MS: u64 = 60_000;
/// Longest wait an authority may ask for.
const RETRY_AFTER_MS_MAX: u64 = 60_000;
/// Longest time until the wall clock is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The clock was looked at.
    Tick,
    /// An attempt began.
    Asked,
    /// A new certificate is published. Unix seconds.
    Delivered {
        /// Start of validity.
        not_before: u64,
        /// End of validity.
        not_after: u64,
    },
    /// An attempt failed; the authority may have said when to come again.
    Failed {
        /// From now.
        retry_after: Option<Duration>,
    },
    /// An attempt failed for good: what is asked will never be granted.
    Refused,
    /// The token that holds the private key lost it: only a new certificate helps.
    KeyLost,
    /// The source took the identity away.
    Withdrawn,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// The certificate has ended: take the identity out of use.
    Expire,
    /// Tell people, with the last error.
    Warn(State),
    /// The wall clock stepped. Unix milliseconds.
    ClockStepped {
        /// Before.
        from_ms: u64,
        /// After.
        to_ms: u64,
    },
}

/// What a source that asks by itself does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Ask now, with a new key pair and credentials read again.
    Ask {
        /// Failures since the last success.
        attempt: u32,
    },
    /// Look again after this; never more than a second.
    Wait(Duration),
    /// Asking again is pointless.
    Stop,
}

/// The machine. It begins without an identity, wanting one.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    held: Option<Held>,
    /// Why there is none, where there was one.
    ended: Option<State>,
    attempt: u32,
    asking: bool,
    refused: bool,
    key_lost: bool,
    /// End of the wait after a failure, Unix milliseconds.
    wait_until_ms: Option<u64>,
    /// What people were told last, and when.
    warned: Option<(State, u64)>,
    last_look_ms: Option<u64>,
    clock_steps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    not_before: u64,
    received: u64,
    not_after: u64,
    /// The point of its life at which it is renewed, in thousandths.
    point: u64,
}

impl Held {
    fn from(&self) -> u64 {
        self.not_before.max(self.received)
    }

    fn target_ms(&self) -> u64 {
        let life_ms = self.not_after.saturating_sub(self.from()).saturating_mul(1_000);
        let used = life_ms.saturating_mul(self.point) / 1_000;
        self.from().saturating_mul(1_000).saturating_add(used)
    }
}

impl Renewal {
    /// Takes an event at `now_ms`; `random` is uniform in `0..=u32::MAX`.
    pub fn on(&mut self, event: Event, now_ms: u64, random: u32) -> Vec<Action> {
        let mut actions = Vec::new();
        self.look_at_the_clock(now_ms, &mut actions);
        match event {
            Event::Tick => {}
            Event::Asked => self.asking = true,
            Event::Delivered { not_before, not_after } => {
                let (least, most) = TARGET_PERMILLE;
                let point = least + (most - least) * u64::from(random) / u64::from(u32::MAX);
                let received = now_ms / 1_000;
                self.held = Some(Held { not_before, received, not_after, point });
                (self.ended, self.warned, self.key_lost) = (None, None, false);
                (self.attempt, self.asking, self.wait_until_ms) = (0, false, None);
            }
            Event::Failed { retry_after } => self.failed(retry_after, now_ms, random),
            Event::KeyLost => self.key_lost = true,
            Event::Refused => (self.asking, self.refused) = (false, true),
            Event::Withdrawn => {
                if self.held.take().is_some() {
                    self.ended = Some(State::Withdrawn);
                }
            }
        }
        self.look_at_the_life(now_ms, &mut actions);
        actions
    }

    /// What a source that asks by itself does at `now_ms`.
    pub fn next(&self, now_ms: u64) -> Next {
        if self.refused {
            return Next::Stop;
        }
        let due_ms = match (&self.wait_until_ms, &self.held) {
            (Some(until), _) => *until,
            // By a clock that was set back it has not begun: nobody would accept it.
            (None, Some(held)) if now_ms / 1_000 < held.not_before => now_ms,
            (None, Some(_)) if self.key_lost => now_ms,
            (None, Some(held)) => held.target_ms(),
            (None, None) => now_ms,
        };
        if due_ms <= now_ms && !self.asking {
            return Next::Ask { attempt: self.attempt };
        }
        let left = Duration::from_millis(due_ms.saturating_sub(now_ms));
        Next::Wait(left.clamp(Duration::from_millis(1), LOOK_AGAIN))
    }

    /// Where the identity stands.
    pub fn state(&self, now_ms: u64) -> State {
        match &self.held {
            Some(held) => state_at(held.from(), held.not_after, now_ms / 1_000),
            None => self.ended.unwrap_or(State::Empty),
        }
    }

    /// Failures since the last success.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// End of the wait after the last failure, Unix milliseconds; `None` if none is under way.
    pub fn wait_until_ms(&self) -> Option<u64> {
        self.wait_until_ms
    }

    /// How often the wall clock stepped.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps
    }

    fn failed(&mut self, retry_after: Option<Duration>, now_ms: u64, random: u32) {
        let wait = backoff(self.attempt, random, self.wait_ms_max(now_ms));
        let asked = retry_after.unwrap_or_default().min(Duration::from_millis(RETRY_AFTER_MS_MAX));
        let wait_ms = u64::try_from(wait.max(asked).as_millis()).unwrap_or(RETRY_AFTER_MS_MAX);
        self.wait_until_ms = Some(now_ms.saturating_add(wait_ms));
        self.attempt = self.attempt.saturating_add(1);
        self.asking = false;
    }

    /// Never more than a quarter of what is left to live, so that short certificates are not slept
    /// through; never less than a second, which is the first ceiling anyway.
    fn wait_ms_max(&self, now_ms: u64) -> u64 {
        let Some(held) = &self.held else { return BACKOFF_EMPTY_MS_MAX };
        let left_ms = held.not_after.saturating_mul(1_000).saturating_sub(now_ms);
        BACKOFF_MS_MAX.min((left_ms / 4).max(1_000))
    }

    /// A clock that was set back takes what was measured by it along.
    fn look_at_the_clock(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let Some(last_ms) = self.last_look_ms.replace(now_ms) else { return };
        let back_ms = last_ms.saturating_sub(now_ms);
        if now_ms.abs_diff(last_ms) > CLOCK_STEP_MS_MAX {
            self.clock_steps = self.clock_steps.saturating_add(1);
            actions.push(Action::ClockStepped { from_ms: last_ms, to_ms: now_ms });
        }
        if back_ms == 0 {
            return;
        }
        if let Some(held) = &mut self.held {
            held.received = held.received.saturating_sub(back_ms.div_ceil(1_000));
        }
        self.wait_until_ms = self.wait_until_ms.map(|until| until.saturating_sub(back_ms));
        self.warned = self.warned.map(|(state, at)| (state, at.saturating_sub(back_ms)));
    }

    fn look_at_the_life(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let state = self.state(now_ms);
        if state == State::Expired && self.held.take().is_some() {
            self.ended = Some(State::Expired);
            actions.push(Action::Expire);
        }
        if matches!(state, State::Empty | State::Valid) {
            return;
        }
        let told = self
            .warned
            .is_some_and(|(last, at)| last == state && now_ms.saturating_sub(at) < WARN_EVERY_MS);
        if !told {
            self.warned = Some((state, now_ms));
            actions.push(Action::Warn(state));
        }
    }
}
