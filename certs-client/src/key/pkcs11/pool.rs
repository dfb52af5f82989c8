//! The threads of a token, and waiting for them with a budget.
//!
//! Invariants: nobody waits longer than the budget it came with; work whose caller gave up is not
//! started; while every thread is stuck in the module, callers are told so at once instead of
//! waiting one after the other.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use countersign_config::limits::{PKCS11_QUEUE_MAX, PKCS11_SESSIONS_MAX};

use super::trouble::Trouble;

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Threads that each own a worker `W`.
pub(super) struct Pool<W> {
    jobs: SyncSender<Job<W>>,
    /// Jobs that somebody gave up on and that a thread is still busy with.
    stuck: Arc<AtomicUsize>,
}

/// How far a job is.
const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const GIVEN_UP: u8 = 3;

impl<W: 'static> Pool<W> {
    /// Starts the threads; they end when the pool is dropped.
    pub(super) fn start(make: impl Fn() -> W + Send + Sync + 'static) -> Result<Pool<W>, Trouble> {
        let (jobs, receiver) = sync_channel::<Job<W>>(PKCS11_QUEUE_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let make = Arc::new(make);
        for number in 0..PKCS11_SESSIONS_MAX {
            let (receiver, make) = (Arc::clone(&receiver), Arc::clone(&make));
            thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || work(&receiver, &mut make()))
                .map_err(|error| Trouble::new("start a thread", error.to_string(), None))?;
        }
        Ok(Pool { jobs, stuck: Arc::default() })
    }

    /// Runs `job` on a thread of the pool and waits for it, `budget` at most.
    pub(super) fn run<T: Send + 'static>(
        &self,
        call: &'static str,
        budget: Duration,
        job: impl FnOnce(&mut W) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        if self.stuck.load(Ordering::Relaxed) >= PKCS11_SESSIONS_MAX {
            return Err(late(call, "the token answers nothing; not asked again until it does"));
        }
        let due = Instant::now() + budget;
        let state = Arc::new(AtomicU8::new(WAITING));
        let (reply, answer) = sync_channel(1);
        let (theirs, stuck) = (Arc::clone(&state), Arc::clone(&self.stuck));
        let boxed: Job<W> = Box::new(move |worker| {
            let start =
                || theirs.compare_exchange(WAITING, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
            if Instant::now() > due || start().is_err() {
                return;
            }
            let result = job(worker);
            if theirs.swap(DONE, Ordering::AcqRel) == GIVEN_UP {
                stuck.fetch_sub(1, Ordering::Relaxed);
            }
            // Nobody may be waiting any more.
            let _ = reply.send(result);
        });
        match self.jobs.try_send(boxed) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(late(call, "too many wait for the token")),
            Err(TrySendError::Disconnected(_)) => return Err(late(call, "its threads are gone")),
        }
        if let Ok(result) = answer.recv_timeout(budget) {
            return result;
        }
        self.stuck.fetch_add(1, Ordering::Relaxed);
        if state.swap(GIVEN_UP, Ordering::AcqRel) != RUNNING {
            // It was not started, or is done by now: no thread is stuck with it.
            self.stuck.fetch_sub(1, Ordering::Relaxed);
        }
        Err(late(call, format!("no answer within {} ms", budget.as_millis())))
    }

    /// Has `job` run some time, without waiting; `false` if too many wait already.
    pub(super) fn post(&self, job: impl FnOnce(&mut W) + Send + 'static) -> bool {
        self.jobs.try_send(Box::new(job)).is_ok()
    }
}

fn work<W>(jobs: &Mutex<Receiver<Job<W>>>, worker: &mut W) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(job) => job(worker),
            Err(_) => return,
        }
    }
}

fn late(call: &'static str, answer: impl Into<String>) -> Trouble {
    Trouble::new(call, answer, Some("is the token overloaded or stuck? see docs/identity/keys.md"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stuck_token_costs_its_callers_their_budget_once_per_thread() {
        let pool = Pool::start(|| ()).unwrap();
        let (freeze, frozen) = mpsc::channel::<()>();
        let frozen = Arc::new(Mutex::new(frozen));
        let budget = Duration::from_millis(20);
        let stuck = |pool: &Pool<()>| {
            let frozen = Arc::clone(&frozen);
            pool.run("sign", budget, move |()| {
                let _ = frozen.lock().unwrap().recv();
                Ok(())
            })
            .unwrap_err()
            .answer
        };
        while pool.stuck.load(Ordering::Relaxed) < PKCS11_SESSIONS_MAX {
            assert_eq!(stuck(&pool), "no answer within 20 ms");
        }
        assert!(stuck(&pool).starts_with("the token answers nothing"));
        drop(freeze);
        // As soon as one thread came back, callers are served again.
        while pool.stuck.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        assert_eq!(pool.run("sign", Duration::from_secs(20), |()| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn work_that_nobody_waits_for_is_not_started() {
        let pool = Pool::start(|| ()).unwrap();
        let (freeze, frozen) = mpsc::channel::<()>();
        let frozen = Arc::new(Mutex::new(frozen));
        for _ in 0..PKCS11_SESSIONS_MAX {
            let frozen = Arc::clone(&frozen);
            assert!(pool.post(move |()| {
                let _ = frozen.lock().unwrap().recv();
            }));
        }
        let late = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&late);
        let error = pool
            .run("sign", Duration::from_millis(1), move |()| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.answer, "no answer within 1 ms");
        drop(freeze);
        for _ in 0..PKCS11_SESSIONS_MAX {
            pool.run("sign", Duration::from_secs(20), |()| Ok(())).unwrap();
        }
        assert_eq!(late.load(Ordering::Relaxed), 0);
        assert_eq!(pool.stuck.load(Ordering::Relaxed), 0);
    }
}
