//! PostgreSQL: the client speaks first, asks for TLS in one message and gets one byte back.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::{Server, folder_of, prepare};
use crate::netns::{Pod, user};
use crate::process::Process;
use crate::wait;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The server insists on a user with a name.
const USER: &str = "postgres";

/// Starts a server without passwords that speaks TLS to whoever asks, with this certificate.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, port: u16, certificate: &str, key: &str) -> Server {
    let folder = folder_of(parent, "postgres", USER);
    let data = folder.join("data");
    let mut init = user::command(USER, &[], format!("{PROGRAMS}/initdb"));
    init.arg("-D").arg(&data).args(["-A", "trust", "--no-sync", "--no-instructions"]);
    prepare(with_locale(init, "-E UTF8 --locale=C")).await;
    let write = |name: &str, text: &str| fs::write(data.join(name), text).unwrap();
    write("pg_hba.conf", "host all all all trust\n");
    write("server.crt", certificate);
    write("server.key", key);
    let mut own = Command::new("chown");
    own.arg("-R").arg(format!("{USER}:")).arg(&data);
    prepare(own).await;
    let mut private = Command::new("chmod");
    private.arg("600").arg(data.join("server.key"));
    prepare(private).await;
    let mut command = user::command(USER, &[], format!("{PROGRAMS}/postgres"));
    command.arg("-D").arg(&data).arg("-p").arg(port.to_string()).arg("-k").arg(&folder);
    for setting in ["listen_addresses=*", "fsync=off", "ssl=on", "logging_collector=off"] {
        command.args(["-c", setting]);
    }
    let process = Process::start_in(pod.space(), "postgres", command, parent);
    let ready = "database system is ready to accept connections";
    wait::until_true("PostgreSQL", || process.stderr().contains(ready)).await;
    Server::listening(process, pod, port).await
}

/// `psql` with one statement; `mode` is its `sslmode`.
pub fn psql(host: IpAddr, port: u16, mode: &str, statement: &str) -> Command {
    let mut command = Command::new("psql");
    let target = format!(
        "host={host} port={port} user={USER} dbname=postgres sslmode={mode} connect_timeout=20"
    );
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &target, "-c", statement]);
    command
}

fn with_locale(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split(' '));
    command
}
