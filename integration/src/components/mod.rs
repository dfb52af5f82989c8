//! Real servers that the tests start in pods, and real clients that talk to them; one file each.
//!
//! Each is a child of the test run under a user that is not root where the program allows it, with
//! its files in a folder of the test, and listens on every address of the pod in both families.
//! Invariant: nothing here knows of sidecars; what a client reaches is the network's business.

pub mod authzen;
pub mod frameworks;
pub mod keycloak;
pub mod kubernetes;
pub mod mariadb;
pub mod nats;
pub mod nginx;
pub mod oauth;
pub mod oidc_provider;
pub mod openbao;
pub mod postgres;
pub mod python;
pub mod redis;
pub mod slapd;
pub mod smtp;
pub mod softhsm;
pub mod spire;
pub mod tinyproxy;
pub mod tpm;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::netns::{Pod, user};
use crate::process::Process;
use crate::wait;

/// A user of the servers that do not need one of their own; nobody else has its number.
const SERVER: &str = "4800";

/// A running server; dropping it stops it.
pub struct Server {
    /// The process.
    pub process: Process,
    /// Where it listens, on every address.
    pub port: u16,
}

impl Server {
    /// Waits until it listens.
    ///
    /// # Panics
    /// When it ends instead.
    async fn listening(process: Process, pod: &Pod, port: u16) -> Server {
        wait::until(&format!("port {port}"), || async {
            if let Some(status) = process.exit_status() {
                panic!("the server of port {port} ended with {status}\n{}", process.tail());
            }
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            pod.connect(loopback).await.ok().map(drop)
        })
        .await;
        Server { process, port }
    }
}

/// Runs a client in a pod as its app's user and gives what it printed.
///
/// # Panics
/// When it fails or does not end.
pub async fn run(pod: &Pod, command: Command) -> String {
    let shown = format!("{command:?}");
    let done = finish(pod, command).await;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{shown}: {}\n{err}\n{out}", done.status);
    out.into_owned()
}

/// As [`run`], for a client that may fail.
///
/// # Panics
/// When it cannot be started.
pub async fn finish(pod: &Pod, command: Command) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=1", "30"]).arg(command.get_program()).args(command.get_args());
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    limited.envs(variables);
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    let pod = pod.clone();
    let done = tokio::task::spawn_blocking(move || {
        limited.stdin(std::process::Stdio::null());
        limited.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        pod.space().spawn(limited).and_then(std::process::Child::wait_with_output)
    });
    done.await.unwrap().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a program that prepares something to its end, outside any pod.
async fn prepare(mut command: Command) {
    let done = tokio::task::spawn_blocking(move || {
        let shown = format!("{command:?}");
        (crate::process::run(&mut command), shown)
    });
    let (done, shown) = done.await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{shown}: {}\n{err}\n{out}", done.status);
}

/// A folder in `parent` that belongs to `user`.
fn folder_of(parent: &Path, name: &str, user: &str) -> PathBuf {
    user::open_to_all(parent);
    let folder = parent.join(name);
    fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut command = Command::new("chown");
    command.arg(format!("{user}:")).arg(&folder);
    if user.parse::<u32>().is_ok() {
        command = Command::new("chown");
        command.arg(format!("{user}:{user}")).arg(&folder);
    }
    let done = crate::process::run(&mut command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    folder
}
