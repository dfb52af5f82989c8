//! Opens TCP connections, to the app beside us and to other sidecars, so that the redirect lets
//! them through.
//!
//! Invariant: under a redirect no connection to the app leaves without the mark that tells it from
//! a self-call. A socket that refuses the mark is not used: unmarked it would come back to us.

use std::io;
use std::net::SocketAddr;

use countersign_config::{ListenMode, ProxyConfig};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::intercept::{canonical, listen};

/// Socket priority of connections to the app; the rule `own: to the app` asks for it. Needs no
/// privilege, and `IP_TOS` cannot produce it.
pub const APP_PRIORITY: u32 = 5;

/// The same mark in the form `iptables` can ask for: a DSCP of the pool for local use, `xxxx11`
/// (RFC 2474 §6). It never leaves the machine: the app is behind a local address.
pub const APP_DSCP: u32 = 0x2b;

/// How the app is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Explicit mode: as any program would.
    Plain,
    /// Under REDIRECT: marked, from our own address.
    Marked,
    /// Under TPROXY: marked, from the client's address.
    AsClient,
}

impl Way {
    /// As the inbound listeners demand.
    pub fn of(config: &ProxyConfig) -> Way {
        let mut way = Way::Plain;
        for listener in &config.inbound {
            match listener.mode {
                ListenMode::Explicit => {}
                ListenMode::Redirect => way = Way::Marked,
                ListenMode::Tproxy => return Way::AsClient,
            }
        }
        way
    }
}

/// Opens a connection to the app on behalf of `client`.
///
/// # Errors
/// The operating system's answer, also when it refuses an option the redirect needs.
pub async fn app(
    addr: SocketAddr,
    client: SocketAddr,
    config: &ProxyConfig,
) -> io::Result<TcpStream> {
    app_by(Way::of(config), addr, client).await
}

/// Opens a connection to the app in a way that is known already.
///
/// # Errors
/// The operating system's answer, also when it refuses an option the redirect needs.
pub async fn app_by(way: Way, addr: SocketAddr, client: SocketAddr) -> io::Result<TcpStream> {
    let addr = canonical(addr);
    let socket = socket(addr)?;
    match way {
        Way::Plain => {}
        Way::Marked => mark(&socket, addr)?,
        Way::AsClient => {
            mark(&socket, addr)?;
            from_client(&socket, addr, canonical(client))?;
        }
    }
    connect(socket, addr).await
}

/// Whether the app sees the client's address, so that connections to it cannot be shared between
/// clients.
pub fn app_sees_client(config: &ProxyConfig) -> bool {
    Way::of(config) == Way::AsClient
}

/// Opens a connection to another sidecar.
///
/// # Errors
/// The operating system's answer.
pub async fn mesh(addr: SocketAddr) -> io::Result<TcpStream> {
    let addr = canonical(addr);
    connect(socket(addr)?, addr).await
}

fn socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connect(socket: TcpSocket, addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = socket.connect(addr).await?;
    listen::tune(&SockRef::from(&stream));
    Ok(stream)
}

/// Both marks, the priority last: `IP_TOS` sets a priority of its own.
pub(crate) fn mark(socket: &TcpSocket, addr: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if addr.is_ipv4() {
        socket.set_tos_v4(APP_DSCP << 2)?;
    } else {
        socket.set_tclass_v6(APP_DSCP << 2)?;
    }
    socket.set_priority(APP_PRIORITY)
}

/// A client on this machine, and an app that listens on loopback, cannot have it: the answer to a
/// foreign address would leave by another way than the request came.
fn from_client(socket: &TcpSocket, addr: SocketAddr, client: SocketAddr) -> io::Result<()> {
    if client.ip() == addr.ip() || addr.ip().is_loopback() || client.is_ipv4() != addr.is_ipv4() {
        return Ok(());
    }
    let options = SockRef::from(socket);
    if addr.is_ipv4() {
        options.set_ip_transparent_v4(true)?;
    } else {
        options.set_ip_transparent_v6(true)?;
    }
    socket.bind(SocketAddr::new(client.ip(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_survives_in_both_families() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        for addr in ["127.0.0.1:1", "[::1]:1"] {
            let addr = addr.parse().expect("an address");
            let socket = socket(addr).expect("a socket");
            mark(&socket, addr).expect("no privilege is needed");
            let options = SockRef::from(&socket);
            assert_eq!(options.priority().expect("a priority"), APP_PRIORITY, "{addr}");
        }
    }
}
