//! TLS towards services outside the mesh: verified by the names and roots their document gives.
//!
//! Invariant: a mesh bundle never vouches for an outside host, the Web PKI never for a workload, and
//! our own certificate is never shown outside the mesh.

use std::sync::Arc;

use rustls::pki_types::ServerName;

/// How one outside service is recognised.
#[derive(Debug)]
pub struct OutsideTls {
    /// The names its certificate may carry; the first is sent as SNI.
    pub server_names: Vec<ServerName<'static>>,
    /// The client side, verifying against the document's roots.
    pub client: Arc<rustls::ClientConfig>,
}
