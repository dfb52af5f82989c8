//! Counting the system calls of a running process, all its threads, between two points.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

const ATTACH_MAX: Duration = Duration::from_secs(10);

/// strace, attached.
pub(super) struct Counting {
    strace: Child,
    file: PathBuf,
}

impl Counting {
    /// Attaches to all threads of a process and returns once it has.
    pub(super) fn start(pid: u32, file: &Path) -> Result<Counting> {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(file);
        command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let strace = command.spawn().context("could not start strace")?;
        let counting = Counting { strace, file: file.to_path_buf() };
        let deadline = Instant::now() + ATTACH_MAX;
        while !all_threads_traced(pid, counting.strace.id())? {
            ensure!(Instant::now() < deadline, "strace may not attach to {pid}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(counting)
    }

    /// Detaches and adds up.
    pub(super) fn end(mut self) -> Result<u64> {
        let id = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("strace has no id")?, Signal::INT)?;
        self.strace.wait()?;
        let text = std::fs::read_to_string(&self.file)?;
        total(&text).with_context(|| format!("{} has an unknown form", self.file.display()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // After `end` it is gone, and its number is kept by this unreaped or reaped child only.
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ = self.strace.kill();
            let _ = self.strace.wait();
        }
    }
}

/// Whether `tracer` follows every thread of a process.
fn all_threads_traced(pid: u32, tracer: u32) -> Result<bool> {
    let wanted = format!("TracerPid:\t{tracer}");
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("status");
        let Ok(status) = std::fs::read_to_string(&path) else {
            bail!("{} is gone", path.display());
        };
        if !status.lines().any(|line| line == wanted) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The last line of the table: calls and `total`.
fn total(table: &str) -> Option<u64> {
    let line = table.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_the_first_number_of_the_last_line() {
        let table = "    calls syscall\n--------- ----------------\n        9 epoll_wait\n        \
            3 recvfrom\n--------- ----------------\n       12 total\n";
        assert_eq!(total(table), Some(12));
        assert_eq!(total("calls syscall\n"), None);
    }
}
