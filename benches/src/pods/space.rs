//! A network namespace and the thread that lives in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Space {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Space {
    /// A new one.
    pub(super) fn new() -> Result<Space> {
        let (jobs, next) = mpsc::channel::<Job>();
        let (answer, made) = mpsc::channel();
        std::thread::Builder::new().name("bench-pod".into()).spawn(move || {
            #[expect(unsafe_code, reason = "unshare of one thread's network is sound")]
            // SAFETY: only the network namespace is left; file descriptors stay shared.
            let alone = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            let ok = alone.is_ok();
            let thread = gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            let _ = answer.send(alone.map(|()| PathBuf::from(path)));
            if ok {
                next.into_iter().for_each(|job| job());
            }
        })?;
        let path = made.recv().context("the thread of a pod is gone")??;
        Ok(Space { jobs, path })
    }

    /// The file that stands for it, as `ip link ... netns` wants it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `job` on its thread and waits for it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, done) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(job());
        });
        self.jobs.send(job).ok().context("the thread of a pod is gone")?;
        done.recv().context("the thread of a pod is gone")
    }

    /// Lines for `ip -batch`.
    pub(super) fn ip(&self, lines: &str) -> Result<()> {
        let input = lines.to_owned();
        let done = self.run(move || -> std::io::Result<_> {
            let mut command = Command::new("ip");
            command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        });
        let done = done?.context("could not run ip")?;
        let told = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "ip: {told}\n{lines}");
        Ok(())
    }
}
