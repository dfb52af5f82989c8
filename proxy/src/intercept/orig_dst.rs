//! Where a redirected connection was meant to go, as the kernel's connection tracking knows it.
//!
//! Invariant: no answer is never replaced by the socket's own address. A connection whose original
//! destination is unknown is closed and counted.

use std::io;
use std::net::SocketAddr;

use countersign_config::ListenMode;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::intercept::canonical;

/// The kernel does not know where the connection was meant to go.
#[derive(Debug, thiserror::Error)]
#[error("no original destination: IPv4 {v4}, IPv6 {v6}")]
pub struct NoOriginal {
    /// The answer to `SO_ORIGINAL_DST`.
    v4: io::Error,
    /// The answer to `IP6T_SO_ORIGINAL_DST`.
    v6: io::Error,
}

/// The address the client dialled before the redirect, v4-mapped addresses as IPv4.
///
/// # Errors
/// [`NoOriginal`] when neither family has an answer.
pub fn of(stream: &TcpStream) -> Result<SocketAddr, NoOriginal> {
    let socket = SockRef::from(stream);
    let v4 = match answer(socket.original_dst_v4()) {
        Ok(addr) => return Ok(addr),
        Err(error) => error,
    };
    answer(socket.original_dst_v6()).map_err(|v6| NoOriginal { v4, v6 })
}

/// The same under `mode`. A TPROXY socket has the original destination as its own address, but
/// self-calls come by REDIRECT there too, and those arrive at `port`, our own.
///
/// # Errors
/// [`NoOriginal`] when the kernel was asked and did not know.
pub fn under(mode: ListenMode, stream: &TcpStream, port: u16) -> Result<SocketAddr, NoOriginal> {
    match (mode, stream.local_addr()) {
        (ListenMode::Tproxy, Ok(local)) if local.port() != port => Ok(canonical(local)),
        (ListenMode::Explicit | ListenMode::Redirect | ListenMode::Tproxy, _) => of(stream),
    }
}

fn answer(asked: io::Result<socket2::SockAddr>) -> io::Result<SocketAddr> {
    let addr = asked?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok(canonical(addr))
}
