//! A network namespace and the thread that lives in it.
//!
//! Sockets and processes made on that thread belong to the namespace, whoever uses them later.
//! Nothing has a name in the file system: once thread, sockets and processes are gone, so is the
//! namespace, however the test run ended. Processes are told to end with the thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::mpsc;

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace.
pub struct Space {
    name: String,
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Space {
    /// A new one with its loopback device up.
    ///
    /// # Errors
    /// When this process may not make namespaces.
    pub fn new(name: &str) -> io::Result<Space> {
        let (jobs, next) = mpsc::channel::<Job>();
        let (answer, made) = mpsc::channel();
        std::thread::Builder::new().name(format!("pod {name}")).spawn(move || {
            #[expect(unsafe_code, reason = "unshare of one thread's network is sound")]
            // SAFETY: only the network namespace is left; file descriptors stay shared.
            let alone = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            let ok = alone.is_ok();
            let thread = gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            let _ = answer.send(alone.map(|()| PathBuf::from(path)));
            if ok {
                for job in next {
                    job();
                }
            }
        })?;
        let path =
            made.recv().map_err(|_| io::Error::other("the namespace's thread is gone"))??;
        let space = Space { name: name.to_owned(), jobs, path };
        space.ip("link set lo up");
        Ok(space)
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, as `ip link set … netns` wants it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `job` on its thread and waits for it.
    ///
    /// # Panics
    /// When the job does.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, done) = mpsc::channel();
        let job = move || {
            let _ = answer.send(catch_unwind(AssertUnwindSafe(job)));
        };
        assert!(self.jobs.send(Box::new(job)).is_ok(), "the thread of {} is gone", self.name);
        match done.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("the thread of {} is gone", self.name),
        }
    }

    /// Starts a program in it. The program ends with the namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        crate::process::ends_with_parent(&mut command);
        self.run(move || command.spawn())
    }

    /// Runs a program in it to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output(&self, mut command: Command) -> Output {
        self.run(move || crate::process::run(&mut command))
    }

    /// As [`Space::output`], with text on its standard input; gives standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn feed(&self, mut command: Command, input: &str) -> String {
        let input = input.to_owned();
        let shown = format!("{command:?}");
        let done = self.run(move || crate::process::run_with(&mut command, &input));
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {shown}: {} {told}", self.name, done.status);
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Lines for `ip -batch`.
    ///
    /// # Panics
    /// When one fails.
    pub fn ip(&self, lines: &str) {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.feed(command, lines);
    }

    /// Text for `nft -f -`, or with `nft -j` arguments a listing.
    ///
    /// # Panics
    /// When nft refuses it.
    pub fn nft(&self, text: &str) {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.feed(command, text);
    }

    /// Sets a `/proc/sys/net/…` value.
    ///
    /// # Panics
    /// When the kernel does not have it.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        let value = value.to_owned();
        self.run(move || {
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
    }
}
