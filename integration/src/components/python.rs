//! Servers and clients of the test-bed's Python: WebSocket, gRPC, a web server that holds bodies
//! back until it is told, and the clients of SMTP and NATS. `peer.py` has them all.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Server;
use crate::netns::Pod;
use crate::process::Process;
use crate::wait;

fn command(python: &Path, what: &str) -> Command {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/components/peer.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(what);
    command
}

/// Starts `web`, `ws-serve` or `grpc-serve`.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, python: &Path, what: &str, port: u16) -> Server {
    let mut command = command(python, what);
    command.arg(port.to_string());
    let process = Process::start_in(pod.space(), what, command, parent);
    wait::until_true(what, || process.stdout().contains("ready")).await;
    Server::listening(process, pod, port).await
}

/// Runs `ws-call`, `grpc-call`, `smtp-call` or `nats-call` and gives what it saw.
///
/// # Panics
/// When it fails.
pub async fn call(
    pod: &Pod,
    python: &Path,
    what: &str,
    (host, port): (IpAddr, u16),
    more: &[&str],
) -> Value {
    let mut command = command(python, what);
    command.arg(host.to_string()).arg(port.to_string()).args(more);
    let told = super::run(pod, command).await;
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{what}: {error}: {told}"))
}
