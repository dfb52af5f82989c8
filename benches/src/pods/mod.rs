//! Pods for the pairs under test: network namespaces in a row, each joined to the next by a veth
//! cable, with the redirect that `countersign-proxy init` installs. Sockets and processes made on
//! a pod's thread belong to it; nothing has a name in the file system, so once thread and processes
//! are gone, so is the pod, however the run ended.
//!
//! It needs root, `ip`, `nft` and `setpriv`; [`possible`] says what is missing.

mod space;
mod user;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::net::{TcpSocket, TcpStream};

use self::space::Space;
pub(crate) use self::user::{command as as_sidecar, is_reachable, open_to_all};

/// One pod. Clones are the same pod.
#[derive(Clone)]
pub(crate) struct Pod {
    space: Arc<Space>,
    /// Its address on the cable towards the client; callers dial this one.
    pub(crate) ip: Ipv4Addr,
}

/// Makes `count` pods in a row: the first can call the second, the second the third.
pub(crate) fn row(count: u8) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in 0..count {
        let space = Space::new()?;
        space.ip("link set lo up")?;
        pods.push(Pod { space: Arc::new(space), ip: address(number, 2) });
    }
    for (number, pair) in (1..count).zip(pods.windows(2)) {
        let [left, right] = pair else { continue };
        let (near, far) = (address(number, 1), address(number, 2));
        let peer = right.space.path().display();
        left.space.ip(&format!(
            "link add right type veth peer name left netns {peer}
             address add {near}/24 dev right
             link set right up"
        ))?;
        right.space.ip(&format!(
            "address add {far}/24 dev left
             link set left up"
        ))?;
        // What a pod calls elsewhere leaves by the cable to the right.
        left.space.ip(&format!("route add default via {far}"))?;
    }
    if let Some(last) = pods.last().filter(|_| count > 1) {
        last.space.ip(&format!("route add default via {}", address(count - 1, 1)))?;
    }
    Ok(pods)
}

/// `host` 1 is the left end of cable `number`, 2 the right one.
fn address(number: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 47, number, host)
}

impl Pod {
    /// A port of it, as its neighbour to the left dials it.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// A listener on all addresses of the pod.
    pub(crate) fn listen(&self, port: u16) -> Result<TcpListener> {
        let listen = move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let listener = self.space.run(listen)?.with_context(|| format!("port {port} of a pod"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Dials as an app of the pod does: with a user other than the sidecar's.
    pub(crate) async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = self.space.run(TcpSocket::new_v4).map_err(std::io::Error::other)??;
        socket.connect(to).await
    }

    /// Runs `job` on the pod's thread; what it makes there belongs to the pod.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.space.run(job)
    }

    /// Installs the redirect of a countersign configuration, as the init container does.
    pub(crate) fn redirect(&self, proxy: &Path, config: &Path) -> Result<()> {
        let mut command = Command::new(proxy);
        command.args(["init", "--config"]).arg(config);
        let done = self.space.run(move || command.output())?.context("countersign-proxy init")?;
        let told = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "countersign-proxy init: {}: {told}", done.status);
        Ok(())
    }
}

/// Why this process cannot make pods, if so.
pub(crate) fn possible() -> std::result::Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    for tool in ["ip", "nft", "setpriv"] {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
        if !found.iter().any(|folder| Path::new(folder).join(tool).is_file()) {
            return Err(format!("{tool} is missing (`cargo xtask testbed` installs it)"));
        }
    }
    row(2).map(|_| ()).map_err(|error| format!("no network namespaces: {error:#}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::load::runtime;

    #[test]
    fn a_pod_reaches_its_right_neighbour() {
        if let Err(reason) = possible() {
            eprintln!("skipped: {reason}");
            return;
        }
        let pods = row(3).unwrap();
        for (left, right) in [(0, 1), (1, 2)] {
            let listener = pods[right].listen(8080).unwrap();
            listener.set_nonblocking(false).unwrap();
            let dial = pods[left].connect(pods[right].at(8080));
            let mut here = runtime().unwrap().block_on(dial).unwrap().into_std().unwrap();
            let (mut there, _) = listener.accept().unwrap();
            here.write_all(b"x").unwrap();
            let mut byte = [0];
            there.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }
}
