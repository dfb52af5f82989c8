//! Is our traffic really intercepted? Probes that only the redirect can bring back to us.
//!
//! Invariant: a probe counts only when one of our own listeners accepted it, with the probe's
//! destination as its original one and the probe's own address as its client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where probes go. Documentation addresses (RFC 5737, RFC 3849), which nobody has; the rules
/// capture them for every user, ours included.
pub const PROBE_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4747);
/// The same for IPv6.
pub const PROBE_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x4747)), 4747);

/// Whether a connection from the app's side was meant for a probe's destination.
pub fn is_probe(original: SocketAddr) -> bool {
    original == PROBE_V4 || original == PROBE_V6
}

/// Probes on their way. Shared by all workers: any of them may accept one.
#[derive(Debug, Default)]
pub struct Probes {
    expected: Mutex<Vec<Expected>>,
    changed: Notify,
    answered: AtomicBool,
}

/// A probe that was sent from this port and what came of it.
#[derive(Debug)]
struct Expected {
    port: u16,
    is_ipv4: bool,
    came_from: Option<SocketAddr>,
}

impl Probes {
    /// A listener accepted a connection to a probe's destination.
    pub fn arrived(&self, client: SocketAddr) {
        let mut expected = self.lock();
        let probe = expected
            .iter_mut()
            .find(|probe| probe.port == client.port() && probe.is_ipv4 == client.is_ipv4());
        if let Some(probe) = probe {
            probe.came_from = Some(client);
            self.changed.notify_waiters();
        }
    }

    /// Somebody asked on port 15022, which only the redirect of inbound connections can bring us.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether inbound connections are known to be redirected.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
