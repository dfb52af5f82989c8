//! The rustls verifiers of both directions. Both call the one X509-SVID validation of
//! `certs-client`; what differs is which identities are then acceptable.
//!
//! INVARIANT: the client side accepts only the identities expected for *this* destination, never
//! "somebody of our trust domain".

use std::fmt;
use std::sync::Arc;

use countersign_certs_client::{Crls, TrustBundles, Usage, svid};
use countersign_policy::{RevocableLeaf, Revocations};
use countersign_workload_id::{TrustDomain, WorkloadId};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError};

use super::signatures::tls13_signatures;

/// What revokes a certificate on a list of its authority, where documents name their entries.
pub const CRL: &str = "crl";

/// The identities that may answer for a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExpectedIds(Vec<WorkloadId>);

impl ExpectedIds {
    /// A non-empty list; `None` for an empty one, which could never be satisfied.
    pub fn new(ids: Vec<WorkloadId>) -> Option<ExpectedIds> {
        if ids.is_empty() { None } else { Some(ExpectedIds(ids)) }
    }

    /// Whether `id` may answer.
    pub fn allows(&self, id: &WorkloadId) -> bool {
        self.0.contains(id)
    }

    /// The only identity, if there is exactly one.
    pub fn single(&self) -> Option<&WorkloadId> {
        match self.0.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

impl fmt::Display for ExpectedIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" or ")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

/// Why a peer's certificate was refused. Travels through rustls and is read back by
/// [`handshake_reason`].
#[derive(Debug, thiserror::Error)]
pub enum PeerRefused {
    /// The chain or the leaf breaks a rule of X509-SVID.
    #[error("the peer's certificate is not acceptable")]
    Svid(#[source] svid::SvidError),
    /// The identity is of a trust domain that we know and this listener does not accept.
    #[error("the peer is {0}, of another trust domain")]
    ForeignDomain(WorkloadId),
    /// A revocation hits the certificate.
    #[error("the certificate of {id} is revoked ({by})")]
    Revoked {
        /// Whose certificate it is.
        id: WorkloadId,
        /// The entry that hits: `certificate`, `identity` or `pod`; or `crl`.
        by: &'static str,
    },
    /// The server is not the one that was expected.
    #[error("expected {expected}, the server is {presented}")]
    Unexpected {
        /// Who may answer.
        expected: String,
        /// Who answered.
        presented: WorkloadId,
    },
}

impl PeerRefused {
    /// Closed label of metrics and audit.
    pub fn reason(&self) -> &'static str {
        match self {
            PeerRefused::Svid(error) => error.reason(),
            PeerRefused::ForeignDomain(_) => "unknown_trust_domain",
            PeerRefused::Revoked { .. } => "revoked",
            PeerRefused::Unexpected { .. } => "unexpected_identity",
        }
    }
}

fn refuse(error: PeerRefused) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn validate(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust: &Trust,
    usage: Usage,
    now: UnixTime,
) -> Result<svid::Svid, rustls::Error> {
    let mut chain = Vec::with_capacity(1 + intermediates.len());
    chain.push(leaf.clone());
    chain.extend(intermediates.iter().cloned());
    let svid = svid::validate(&chain, &trust.bundles, usage, now)
        .map_err(|error| refuse(PeerRefused::Svid(error)))?;
    let ms = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    let leaf = RevocableLeaf {
        sha256: &svid.leaf_sha256,
        id: &svid.id,
        not_before_ms: ms(svid.not_before),
        pod_uid: svid.pod_uid.as_deref(),
    };
    let listed = trust.crls.revoke_chain(svid.id.trust_domain(), &chain).then_some(CRL);
    match listed.or_else(|| trust.revocations.leaf(&leaf, ms(now.as_secs()))) {
        Some(by) => Err(refuse(PeerRefused::Revoked { id: svid.id, by })),
        None => Ok(svid),
    }
}

/// Whom certificates are believed from, and which of them no longer count.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The authorities, by trust domain.
    pub bundles: Arc<TrustBundles>,
    /// What its authorities have revoked.
    pub crls: Arc<Crls>,
    /// What the documents revoke.
    pub revocations: Arc<Revocations>,
}

/// Accepts mesh clients of our own trust domain, and of those that the listener names.
#[derive(Debug)]
pub struct MeshClients {
    domains: Box<[TrustDomain]>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl MeshClients {
    /// A verifier for one listener and one trust generation.
    pub fn new(
        domains: Box<[TrustDomain]>,
        trust: Trust,
        provider: Arc<CryptoProvider>,
    ) -> MeshClients {
        MeshClients { domains, trust, provider }
    }
}

impl ClientCertVerifier for MeshClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let svid = validate(end_entity, intermediates, &self.trust, Usage::TlsClient, now)?;
        if !self.domains.contains(svid.id.trust_domain()) {
            return Err(refuse(PeerRefused::ForeignDomain(svid.id)));
        }
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

/// Accepts exactly the servers expected for one destination.
#[derive(Debug)]
pub struct MeshServer {
    expected: Arc<ExpectedIds>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl MeshServer {
    /// A verifier for one destination and one trust generation.
    pub fn new(
        expected: Arc<ExpectedIds>,
        trust: Trust,
        provider: Arc<CryptoProvider>,
    ) -> MeshServer {
        MeshServer { expected, trust, provider }
    }
}

impl ServerCertVerifier for MeshServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let svid = validate(end_entity, intermediates, &self.trust, Usage::TlsServer, now)?;
        if !self.expected.allows(&svid.id) {
            return Err(refuse(PeerRefused::Unexpected {
                expected: self.expected.to_string(),
                presented: svid.id,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

/// The refusal inside a failed handshake, if our verifier caused it.
pub fn peer_refused(error: &std::io::Error) -> Option<&PeerRefused> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = tls else {
        return None;
    };
    other.downcast_ref::<PeerRefused>()
}

/// The closed metric label of a failed handshake.
pub fn handshake_reason(error: &std::io::Error) -> &'static str {
    if let Some(refused) = peer_refused(error) {
        return refused.reason();
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return "io";
    };
    match tls {
        rustls::Error::NoCertificatesPresented => "no_certificate",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::NoApplicationProtocol => "alpn",
        rustls::Error::AlertReceived(_) => "refused_by_peer",
        rustls::Error::InvalidCertificate(_) => "bad_certificate",
        rustls::Error::InvalidMessage(_) => "not_tls",
        _ => "protocol",
    }
}
