//! From an accepted socket to [`Captured`]: where the connection was meant to go, and whether it
//! may be served at all. Both directions start here.
//!
//! Invariant: what comes back from [`take`] is a connection to serve. Probes of the redirect are
//! answered here and what the loop guard refuses is closed and counted here, before anything of it
//! is read. Until the redirect has been proven once, connections wait here unread.

use std::net::{IpAddr, SocketAddr};

use countersign_config::ListenMode;
use tokio::net::TcpStream;

use crate::intercept::guard::{self, Closed, Passed, Side};
use crate::intercept::{Captured, canonical, orig_dst, ready, self_test};
use crate::worker::Worker;

/// The listener a connection came to.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Which direction it serves.
    pub side: Side,
    /// How it learns where connections were meant to go.
    pub mode: ListenMode,
    /// Its own address.
    pub address: SocketAddr,
}

/// The connection with its facts, if it is to be served; else it has been dealt with.
pub async fn take(
    worker: &Worker,
    at: At,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TcpStream, Captured)> {
    if at.mode == ListenMode::Explicit {
        return Some((stream, Captured::explicit(from, at.address)));
    }
    let (original, passed) = match judge(worker, at, &stream) {
        Ok(judged) => judged,
        Err(closed) => {
            worker.metrics.loop_guard(closed.reason());
            tracing::debug!(reason = closed.reason(), client = %from, "connection closed unread");
            return None;
        }
    };
    let probes = &worker.shared.probes;
    match passed {
        Passed::Ready => {
            if is_own(worker, canonical(from).ip()) {
                probes.arrived(canonical(from));
            } else {
                probes.answered();
            }
            ready::answer(stream, &worker.shared.readiness).await;
            None
        }
        Passed::Serve if at.side == Side::Outbound && self_test::is_probe(original) => {
            probes.arrived(canonical(from));
            None
        }
        Passed::Serve => {
            let drain = match at.side {
                Side::Inbound => &worker.shared.drain,
                Side::Outbound => &worker.shared.drain_outbound,
            };
            tokio::select! {
                () = probes.proven() => Some((stream, Captured::redirected(from, original))),
                () = drain.cancelled() => None,
            }
        }
    }
}

fn judge(worker: &Worker, at: At, stream: &TcpStream) -> Result<(SocketAddr, Passed), Closed> {
    let listener = canonical(at.address);
    let original = orig_dst::under(at.mode, stream, listener.port()).map_err(|error| {
        tracing::debug!(%error, "a connection without original destination");
        Closed::NoOriginal
    })?;
    let config = &worker.shared.config;
    let is_local = |ip| is_own(worker, ip);
    Ok((original, guard::check(at.side, original, listener, config, is_local)?))
}

fn is_own(worker: &Worker, ip: IpAddr) -> bool {
    worker.own_addresses.contains(ip, &worker.shared.config)
}
