//! NATS: the server speaks first, then both whenever they like.

use std::path::Path;

use super::{SERVER, Server, folder_of};
use crate::netns::{Pod, user};
use crate::process::Process;

/// Starts a server; `program` is `nats-server` of the test-bed.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, program: &Path, port: u16) -> Server {
    let folder = folder_of(parent, "nats", SERVER);
    let mut command = user::command(SERVER, &[], user::runnable_by_all(program));
    command.args(["-a", "::", "-p"]).arg(port.to_string()).current_dir(&folder);
    let process = Process::start_in(pod.space(), "nats", command, parent);
    Server::listening(process, pod, port).await
}
