//! One pod: a namespace with an interface of its own on the net, where an app, its sidecar and
//! their redirect live.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::Family;
use super::space::Space;
use crate::client::Conn;
use crate::process::Process;
use crate::programs;

/// A pod. Clones are the same pod; it lives as long as one of them, or a process in it.
#[derive(Clone)]
pub struct Pod {
    space: Arc<Space>,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Pod {
    pub(super) fn new(space: Space, v4: Ipv4Addr, v6: Ipv6Addr) -> Pod {
        Pod { space: Arc::new(space), v4, v6 }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        self.space.name()
    }

    /// Its namespace, for what has no function here.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both addresses.
    pub fn ips(&self) -> [IpAddr; 2] {
        Family::BOTH.map(|family| self.ip(family))
    }

    /// A port of it.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// A listener in the pod; hand it to [`crate::App::mirror_on`] and the like. One on `[::]`
    /// takes both families.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn listen(&self, address: SocketAddr) -> std::net::TcpListener {
        let made = self.space.run(move || -> io::Result<_> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                socket.set_only_v6(false)?;
            }
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            Ok(std::net::TcpListener::from(socket))
        });
        made.unwrap_or_else(|error| panic!("{}: {address}: {error}", self.name()))
    }

    /// A listener for both families on every address of the pod.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn listen_all(&self, port: u16) -> std::net::TcpListener {
        self.listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// A TCP socket of the pod, not connected. It belongs to the harness's user, as an app's does.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = self.space.run(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        })?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Dials as the app of the pod does; the socket may be used on any thread.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.socket(to)?.connect(to).await
    }

    /// A UDP socket of the pod, bound to an ephemeral port.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn udp(&self, family: Family) -> io::Result<UdpSocket> {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = self.space.run(move || std::net::UdpSocket::bind((any, 0)))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// An HTTP/1.1 connection as the app of the pod makes it.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn h1(&self, to: SocketAddr) -> anyhow::Result<Conn> {
        Conn::h1_over(self.connect(to).await?).await
    }

    /// A cleartext HTTP/2 connection as the app of the pod makes it.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn h2(&self, to: SocketAddr) -> anyhow::Result<Conn> {
        Conn::h2_over(self.connect(to).await?).await
    }

    /// Installs the redirect of a proxy's configuration, as the pod's init container does.
    ///
    /// # Panics
    /// When it is refused.
    pub fn redirect(&self, config: &Path) {
        let program = programs::proxy();
        let mut command = Command::new(&program);
        command.args(["init", "--config"]).arg(config);
        let done = self.space.output(command);
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: init: {} {told}", self.name(), done.status);
    }

    /// Runs a program in the pod to its end, as the harness's user; blocks the pod's thread.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Output {
        let mut command = Command::new(program.as_ref());
        command.args(arguments);
        self.space.output(command)
    }

    /// Starts a program in the pod that keeps running; its output goes to files in `folder`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, name: &str, command: Command, folder: &Path) -> Process {
        Process::start_in(&self.space, name, command, folder)
    }
}
