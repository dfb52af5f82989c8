//! Where a Workload API listens: `unix:///abs/path` or `tcp://<IP>:<port>`, and nothing more.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// The address of a Workload API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WorkloadApiEndpoint {
    /// A TCP address. The protocol has no TLS: the agent must be on this machine.
    Tcp(SocketAddr),
    /// A Unix socket, by absolute path.
    Unix(PathBuf),
}

/// Not the address of a Workload API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadApiEndpointError {
    text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for WorkloadApiEndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkloadApiEndpointError { text, problem } = self;
        write!(f, "\"{text}\" is not the address of a Workload API ({problem}); {FORMS}")
    }
}

impl std::error::Error for WorkloadApiEndpointError {}

/// The forms of an address, for whoever wrote another one.
const FORMS: &str = "write unix:///absolute/path or tcp://<IP>:<port>";

impl FromStr for WorkloadApiEndpoint {
    type Err = WorkloadApiEndpointError;

    fn from_str(text: &str) -> Result<WorkloadApiEndpoint, WorkloadApiEndpointError> {
        let refuse = |problem| WorkloadApiEndpointError { text: text.to_owned(), problem };
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(refuse("the path is not absolute"));
            }
            if path.contains(['?', '#']) {
                return Err(refuse("no query and no fragment is allowed"));
            }
            return Ok(WorkloadApiEndpoint::Unix(PathBuf::from(path)));
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let address: SocketAddr =
                address.parse().map_err(|_| refuse("an IP address and a port are needed"))?;
            if address.port() == 0 {
                return Err(refuse("the port is 0"));
            }
            return Ok(WorkloadApiEndpoint::Tcp(address));
        }
        Err(refuse("the scheme is neither unix nor tcp"))
    }
}

impl fmt::Display for WorkloadApiEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadApiEndpoint::Tcp(address) => write!(f, "tcp://{address}"),
            WorkloadApiEndpoint::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
