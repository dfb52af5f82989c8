//! Client certificates at a public listener: asked for, never demanded.
//!
//! Invariant: the handshake proves only that the client holds the certificate's key. Whether anybody
//! vouches for the certificate is asked afterwards, of the authorities in force at that moment, and
//! a certificate nobody vouches for is no fact about the client.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs_client::svid;
use countersign_config::limits::{
    CLIENT_ROOTS_BYTES_MAX, PEER_CHAIN_BYTES_MAX, PEER_CHAIN_CERTS_MAX,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, RootCertStore};

use super::signatures::tls13_signatures;
use crate::clock::Now;

/// Authorities of client certificates, by the names that documents use.
pub struct ClientRoots {
    named: Vec<(Arc<str>, Arc<dyn ClientCertVerifier>)>,
    subjects: Arc<[DistinguishedName]>,
}

impl ClientRoots {
    /// Reads the content of every file.
    ///
    /// # Errors
    /// The file and a sentence about it.
    pub fn build(
        files: &BTreeMap<String, PathBuf>,
        contents: &[Vec<u8>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientRoots, (PathBuf, String)> {
        let mut named = Vec::with_capacity(files.len());
        let mut subjects = Vec::new();
        for ((name, file), pem) in files.iter().zip(contents) {
            let failed = |problem: String| (file.clone(), problem);
            let store = store(pem).map_err(failed)?;
            subjects.extend(store.subjects());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
            let verifier = verifier.build().map_err(|error| failed(error.to_string()))?;
            named.push((Arc::from(name.as_str()), verifier));
        }
        Ok(ClientRoots { named, subjects: subjects.into() })
    }

    /// The names of the authorities that vouch for this chain now.
    fn vouching(&self, chain: &[CertificateDer<'static>], now: Now) -> Vec<Arc<str>> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Vec::new() };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.secs()));
        let vouches = |verifier: &Arc<dyn ClientCertVerifier>| {
            verifier.verify_client_cert(leaf, intermediates, now).is_ok()
        };
        let vouching = self.named.iter().filter(|(_, verifier)| vouches(verifier));
        vouching.map(|(name, _)| Arc::clone(name)).collect()
    }
}

fn store(pem: &[u8]) -> Result<RootCertStore, String> {
    if pem.len() > CLIENT_ROOTS_BYTES_MAX {
        return Err(format!("it is longer than {CLIENT_ROOTS_BYTES_MAX} bytes"));
    }
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        store.add(certificate).map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    if store.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(store) }
}

/// A certificate whose key the client of a connection holds.
pub struct ClientCertificate {
    chain: Box<[CertificateDer<'static>]>,
    sha256: [u8; 32],
    /// The first end of any certificate of the chain.
    ends_at: u64,
    judged: RefCell<Option<Judged>>,
}

struct Judged {
    by: Arc<ClientRoots>,
    vouching: Arc<[Arc<str>]>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// The chain of a completed handshake; `None` if the client sent none.
    pub fn of_handshake(chain: Option<&[CertificateDer<'_>]>) -> Option<ClientCertificate> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let chain: Box<[_]> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, chain.first()?);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest.as_ref());
        let ends = chain.iter().map(|one| svid::not_after(one).unwrap_or(0));
        let ends_at = ends.min().unwrap_or(0);
        Some(ClientCertificate { chain, sha256, ends_at, judged: RefCell::default() })
    }

    /// SHA-256 of the leaf, DER. Says that the client holds this key, and nothing about who it is.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// The names of the authorities in force that vouch for it now; empty: nobody does. Chains are
    /// built once per connection and set of authorities, and again once a certificate has ended.
    pub fn vouched_by(&self, roots: &Arc<ClientRoots>, now: Now) -> Arc<[Arc<str>]> {
        let mut judged = self.judged.borrow_mut();
        match &*judged {
            Some(known) if Arc::ptr_eq(&known.by, roots) && now.secs() < self.ends_at => {
                Arc::clone(&known.vouching)
            }
            Some(_) | None => {
                let vouching: Arc<[Arc<str>]> = roots.vouching(&self.chain, now).into();
                *judged = Some(Judged { by: Arc::clone(roots), vouching: Arc::clone(&vouching) });
                vouching
            }
        }
    }
}

/// Asks for a certificate and takes any whose key the client proves to hold.
pub struct AnyClient {
    provider: Arc<CryptoProvider>,
    /// Whose certificates are asked for; empty: anybody's.
    subjects: Arc<[DistinguishedName]>,
}

impl fmt::Debug for AnyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyClient").finish_non_exhaustive()
    }
}

impl AnyClient {
    /// Asks for certificates of `roots`; without any, for whatever the client has.
    pub fn new(roots: Option<&ClientRoots>, provider: Arc<CryptoProvider>) -> AnyClient {
        let subjects = roots.map(|roots| Arc::clone(&roots.subjects)).unwrap_or_default();
        AnyClient { provider, subjects }
    }
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes = end_entity.len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        if intermediates.len() >= PEER_CHAIN_CERTS_MAX || bytes > PEER_CHAIN_BYTES_MAX {
            return Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

#[cfg(test)]
#[path = "../tests/clients.rs"]
mod tests;
