//! TLS configurations, built once per certificate and trust generation, never per handshake.
//!
//! Between sidecars: TLS 1.3 only, client certificates both ways, ALPN pinned, no SNI, no tickets,
//! no early data: a resumed session would skip the chain, expiry and identity checks.
//! Invariant: no other module builds a rustls configuration for the mesh.

pub mod ahead;
pub mod chain;
pub mod clients;
pub mod edge;
pub mod hello;
pub mod outside;
pub mod peer;
mod signatures;
pub mod told;
pub mod verify;

use std::sync::Arc;

use countersign_certs_client::Identity;
use countersign_config::TlsGroup;
use countersign_workload_id::TrustDomain;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;

use crate::tls::verify::{ExpectedIds, MeshClients, MeshServer, Trust};

/// HTTP/2 with prior knowledge inside mutual TLS.
pub const ALPN_H2: &[u8] = b"countersign/h2";
/// HTTP/1.1 inside mutual TLS.
pub const ALPN_HTTP1: &[u8] = b"countersign/http1.1";

/// Any bytes inside mutual TLS.
pub const ALPN_TCP: &[u8] = b"countersign/tcp";

/// What is carried inside a mesh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `countersign/h2`.
    H2,
    /// `countersign/http1.1`.
    Http1,
    /// `countersign/tcp`.
    Tcp,
}

impl Alpn {
    /// The protocol a negotiated ALPN names, if it is one of ours.
    pub fn of(protocol: Option<&[u8]>) -> Option<Alpn> {
        match protocol {
            Some(ALPN_H2) => Some(Alpn::H2),
            Some(ALPN_HTTP1) => Some(Alpn::Http1),
            Some(ALPN_TCP) => Some(Alpn::Tcp),
            Some(_) | None => None,
        }
    }

    fn wire(self) -> Vec<u8> {
        match self {
            Alpn::H2 => ALPN_H2.to_vec(),
            Alpn::Http1 => ALPN_HTTP1.to_vec(),
            Alpn::Tcp => ALPN_TCP.to_vec(),
        }
    }
}

/// The one crypto provider: aws-lc-rs with the given key exchange groups in order of preference.
/// No process default is installed. Without groups: hybrid first, then the classical curves.
pub fn provider(groups: &[TlsGroup]) -> Arc<CryptoProvider> {
    const DEFAULT: &[TlsGroup] = &[TlsGroup::X25519MlKem768, TlsGroup::X25519, TlsGroup::Secp256r1];
    let groups = if groups.is_empty() { DEFAULT } else { groups };
    Arc::new(CryptoProvider {
        kx_groups: groups.iter().map(|group| key_exchange(*group)).collect(),
        ..aws_lc_rs::default_provider()
    })
}

fn key_exchange(group: TlsGroup) -> &'static dyn SupportedKxGroup {
    match group {
        TlsGroup::X25519MlKem768 => kx_group::X25519MLKEM768,
        TlsGroup::X25519 => kx_group::X25519,
        TlsGroup::Secp256r1 => kx_group::SECP256R1,
        TlsGroup::Secp384r1 => kx_group::SECP384R1,
    }
}

/// Why the TLS side of a snapshot could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsBuildError {
    /// rustls refused the key or the certificate.
    #[error("the certificate and key cannot be used for TLS")]
    Certificate(#[from] rustls::Error),
}

/// The mesh TLS of one generation, shared by all workers.
pub struct MeshTls {
    /// One for each set of other trust domains that a listener accepts, and one for none.
    servers: Vec<Server>,
    provider: Arc<CryptoProvider>,
    identity: Arc<Identity>,
    certified: Arc<rustls::sign::CertifiedKey>,
    trust: Trust,
    generation: u64,
}

/// The server side of listeners that accept the same trust domains.
struct Server {
    /// Beside our own.
    domains: Vec<TrustDomain>,
    /// Terminates connections from mesh peers.
    mesh: Arc<rustls::ServerConfig>,
    /// The same for TLS clients that are no sidecars: HTTP, or no protocol named.
    terminate: Arc<rustls::ServerConfig>,
}

impl Server {
    fn build(
        (domain, domains): (&TrustDomain, &[TrustDomain]),
        trust: &Trust,
        provider: &Arc<CryptoProvider>,
        certified: &Arc<rustls::sign::CertifiedKey>,
    ) -> Result<Server, TlsBuildError> {
        let accepted = std::iter::once(domain).chain(domains).cloned().collect();
        let verifier = MeshClients::new(accepted, trust.clone(), Arc::clone(provider));
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertificate(Arc::clone(certified))));
        server.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec(), ALPN_TCP.to_vec()];
        harden(&mut server);
        let mut terminate = server.clone();
        terminate.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (mesh, terminate) = (Arc::new(server), Arc::new(terminate));
        Ok(Server { domains: domains.to_vec(), mesh, terminate })
    }
}

impl MeshTls {
    /// Builds both sides from one identity and those it believes. `accepted` are the sets of other
    /// trust domains that listeners accept.
    ///
    /// # Errors
    /// When rustls cannot use the key.
    pub fn build(
        identity: &Arc<Identity>,
        trust: &Trust,
        (domain, accepted): (&TrustDomain, &[&[TrustDomain]]),
        provider: &Arc<CryptoProvider>,
        generation: u64,
    ) -> Result<MeshTls, TlsBuildError> {
        let certified = identity.to_rustls();
        let mut servers: Vec<Server> = Vec::new();
        for domains in [&[][..]].iter().chain(accepted) {
            if !servers.iter().any(|server| server.domains == *domains) {
                servers.push(Server::build((domain, domains), trust, provider, &certified)?);
            }
        }
        Ok(MeshTls {
            servers,
            provider: Arc::clone(provider),
            identity: Arc::clone(identity),
            certified,
            trust: trust.clone(),
            generation,
        })
    }

    /// Generation of the snapshot it belongs to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// As whom both sides come.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Terminates connections from sidecars, at a listener that accepts these other trust domains.
    pub fn server(&self, domains: &[TrustDomain]) -> Option<Arc<rustls::ServerConfig>> {
        self.of(domains).map(|server| Arc::clone(&server.mesh))
    }

    /// The same for TLS clients that are no sidecars.
    pub fn terminate(&self, domains: &[TrustDomain]) -> Option<Arc<rustls::ServerConfig>> {
        self.of(domains).map(|server| Arc::clone(&server.terminate))
    }

    fn of(&self, domains: &[TrustDomain]) -> Option<&Server> {
        self.servers.iter().find(|server| server.domains == domains)
    }

    /// The client side towards one destination: accepts exactly `expected`.
    ///
    /// # Errors
    /// When rustls refuses the protocol versions of the provider.
    pub fn client(
        &self,
        expected: &Arc<ExpectedIds>,
        alpn: Alpn,
    ) -> Result<Arc<rustls::ClientConfig>, TlsBuildError> {
        let verifier =
            MeshServer::new(Arc::clone(expected), self.trust.clone(), Arc::clone(&self.provider));
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertificate(Arc::clone(&self.certified))));
        client.alpn_protocols = vec![alpn.wire()];
        client.enable_sni = false;
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(client))
    }
}

/// No tickets, no resumption, no early data.
pub(crate) fn harden(server: &mut rustls::ServerConfig) {
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
}

/// Always answers with the one certificate of the generation.
#[derive(Debug)]
pub(crate) struct SingleCertificate(pub(crate) Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for SingleCertificate {
    fn resolve(
        &self,
        _hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for SingleCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
