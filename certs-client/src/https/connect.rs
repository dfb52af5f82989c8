//! To the server: name, address, handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Url,
    error::{Problem, tls_problem},
    trust::Roots,
};

/// One attempt to connect to one address.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

/// A connection to one of the addresses of the host.
pub(super) async fn tcp(url: &Url, allow_plain: bool) -> Result<TcpStream, Problem> {
    let anywhere = url.is_https() || allow_plain;
    if !anywhere && !url.is_loopback() {
        return Err(Problem::Plain);
    }
    let host = url.host();
    let found = lookup_host((host, url.port()))
        .await
        .map_err(|error| Problem::Resolve { host: host.to_owned(), error: error.to_string() })?;
    // `localhost` may resolve to anything; without TLS only loopback is asked.
    let permitted = |address: &SocketAddr| anywhere || address.ip().is_loopback();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address that may be asked");
    for address in found.filter(permitted).take(ADDRESSES_MAX) {
        match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    let address = format!("{host}:{}", url.port());
    Err(Problem::Connect { address, error: last.to_string() })
}

/// The handshake in which the server proves who it is.
pub(super) async fn tls(
    stream: TcpStream,
    url: &Url,
    config: Arc<ClientConfig>,
    roots: &Roots,
) -> Result<TlsStream<TcpStream>, Problem> {
    let name = ServerName::try_from(url.host().to_owned())
        .map_err(|_| Problem::Tls("its host is not a name a certificate can carry".to_owned()))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| Problem::Tls(tls_problem(&error, roots)))
}
