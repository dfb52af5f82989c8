//! A proxy as a child process: its output goes to a file, and it ends with its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// How much of a log an error shows.
const TAIL_BYTES: usize = 2000;

pub(super) struct Running {
    child: Mutex<Child>,
    log: PathBuf,
}

impl Running {
    pub(super) fn start(command: &Command, log: &Path) -> Result<Running> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        // However this program ends, the kernel ends the proxy with it.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        bound.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = bound.spawn().with_context(|| format!("could not start {bound:?}"))?;
        Ok(Running { child: Mutex::new(child), log: log.to_path_buf() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child().id()
    }

    /// An error if it has ended.
    pub(super) fn check(&self) -> Result<()> {
        match self.child().try_wait()? {
            None => Ok(()),
            Some(status) => bail!("ended with {status}{}", self.tail()),
        }
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        format!("\n--- {}\n{}", self.log.display(), String::from_utf8_lossy(tail))
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child();
        // Both fail only if it is already gone.
        let _ = child.kill();
        let _ = child.wait();
    }
}
