//! tinyproxy: an app that takes CONNECT.

use std::fs;
use std::path::Path;

use super::{SERVER, Server, folder_of};
use crate::netns::{Pod, user};
use crate::process::Process;

/// Starts one that connects to `target` only, in its own pod.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, port: u16, target: u16) -> Server {
    let folder = folder_of(parent, "tinyproxy", SERVER);
    let config = folder.join("tinyproxy.conf");
    let text = format!("Port {port}\nTimeout 60\nMaxClients 20\nConnectPort {target}\n");
    fs::write(&config, text).unwrap();
    let mut command = user::command(SERVER, &[], "tinyproxy");
    command.args(["-d", "-c"]).arg(&config);
    let process = Process::start_in(pod.space(), "tinyproxy", command, parent);
    Server::listening(process, pod, port).await
}
