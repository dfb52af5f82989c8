//! A program as a child process: its output goes to files, and it ends with this process.
//!
//! The parent-death signal is tied to the *thread* that started the child, and test threads end
//! before the test run does; so one thread that never ends starts them all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::netns::Space;
use crate::wait;

/// Lines of a log that a failing test shows.
const TAIL_LINES: usize = 60;

/// Where standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Into a file in the folder.
    File,
    /// Into a pipe that stays open and is never read.
    UnreadPipe,
}

/// A running program.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.out` and `NAME.err` in `folder`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(name: &str, command: Command, folder: &Path) -> Process {
        Process::start_with(name, command, folder, Output::File)
    }

    /// As [`Process::start`], with standard output going elsewhere.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start_with(name: &str, mut command: Command, folder: &Path, to: Output) -> Process {
        let (out, err) = logs(&mut command, name, folder, to);
        let child = spawn(command).unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        Process { name: name.to_owned(), child: Mutex::new(child), out, err }
    }

    /// As [`Process::start`], in a network namespace, with which it ends.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start_in(space: &Space, name: &str, mut command: Command, folder: &Path) -> Process {
        let (out, err) = logs(&mut command, name, folder, Output::File);
        let child = space.spawn(command);
        let child = child.unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        Process { name: name.to_owned(), child: Mutex::new(child), out, err }
    }

    /// Sends a signal; a process that is gone already gets none.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child().id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            let _ = kill_process(id, signal);
        }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Asks it to end: SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// The exit status, once it ended.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::until(&what, || std::future::ready(self.exit_status())).await
    }

    /// The exit status, if it ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Everything written to standard output so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Everything written to standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// The end of its logs.
    pub fn tail(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        };
        format!(
            "--- {} stderr\n{}\n--- {} stdout\n{}",
            self.name,
            tail(self.stderr()),
            self.name,
            tail(self.stdout())
        )
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a program's output to `NAME.out` and `NAME.err`.
fn logs(command: &mut Command, name: &str, folder: &Path, to: Output) -> (PathBuf, PathBuf) {
    let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
    let append = |path: &Path| {
        let file = File::options().create(true).append(true).open(path);
        file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    command.stdin(Stdio::null()).stderr(append(&err));
    match to {
        Output::File => command.stdout(append(&out)),
        Output::UnreadPipe => command.stdout(Stdio::piped()),
    };
    (out, err)
}

/// Runs a program to its end and gives what it printed.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub fn run(command: &mut Command) -> std::process::Output {
    let done = command.stdin(Stdio::null()).output();
    done.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

/// As [`run`], with text on its standard input.
///
/// # Panics
/// When it cannot be started.
pub fn run_with(command: &mut Command, input: &str) -> std::process::Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The programs fed here read everything before they write; dropping the pipe ends the text.
    let fed = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let done = child.wait_with_output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A program that does not read its input has ended already.
    drop(fed);
    done
}

/// The child is killed when the thread that starts it ends.
pub(crate) fn ends_with_parent(command: &mut Command) {
    #[expect(unsafe_code, reason = "the call between fork and exec is one prctl")]
    // SAFETY: `prctl` is async-signal-safe, and nothing else runs in the forked child.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, next) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in next {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    ends_with_parent(&mut command);
    let (answer, started) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    SPAWNER.send((command, answer)).map_err(|_| io::Error::other("no spawner"))?;
    started.recv_timeout(Duration::from_secs(10)).map_err(gone)?
}
