//! Open-loop load: requests start on a clock, whatever became of the ones before, as real users'
//! do. Clients keep connections and open a new one where the kept one was closed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Call, Conn};

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Kept connections, one request at a time on each.
    Http1,
    /// One connection for all.
    Http2,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many were started.
    pub sent: usize,
    /// What went wrong with those that were not answered with a status below 400.
    pub failures: Vec<String>,
}

/// Load that runs until it is stopped.
pub struct Load {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Outcome>,
}

impl Load {
    /// `rate` requests a second to `address`, each made by `make`.
    pub fn start(
        address: SocketAddr,
        protocol: Protocol,
        rate: u32,
        make: impl Fn() -> Call + Send + 'static,
    ) -> Load {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run(address, protocol, rate, make, stopped))
        });
        Load { stop, thread }
    }

    /// Starts no more and waits for the answers that are still to come.
    ///
    /// # Panics
    /// When the load's own thread panicked.
    pub fn stop(self) -> Outcome {
        let _ = self.stop.send(());
        self.thread.join().unwrap()
    }
}

async fn run(
    address: SocketAddr,
    protocol: Protocol,
    rate: u32,
    make: impl Fn() -> Call,
    mut stopped: oneshot::Receiver<()>,
) -> Outcome {
    let clients = Clients { address, protocol, kept: Arc::default() };
    let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut open = JoinSet::new();
    let mut outcome = Outcome::default();
    loop {
        tokio::select! {
            _ = clock.tick() => {
                outcome.sent += 1;
                let (clients, call) = (clients.clone(), make());
                open.spawn(async move { clients.send(call).await });
            }
            Some(ended) = open.join_next(), if !open.is_empty() => outcome.count(ended),
            _ = &mut stopped => break,
        }
    }
    while let Some(ended) = open.join_next().await {
        outcome.count(ended);
    }
    outcome
}

impl Outcome {
    fn count(&mut self, ended: Result<Result<()>, tokio::task::JoinError>) {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failures.push(format!("{error:#}")),
            Err(error) => self.failures.push(error.to_string()),
        }
    }
}

#[derive(Clone)]
struct Clients {
    address: SocketAddr,
    protocol: Protocol,
    kept: Arc<Mutex<Vec<Conn>>>,
}

impl Clients {
    async fn send(&self, call: Call) -> Result<()> {
        let mut conn = self.take().await?;
        let reply = conn.send(call).await?;
        if self.protocol == Protocol::Http1 {
            self.kept().push(conn);
        }
        anyhow::ensure!(reply.status < 400, "{} {}", reply.status, reply.text());
        Ok(())
    }

    async fn take(&self) -> Result<Conn> {
        match self.protocol {
            Protocol::Http1 => {
                let kept = self.kept().pop().filter(|conn| !conn.is_closed());
                match kept {
                    Some(conn) => Ok(conn),
                    None => Conn::h1(self.address).await,
                }
            }
            Protocol::Http2 => {
                let shared =
                    self.kept().last().filter(|conn| !conn.is_closed()).and_then(Conn::share);
                if let Some(shared) = shared {
                    return Ok(shared);
                }
                let conn = Conn::h2(self.address).await?;
                self.kept().extend(conn.share());
                Ok(conn)
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Conn>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
