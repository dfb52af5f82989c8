//! A proxy as a child process: its output goes to a log file, and it ends with its owner, also
//! when that is ended by a signal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::load::runtime;

/// How much of a log an error shows.
const TAIL_BYTES: usize = 2000;

/// Children that a signal must take along. Taken out before they are waited for, so none of these
/// numbers can belong to another process.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Watches for SIGINT and SIGTERM on a thread of its own; then ends all children, and us.
pub(crate) fn end_with_us() -> Result<()> {
    let runtime = runtime()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let watch = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    std::thread::Builder::new()
        .name("bench-signals".into())
        .spawn(move || {
            runtime.block_on(watch);
            kill_children();
            std::process::exit(130);
        })
        .context("could not start the signal thread")?;
    Ok(())
}

fn kill_children() {
    let children = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in children.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        // It may have ended by the same signal already.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// One running process.
pub(crate) struct Proxy {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts `command` with its output in `work/NAME.log`, on the cores of the calling thread.
    pub(crate) fn start(name: &str, command: &mut Command, work: &Path) -> Result<Proxy> {
        let log = work.join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("could not start {name}: {:?}", command.get_program()))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        Ok(Proxy { name: name.to_owned(), child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log if the process is gone.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}{}", self.name, self.tail()),
        }
    }

    /// The end of the log, introduced by its path.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        format!("\n--- {}\n{}", self.log.display(), String::from_utf8_lossy(tail))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let own = self.child.id();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != own);
        // Both fail only if the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
