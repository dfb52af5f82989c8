//! A proxy as a child process: its output goes to a log file, and it ends with its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a log an error shows.
const TAIL_BYTES: usize = 2000;

pub(super) struct Proxy {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts `command` with its output in `work/NAME.log`, on the cores of the calling thread.
    pub(super) fn start(name: &str, command: &mut Command, work: &Path) -> Result<Proxy> {
        let log = work.join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("could not start {name}: {:?}", command.get_program()))?;
        Ok(Proxy { name: name.to_owned(), child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log if the process is gone.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}{}", self.name, self.tail()),
        }
    }

    /// The end of the log, introduced by its path.
    pub(super) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        format!("\n--- {}\n{}", self.log.display(), String::from_utf8_lossy(tail))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Both fail only if the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
