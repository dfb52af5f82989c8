//! Closes connections that were idle for too long, and forgets what they were opened for: a few in
//! one turn, in the order in which they are due, so that a worker that holds thousands stops for
//! none of its requests, and what its upkeep costs in a second does not grow with every one of them.
//!
//! Invariant: each slot of the pool waits for its look exactly once.

use std::rc::Rc;
use std::time::{Duration, Instant};

use countersign_config::limits;

use super::Pool;
use super::slot::Slot;
use crate::upstream::rounds::Rounds;
use crate::upstream::target::{Key, Who};

/// Holders of a slot that nobody uses: the pool, and what waits for its look.
const OWN_HOLDERS: usize = 2;

/// The slots of a pool, as they come up.
pub(super) struct Looks {
    /// Of connections to the app, which are idle for seconds only.
    app: Rounds<(Key, Rc<Slot>)>,
    others: Rounds<(Key, Rc<Slot>)>,
    generation: u64,
    /// How many of the others came before this generation and were not looked at since.
    before: usize,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks {
            app: Rounds::every(limits::POOL_LOOK_APP_MS),
            others: Rounds::every(limits::POOL_LOOK_MESH_MS),
            generation: 0,
            before: 0,
        }
    }
}

impl Looks {
    pub(super) fn enter(&mut self, slot: (Key, Rc<Slot>), now: Instant) {
        let rounds = if is_app(&slot.0) { &mut self.app } else { &mut self.others };
        rounds.enter(slot, now);
    }

    /// A new generation ends what is of another one, so all of that is due at once.
    fn follow(&mut self, generation: u64) {
        if generation != self.generation {
            self.generation = generation;
            self.before = self.others.len();
        }
    }

    fn due(&mut self, now: Instant) -> Option<(Key, Rc<Slot>)> {
        if self.before > 0 {
            self.before -= 1;
            return self.others.next();
        }
        self.app.due(now).or_else(|| self.others.due(now))
    }
}

fn is_app(key: &Key) -> bool {
    matches!(key.endpoint.who, Who::App(_))
}

impl Pool {
    /// Forgets connections of other generations and those idle for too long, as far as their look is
    /// due. Streams in progress keep their connection alive until they end. Whether more is due:
    /// others get a turn before.
    pub fn sweep(&self, generation: u64, now: Instant) -> bool {
        self.looks.borrow_mut().follow(generation);
        for _ in 0..limits::SWEEP_BATCH_MAX {
            let Some((key, slot)) = self.looks.borrow_mut().due(now) else {
                return self.endpoints.sweep(now);
            };
            if is_needed(&key, &slot, generation, now) {
                self.looks.borrow_mut().enter((key, slot), now);
            } else {
                self.slots.borrow_mut().remove(&key);
            }
        }
        true
    }
}

fn is_needed(key: &Key, slot: &Rc<Slot>, generation: u64, now: Instant) -> bool {
    if key.is_of_another(generation) {
        return false;
    }
    let idle_ms = if is_app(key) { limits::POOL_IDLE_APP_MS } else { limits::POOL_IDLE_MESH_MS };
    slot.sweep(Duration::from_millis(idle_ms), now);
    !slot.is_empty() || Rc::strong_count(slot) > OWN_HOLDERS
}
