//! Is our traffic really intercepted? Probes that only the rules can bring back to us, sent at
//! start and then every `SELF_TEST_MS`. A proxy that is not in its pod's path is not ready.
//!
//! Invariant: a probe counts only when one of our own listeners accepted it, with the probe's
//! destination as its original one and the probe's own address as its client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use countersign_config::limits;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::admin::{Condition, Readiness};
use crate::intercept::canonical;
use crate::intercept::guard::READY_PORT;
use crate::intercept::probes::Probes;
use crate::intercept::rules::Family;
use crate::intercept::standing::{Course, Outcome, Standing};
use crate::telemetry::Metrics;
use crate::upstream::dial;
use crate::worker::Shared;

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

/// Starts the self-test on this worker's thread; where nothing is redirected there is nothing to
/// test, and the condition holds.
pub fn start(shared: &Shared, metrics: Metrics) {
    if !shared.config.is_captured() {
        shared.probes.prove();
        shared.readiness.met(Condition::Redirect);
        return;
    }
    shared.readiness.missing(Condition::Redirect, "the first self-test is running");
    tokio::task::spawn_local(run(shared.clone(), metrics));
}

/// Tests until the process ends.
async fn run(shared: Shared, metrics: Metrics) {
    let mut course = Course::default();
    loop {
        let mut outcomes = Vec::new();
        for family in Family::ALL {
            outcomes.push((family, probe(family, &shared.probes).await));
        }
        let standing = course.after(&outcomes, shared.probes.is_answered());
        report(&standing, &outcomes, &shared.readiness, &metrics);
        if let Standing::Passed = standing {
            shared.probes.prove();
        }
        let pause_ms = match standing {
            Standing::Passed => shared.config.limits.self_test_ms,
            Standing::Waiting(_) | Standing::Wavering(_) | Standing::Bypassed { .. } => {
                limits::SELF_TEST_RETRY_MS.min(shared.config.limits.self_test_ms)
            }
        };
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

fn report(
    standing: &Standing,
    outcomes: &[(Family, Outcome)],
    readiness: &Readiness,
    metrics: &Metrics,
) {
    match standing {
        Standing::Passed => readiness.met(Condition::Redirect),
        Standing::Waiting(why) => readiness.missing(Condition::Redirect, why.as_str()),
        Standing::Wavering(why) => {
            tracing::warn!(code = "DP-10", why, "the self-test of the redirect failed");
            // One lost packet is no reason to take a pod out of service.
            return;
        }
        Standing::Bypassed { why, first } => {
            if *first {
                tracing::error!(code = "DP-11", why, "bypassed: traffic goes round this proxy");
            }
            readiness.missing(Condition::Redirect, format!("bypassed: {why}"));
        }
    }
    for (family, outcome) in outcomes {
        let ok = match outcome {
            Outcome::Passed => Some(true),
            Outcome::Failed(_) => Some(false),
            Outcome::Absent => None,
        };
        metrics.process().redirect(family.text(), ok);
    }
}

/// All probes of one family.
async fn probe(family: Family, probes: &Probes) -> Outcome {
    let (target, any) = match family {
        Family::V4 => (PROBE_V4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (PROBE_V6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let Some(own) = own_address(any, target) else { return Outcome::Absent };
    let digit = if family == Family::V4 { 4 } else { 6 };
    if let Err(why) = comes_back(target, any, false, probes).await {
        return Outcome::Failed(format!(
            "{}: a connection to {target} {why}; rule outbound/self-test{digit} or \
             capture/redirect is missing",
            family.text()
        ));
    }
    if matches!(own, IpAddr::V6(own) if own.is_unicast_link_local()) {
        return Outcome::Passed;
    }
    let own = SocketAddr::new(own, READY_PORT);
    if let Err(why) = comes_back(own, any, false, probes).await {
        return Outcome::Failed(format!(
            "{}: a call to the pod itself at {own} {why}; rule own/self-call is missing",
            family.text()
        ));
    }
    if comes_back(own, any, true, probes).await.is_ok() {
        return Outcome::Failed(format!(
            "{}: a connection to the app came back to us; rule own/to-app is missing",
            family.text()
        ));
    }
    Outcome::Passed
}

/// The address a connection to `target` would come from; `None` without a route. Connecting a
/// datagram socket looks the route up and sends nothing.
fn own_address(any: IpAddr, target: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether a connection to `target` arrives at a listener of ours; the error says what happened
/// instead.
async fn comes_back(
    target: SocketAddr,
    any: IpAddr,
    as_to_app: bool,
    probes: &Probes,
) -> Result<(), String> {
    let said = |error: std::io::Error| format!("failed: {error}");
    let socket = if any.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(said)?;
    if as_to_app {
        dial::mark(&socket, target).map_err(said)?;
    }
    socket.bind(SocketAddr::new(any, 0)).map_err(said)?;
    let expected = probes.expect(socket.local_addr().map_err(said)?);
    let limit = Duration::from_millis(limits::SELF_TEST_PROBE_MS_MAX);
    let stream: TcpStream = match timeout(limit, socket.connect(target)).await {
        Ok(connected) => connected.map_err(said)?,
        Err(_) => return Err("got no answer".to_owned()),
    };
    let local = canonical(stream.local_addr().map_err(said)?);
    match timeout(limit, expected.arrival()).await {
        Ok(client) if client == local => Ok(()),
        Ok(_) | Err(_) => Err("was answered by somebody else".to_owned()),
    }
}
