//! The child processes of the demo.
//!
//! Invariant: dropping [`Processes`] ends every one of them, politely first; Ctrl-C reaches only
//! the demo itself, because each child is a process group of its own.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Time to end by themselves.
const GRACE: Duration = Duration::from_millis(1_500);
/// Lines of its log shown when a process ends by itself.
const LOG_LINES: usize = 12;

/// Every child process.
#[derive(Debug)]
pub(super) struct Processes {
    dir: PathBuf,
    running: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
}

impl Processes {
    /// No process yet; their output goes to files in `dir`, which is also where they run.
    pub(super) fn in_folder(dir: &Path) -> Processes {
        Processes { dir: dir.to_path_buf(), running: Vec::new() }
    }

    /// Starts a program; standard output goes to `<name>.out`, standard error to `<name>.log`.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<()> {
        let file = |end: &str| {
            let path = self.dir.join(format!("{name}.{end}"));
            File::create(&path).with_context(|| format!("could not write {}", path.display()))
        };
        let child = Command::new(program)
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("log")?)
            .process_group(0)
            .spawn();
        let child = child.with_context(|| format!("could not start {}", program.display()))?;
        self.running.push(Process { name, child });
        Ok(())
    }

    /// Fails with the end of its log if one of them has ended by itself.
    pub(super) fn all_run(&mut self) -> anyhow::Result<()> {
        for process in &mut self.running {
            if let Some(status) = process.child.try_wait()? {
                let log = self.dir.join(format!("{}.log", process.name));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(LOG_LINES);
                let last = lines.get(last..).unwrap_or_default().join("\n  ");
                bail!("{} ended by itself ({status}):\n  {last}", process.name);
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &self.running {
            if let Some(pid) = Pid::from_raw(process.child.id().cast_signed()) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + GRACE;
        for process in &mut self.running {
            while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
