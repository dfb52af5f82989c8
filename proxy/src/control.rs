//! The control socket: `drain`, `reload` and `log` for whoever runs this proxy, and nobody else.
//!
//! One line asks, one line answers: `ok …` or `error …`. Invariant: what changes a running proxy is
//! reached by this Unix socket only, never by a port that the app could be talked into calling; the
//! socket belongs to the proxy's user, and the kernel says who is on the other end.
//! LIMIT: `CONTROL_CONNS_MAX` connections, `CONTROL_LINE_BYTES_MAX` for a line,
//! `ADMIN_HEAD_MS_MAX` for it to come.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_config::limits;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::admin::Readiness;
use crate::http::serve::Drain;
use crate::lifecycle::Asked;
use crate::telemetry::Metrics;
use crate::telemetry::logs::Level;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let those inside leave; with `wait`, answer when nobody from outside is left.
    Drain {
        /// Whether to wait.
        wait: bool,
    },
    /// Read the documents again.
    Reload,
    /// Log by this filter.
    Log(String),
}

impl Command {
    /// Reads the line that asks.
    ///
    /// # Errors
    /// What is accepted.
    pub fn parse(line: &str) -> Result<Command, &'static str> {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["drain"] => Ok(Command::Drain { wait: true }),
            ["drain", "--no-wait"] => Ok(Command::Drain { wait: false }),
            ["reload"] => Ok(Command::Reload),
            ["log", filter] => Ok(Command::Log((*filter).to_owned())),
            _ => Err("expected drain [--no-wait], reload or log LEVEL"),
        }
    }

    fn line(&self) -> String {
        match self {
            Command::Drain { wait: true } => "drain\n".to_owned(),
            Command::Drain { wait: false } => "drain --no-wait\n".to_owned(),
            Command::Reload => "reload\n".to_owned(),
            Command::Log(filter) => format!("log {filter}\n"),
        }
    }
}

/// Asks the control thread to read the documents again; it answers what came of it.
pub type Reload = oneshot::Sender<Result<String, String>>;

/// What commands act on.
#[derive(Clone)]
pub struct Control {
    /// Drain of everything that comes from outside.
    pub drain: Drain,
    /// The state of life.
    pub readiness: Readiness,
    /// Counts who is still there.
    pub metrics: Metrics,
    /// What is logged.
    pub level: Level,
    /// To the control thread.
    pub reload: mpsc::Sender<Reload>,
}

/// The bound socket; its file goes with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds the socket for this user only. A file that a proxy left behind is replaced; one that
    /// somebody answers on is not.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn bind(path: &Path) -> io::Result<Socket> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no socket"));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers on it"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Socket { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}

/// Answers until it is dropped.
pub async fn serve(socket: Socket, control: Control) {
    let slots = Arc::new(Semaphore::new(limits::CONTROL_CONNS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::spawn(async move {
                    control.connection(stream).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(code = "CT-01", %error, "the control socket does not accept");
                tokio::time::sleep(Duration::from_millis(limits::ACCEPT_BACKOFF_MS_MAX)).await;
            }
        }
    }
}

impl Control {
    async fn connection(&self, mut stream: UnixStream) {
        // Read in any case: closing on unread bytes would take the answer away.
        let line = read_line(&mut stream).await;
        let answer = match stream.peer_cred().map(|cred| cred.uid()) {
            Ok(user) if is_ours(user) => match line {
                Ok(line) => self.answer(&line).await,
                Err(why) => Err(why),
            },
            Ok(user) => {
                tracing::warn!(code = "CT-02", user, "refused on the control socket");
                Err(format!("user {user} may not control this proxy"))
            }
            Err(error) => Err(format!("the kernel does not say who asks: {error}")),
        };
        let line = match answer {
            Ok(text) => format!("ok {text}\n"),
            Err(text) => format!("error {}\n", text.replace('\n', " ")),
        };
        _ = stream.write_all(line.as_bytes()).await;
    }

    async fn answer(&self, line: &str) -> Result<String, String> {
        let command = Command::parse(line)?;
        tracing::info!(command = ?command, "asked on the control socket");
        match command {
            Command::Drain { wait } => self.drain(wait).await,
            Command::Reload => self.reload().await,
            Command::Log(filter) => {
                self.level.set(&filter).map_err(|error| error.to_string())?;
                Ok(format!("logging {filter}"))
            }
        }
    }

    /// Unready at once; those inside are asked to leave when nobody new should come any more.
    async fn drain(&self, wait: bool) -> Result<String, String> {
        self.readiness.ask(Asked::Drain);
        let delay = Duration::from_millis(self.drain.delay_ms());
        let drain = self.drain.clone();
        // A task of its own: whoever asked may not wait for it.
        let leaving = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            drain.leave();
        });
        if !wait {
            return Ok("draining".to_owned());
        }
        leaving.await.map_err(|error| error.to_string())?;
        let until = Instant::now() + Duration::from_millis(self.drain.most_ms());
        loop {
            let open = self.metrics.entered();
            if open == 0 {
                return Ok("drained".to_owned());
            }
            if Instant::now() >= until {
                return Err(format!("{open} connections from outside are still open"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn reload(&self) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let gone = "the control thread is gone";
        self.reload.send(answer).await.map_err(|_| gone.to_owned())?;
        answered.await.map_err(|_| gone.to_owned())?
    }
}

async fn read_line(stream: &mut UnixStream) -> Result<String, String> {
    let mut line = String::new();
    let most = u64::try_from(limits::CONTROL_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut reader = BufReader::new(stream.take(most));
    let limit = Duration::from_millis(limits::ADMIN_HEAD_MS_MAX);
    let read = tokio::time::timeout(limit, reader.read_line(&mut line)).await;
    let read = read.map_err(|_| "no command came in time".to_owned())?;
    read.map_err(|error| error.to_string())?;
    Ok(line)
}

/// The user this process runs as, and root.
fn is_ours(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Asks the proxy behind `socket`; the answer without its first word.
///
/// # Errors
/// What it says it could not do, or that nobody answers.
pub fn ask(socket: &Path, command: &Command) -> Result<String, String> {
    use std::io::{Read as _, Write as _};
    let said = |error: io::Error| format!("{}: {error}", socket.display());
    let mut stream = std::os::unix::net::UnixStream::connect(socket).map_err(said)?;
    stream.write_all(command.line().as_bytes()).map_err(said)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(said)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("error", text)) => Err(text.to_owned()),
        _ => Err(format!("{}: closed without an answer", socket.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_it_is_written() {
        let drain = |wait| Command::Drain { wait };
        for command in [drain(true), drain(false), Command::Reload, Command::Log("debug".into())] {
            assert_eq!(Command::parse(&command.line()), Ok(command));
        }
        for line in ["", "stop", "log", "log a b", "drain now", "reload x"] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_left_over_socket_is_replaced_and_one_in_use_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("control.sock");
            drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
            let socket = Socket::bind(&path).expect("replaced");
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(Socket::bind(&path).is_err(), "in use");
            drop(socket);
            assert!(!path.exists());
            std::fs::write(&path, "").expect("written");
            assert!(Socket::bind(&path).is_err(), "a file of somebody else");
        });
    }
}
