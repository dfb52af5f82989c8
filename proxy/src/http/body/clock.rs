//! When a body has taken too long: without progress, in all, or by the deadline of its call.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use countersign_config::limits;
use tokio::time::{Instant, Sleep};

use crate::upstream::upload::{Fault, Upload};

/// When a body has taken too long. The timer is looked at only while the body waits.
pub(super) struct Clock {
    pub(super) idle: Duration,
    pub(super) until: Option<Instant>,
    /// The deadline the call brought along.
    pub(super) deadline: Option<Instant>,
    pub(super) waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Nothing has been waited for yet.
    pub(super) fn new() -> Clock {
        let idle = Duration::from_millis(limits::BODY_IDLE_MS_MAX);
        Clock { idle, until: None, deadline: None, waiting_since: None, timer: None }
    }

    /// Whether the exchange has lasted too long.
    pub(super) fn over(&self) -> Option<Fault> {
        if self.until.is_none() && self.deadline.is_none() {
            return None;
        }
        let now = Instant::now();
        let past = |end: Option<Instant>| end.is_some_and(|end| now >= end);
        match (past(self.until), past(self.deadline)) {
            (true, _) => Some(Fault::TooOld),
            (false, true) => Some(Fault::Deadline),
            (false, false) => None,
        }
    }

    /// Looks whether the body has waited for too long, and sees to it that somebody looks again.
    pub(super) fn late(&mut self, cx: &mut Context<'_>, upload: Option<&Upload>) -> Option<Fault> {
        let since = match self.waiting_since {
            Some(since) => since,
            None => *self.waiting_since.insert(Instant::now()),
        };
        loop {
            let since = upload.map_or(since, |upload| upload.last_moved().max(since));
            let idle = since + self.idle;
            let ends = self.until.into_iter().chain(self.deadline);
            let next = ends.fold(idle, Instant::min);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if timer.as_mut().poll(cx).is_pending() {
                return None;
            }
            if Instant::now() < next {
                timer.as_mut().reset(next);
                continue;
            }
            return Some(self.over().unwrap_or(Fault::Stalled));
        }
    }
}
