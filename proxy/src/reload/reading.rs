//! Reads documents beside the control thread: certificates, probes and commands do not wait for
//! megabytes of them, and requests go first where processors are short.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_config::ProxyConfig;
use countersign_policy::{Compiled, Documents, Pace, Workload, compile_paced};
use rustix::process::{getpriority_process, setpriority_process};
use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};
use tokio::sync::oneshot;

use super::DocumentFiles;
use crate::control::Reload;

/// A third of the weight of threads that serve requests: enough that a revocation comes into force
/// also where those would take all there is.
const NICE: i32 = 5;
/// The least weight there is.
const NICE_MAX: i32 = 19;

/// Processor time after which a reading pauses: a thread that is woken for a request may have to wait
/// until the one on its processor has had its slice, which is milliseconds, or lets go of it.
const SPELL: Duration = Duration::from_micros(200);
/// With the slack of timers about as long as a spell.
const PAUSE: Duration = Duration::from_micros(150);
/// Microseconds, as steps say what they cost, between two looks at the clock.
const LOOK_US: u32 = 32;

/// Documents, and the policy that follows from them for one workload.
pub struct Read {
    /// The documents.
    pub documents: Arc<Documents>,
    /// Compiled from them.
    pub policy: Arc<Compiled>,
}

/// What came of a reading; an error says why, for whoever wrote the documents.
pub type Outcome = Result<Read, String>;

/// A reading under way.
pub struct Reading {
    /// The files as they were before it began, so that a change meanwhile is seen later.
    pub files: DocumentFiles,
    /// Who waits for what comes of it.
    pub asked: Vec<Reload>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Reading {
    /// Begins to read what a `ProxyConfig` names, for the workload it is about.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(
        (config, workload): (Arc<ProxyConfig>, Workload),
        files: DocumentFiles,
    ) -> io::Result<Reading> {
        let (done, outcome) = oneshot::channel();
        std::thread::Builder::new().name("documents".to_owned()).spawn(move || {
            give_way();
            // Whoever waited for it may have ended.
            _ = done.send(read(&config, &workload));
        })?;
        Ok(Reading { files, asked: Vec::new(), outcome })
    }

    /// Waits for its end. May be dropped and called again before it has answered.
    pub async fn outcome(&mut self) -> Outcome {
        let ended = |_| Err("reading them broke off".to_owned());
        (&mut self.outcome).await.unwrap_or_else(ended)
    }
}

/// Lowers the priority of this thread. Where that cannot be, it competes with requests, and nothing
/// else changes.
fn give_way() {
    if let Ok(nice) = getpriority_process(None) {
        _ = setpriority_process(None, (nice + NICE).min(NICE_MAX));
    }
}

/// Sleeps after each spell. A spell is as long as a fourth of the last sleep at least: where sleeps
/// are long, because timers are coarse or others have the processor, all of them together take about
/// four times what is used of the processor, and not more.
fn pausing(now: impl Fn() -> Option<Duration>, sleep: impl Fn() -> Duration) -> impl Fn(u32) {
    let (unseen, since, spell) = (Cell::new(0), Cell::new(now()), Cell::new(SPELL));
    move |cost| {
        unseen.set(unseen.get() + cost);
        if unseen.get() < LOOK_US {
            return;
        }
        unseen.set(0);
        let Some((now, since_then)) = now().zip(since.get()) else { return };
        if now.saturating_sub(since_then) >= spell.get() {
            spell.set(SPELL.max(sleep() / 4));
            since.set(Some(now));
        }
    }
}

/// What this thread has used; `None` where a sandbox does not say.
fn processor_time() -> Option<Duration> {
    let clock = DynamicClockId::Known(ClockId::ThreadCPUTime);
    Duration::try_from(clock_gettime_dynamic(clock).ok()?).ok()
}

/// Sleeps for [`PAUSE`], and says how long that was.
fn sleep() -> Duration {
    let begun = Instant::now();
    std::thread::sleep(PAUSE);
    begun.elapsed()
}

fn read(config: &ProxyConfig, workload: &Workload) -> Outcome {
    let pausing = pausing(processor_time, sleep);
    let pace = Pace::new(&pausing);
    let documents = config.reload_documents(pace).map_err(|problems| problems.to_string())?;
    let policy = Arc::new(compile_paced(&documents, workload, pace));
    Ok(Read { documents: Arc::new(documents), policy })
}

#[cfg(test)]
mod tests {
    use countersign_policy::compile;

    use super::*;
    use crate::reload::seen::tests::folder;

    fn read_in(mesh: Option<&str>) -> Outcome {
        let (folder, file) = folder();
        let config = Arc::new(ProxyConfig::load_alone(&file).unwrap());
        if let Some(mesh) = mesh {
            std::fs::write(folder.path().join("documents/mesh.yaml"), mesh).unwrap();
        }
        let workload =
            Workload { namespace: config.namespace.clone(), labels: config.labels.clone() };
        let files = DocumentFiles::of(&config);
        let mut reading = Reading::start((config, workload), files).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // The control thread asks again after everything else that happened to it.
            tokio::select! { biased;
                outcome = reading.outcome() => return outcome,
                () = std::future::ready(()) => {}
            }
            reading.outcome().await
        })
    }

    /// How often steps of 32 us each pause, if a pause takes so long.
    fn pauses(steps: u64, pause: Duration) -> u64 {
        let (used, slept) = (Cell::new(0), Cell::new(0));
        let between = pausing(
            || Some(Duration::from_micros(used.get())),
            || {
                slept.set(slept.get() + 1);
                pause
            },
        );
        for _ in 0..steps {
            used.set(used.get() + u64::from(LOOK_US));
            between(LOOK_US / 2);
            between(LOOK_US / 2);
        }
        slept.get()
    }

    #[test]
    fn a_reading_pauses_after_each_spell_and_no_longer_than_it_may() {
        assert_eq!(pauses(6, PAUSE), 0);
        assert_eq!(pauses(700, PAUSE), 100, "seven steps are a spell");
        // A spell of 2 ms, 63 steps, after the first one.
        assert_eq!(pauses(7 + 630, Duration::from_millis(8)), 11);
    }

    #[test]
    fn a_clock_that_does_not_answer_stops_nothing() {
        let between = pausing(|| None, || panic!("slept"));
        (0..100).for_each(|_| between(LOOK_US));
        assert!(processor_time() > Some(Duration::ZERO));
        assert!(sleep() >= PAUSE);
    }

    #[test]
    fn what_was_read_comes_with_its_policy() {
        let Read { documents, policy } = read_in(None).unwrap();
        assert_eq!(documents.mesh.trust_domain.as_str(), "prod.example.com");
        let labels = [("app".into(), "orders".into())].into();
        let orders = Workload { namespace: "shop".into(), labels };
        assert_eq!(format!("{policy:?}"), format!("{:?}", compile(&documents, &orders)));
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place() {
        let why = read_in(Some("kind: MeshConfig\nspec: [")).err().unwrap();
        assert!(why.contains("mesh.yaml:2:"), "{why}");
    }
}
