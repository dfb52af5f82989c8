//! Probes of the redirect on their way, shared by all workers: any of them may accept one.
//!
//! Invariant: only ports we sent a probe from are remembered, so nobody else's connections fill
//! anything here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// What is known about the redirect at this moment.
#[derive(Debug)]
pub struct Probes {
    expected: Mutex<Vec<Expected>>,
    changed: Notify,
    answered: AtomicBool,
    proven: watch::Sender<bool>,
}

/// A probe that was sent, and who came.
#[derive(Debug)]
struct Expected {
    /// Where it was sent from. The address is known only once it has a route; the port at once.
    from: SocketAddr,
    client: Option<SocketAddr>,
}

/// A probe under way; forgotten when dropped.
#[derive(Debug)]
pub struct Sent<'a> {
    probes: &'a Probes,
    from: SocketAddr,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes {
            expected: Mutex::default(),
            changed: Notify::new(),
            answered: AtomicBool::new(false),
            proven: watch::Sender::new(false),
        }
    }
}

impl Probes {
    /// A probe is about to be sent from this socket.
    pub fn expect(&self, from: SocketAddr) -> Sent<'_> {
        self.lock().push(Expected { from, client: None });
        Sent { probes: self, from }
    }

    /// A listener of ours accepted a connection that may be a probe.
    pub fn arrived(&self, client: SocketAddr) {
        let is_it = |probe: &&mut Expected| {
            probe.from.port() == client.port() && probe.from.is_ipv4() == client.is_ipv4()
        };
        if let Some(probe) = self.lock().iter_mut().find(is_it) {
            probe.client = Some(client);
            self.changed.notify_waiters();
        }
    }

    /// Somebody else asked on port 15022, which only the redirect of inbound connections leads to
    /// us.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether inbound connections are known to be redirected.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// The redirect has been proven once, or there is none.
    pub fn prove(&self) {
        self.proven.send_replace(true);
    }

    /// Waits until the redirect has been proven; until then nothing of a connection is read.
    pub async fn proven(&self) {
        // The sender lives as long as `self`, so there is always an answer.
        let _ = self.proven.subscribe().wait_for(|proven| *proven).await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent<'_> {
    /// Waits until it has come back; says from which address.
    pub async fn arrival(&self) -> SocketAddr {
        loop {
            // Made before the look, so that an arrival in between is not missed.
            let changed = self.probes.changed.notified();
            if let Some(client) = self.client() {
                return client;
            }
            changed.await;
        }
    }

    fn client(&self) -> Option<SocketAddr> {
        let expected = self.probes.lock();
        expected.iter().find(|probe| probe.from == self.from)?.client
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.probes.lock().retain(|probe| probe.from != self.from);
    }
}
