//! Reads a PROXY protocol header, version 1 or 2, from the first bytes of a connection.
//!
//! Pure and incremental: call [`parse`] with everything read so far until it is no longer
//! [`Parsed::NeedMore`]. Used only on listeners that demand the header, and only for TCP peers
//! that are listed there; the caller decides both. TLVs are skipped.

use std::net::SocketAddr;

/// The version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PpVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// A header that was read completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the connection that belong to the header.
    pub consumed: usize,
    /// The version.
    pub version: PpVersion,
    /// The client, with IPv4-mapped addresses folded; absent for `UNKNOWN`, `UNSPEC`, `LOCAL`.
    pub source: Option<SocketAddr>,
    /// Version 2 `LOCAL`: the balancer speaks for itself (health check).
    pub local: bool,
}

/// The state of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header is complete.
    Done(ProxyHeader),
    /// So far it can become a header.
    NeedMore,
}

/// Why the bytes are not a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PpError {
    /// A field of the header is malformed.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The connection does not begin with a PROXY header.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Longer than any honest header.
    #[error("the PROXY header is too large")]
    TooLarge,
    /// A version, command, family or transport that is not spoken here.
    #[error("the PROXY header asks for something unsupported")]
    Unsupported,
}

/// Reads the header from the bytes received so far.
pub fn parse(_bytes: &[u8]) -> Result<Parsed, PpError> {
    todo!()
}
