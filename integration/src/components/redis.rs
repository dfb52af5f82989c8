//! Redis: the client speaks first, in lines that look a little like HTTP and are none.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::{SERVER, Server, folder_of};
use crate::netns::{Pod, user};
use crate::process::Process;

/// Starts a server that keeps everything in memory.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, port: u16) -> Server {
    let folder = folder_of(parent, "redis", SERVER);
    let mut command = user::command(SERVER, &[], "redis-server");
    command.arg("--port").arg(port.to_string()).args(["--save", "", "--protected-mode", "no"]);
    command.args(["--bind", "*", "-::*"]).arg("--dir").arg(&folder);
    let process = Process::start_in(pod.space(), "redis", command, parent);
    Server::listening(process, pod, port).await
}

/// `redis-cli` with one command.
pub fn client(host: IpAddr, port: u16, words: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.arg("-h").arg(host.to_string()).arg("-p").arg(port.to_string()).args(words);
    command
}
