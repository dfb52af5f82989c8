//! Listening sockets and the accept loop.
//!
//! Invariant: one bad connection never ends the loop, and running out of descriptors never spins:
//! errors are sorted into "this connection", "pressure" and "permanent".

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use countersign_config::limits;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// A listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}): {source}")]
pub struct ListenError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What it is for.
    pub purpose: &'static str,
    /// The operating system's answer.
    pub source: io::Error,
}

/// Opens a listening socket that several workers share through `SO_REUSEPORT`.
///
/// # Errors
/// [`ListenError`] naming the address and what it was for.
pub fn bind(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<std::net::TcpListener, ListenError> {
    open(address, Kind::Shared).map_err(|source| ListenError { address, purpose, source })
}

/// As [`bind`], for connections that TPROXY delivers with the address they were meant for.
///
/// # Errors
/// [`ListenError`], also where the process lacks the one privilege it takes (`NET_RAW`).
pub fn bind_transparent(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<std::net::TcpListener, ListenError> {
    open(address, Kind::Transparent).map_err(|source| ListenError { address, purpose, source })
}

/// Checks that nobody else has the address: a shared bind alone would not notice.
///
/// # Errors
/// [`ListenError`] when the address is taken or not ours.
pub fn probe(address: SocketAddr, purpose: &'static str) -> Result<(), ListenError> {
    open(address, Kind::Probe).map(drop).map_err(|source| ListenError { address, purpose, source })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Probe,
    Shared,
    Transparent,
}

fn open(address: SocketAddr, kind: Kind) -> io::Result<std::net::TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let shared = kind != Kind::Probe;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Both families, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    if kind == Kind::Transparent {
        // A socket for `[::]` takes IPv4 too, and each family has an option of its own.
        socket.set_ip_transparent_v4(true)?;
        if address.is_ipv6() {
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        // Each accepted connection inherits them, which saves it six system calls.
        tune(&SockRef::from(&socket));
        socket.listen(i32::try_from(limits::LISTEN_BACKLOG_MAX).unwrap_or(i32::MAX))?;
    }
    Ok(socket.into())
}

/// Options every connection has: from its listener, or set right after connect. A socket that refuses
/// one is still usable, so failures are not errors.
pub fn tune(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(limits::TCP_KEEPALIVE_IDLE_S))
        .with_interval(Duration::from_secs(limits::TCP_KEEPALIVE_INTERVAL_S))
        .with_retries(limits::TCP_KEEPALIVE_PROBES_MAX);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_millis(limits::TCP_USER_TIMEOUT_MS)));
}

/// What an accept error means for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// Only this connection is lost.
    Connection,
    /// The process or the machine is short of something.
    Pressure,
    /// The listener is broken.
    Permanent,
}

/// Sorts an accept error.
pub fn classify(error: &io::Error) -> AcceptError {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => AcceptError::Pressure,
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT) => {
            AcceptError::Permanent
        }
        Some(_) | None => AcceptError::Connection,
    }
}

/// Accepts the next connection, waiting out pressure; `on_pressure` is called each time there is
/// some, to make room.
///
/// # Errors
/// Only a permanent error of the listener.
pub async fn accept(
    listener: &TcpListener,
    on_pressure: impl Fn(),
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut pause_ms = limits::ACCEPT_BACKOFF_MS_MIN;
    loop {
        match listener.accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => match classify(&error) {
                AcceptError::Connection => tokio::task::yield_now().await,
                AcceptError::Pressure => {
                    tracing::warn!(code = "DP-01", %error, "cannot accept: out of descriptors");
                    on_pressure();
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms = (pause_ms * 2).min(limits::ACCEPT_BACKOFF_MS_MAX);
                }
                AcceptError::Permanent => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted() {
        let of = |errno: rustix::io::Errno| classify(&io::Error::from(errno));
        assert_eq!(of(rustix::io::Errno::MFILE), AcceptError::Pressure);
        assert_eq!(of(rustix::io::Errno::CONNABORTED), AcceptError::Connection);
        assert_eq!(of(rustix::io::Errno::BADF), AcceptError::Permanent);
    }

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = bind(any.parse().unwrap(), "test").unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            let idle = Duration::from_secs(limits::TCP_KEEPALIVE_IDLE_S);
            assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
            let pause = Duration::from_secs(limits::TCP_KEEPALIVE_INTERVAL_S);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), pause);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), limits::TCP_KEEPALIVE_PROBES_MAX);
            let unacknowledged = Duration::from_millis(limits::TCP_USER_TIMEOUT_MS);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(unacknowledged));
        }
    }

    #[test]
    fn a_port_in_use_is_noticed_although_workers_share_ports() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let address = taken.local_addr().unwrap();
        let error = probe(address, "metrics").unwrap_err();
        assert!(error.to_string().contains("metrics"), "{error}");
    }
}
