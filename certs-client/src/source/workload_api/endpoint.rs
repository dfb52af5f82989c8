//! Where a Workload API listens: `unix:///abs/path` or `tcp://<IP>:<port>`, and nothing more.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The address of a Workload API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// A TCP address. The protocol has no TLS: the agent must be on this machine.
    Tcp(SocketAddr),
    /// A Unix socket, by absolute path.
    Unix(PathBuf),
}

/// Not the address of a Workload API.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "\"{text}\" is not the address of a Workload API ({problem}); \
     write unix:///absolute/path or tcp://<IP>:<port>"
)]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        let refuse = |problem| EndpointError { text: text.to_owned(), problem };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(refuse("the path is not absolute"));
            }
            if path.contains(['?', '#']) {
                return Err(refuse("no query and no fragment is allowed"));
            }
            return Ok(Endpoint::Unix(PathBuf::from(path)));
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let address: SocketAddr =
                address.parse().map_err(|_| refuse("an IP address and a port are needed"))?;
            if address.port() == 0 {
                return Err(refuse("the port is 0"));
            }
            return Ok(Endpoint::Tcp(address));
        }
        Err(refuse("the scheme is neither unix nor tcp"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
