//! TLS towards services outside the mesh: verified by the names and roots their document gives.
//!
//! Invariant: a mesh bundle never vouches for an outside host, the Web PKI never for a workload, and
//! our own certificate is never shown outside the mesh.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::upstream::target::Offer;

/// HTTP/2 as the Web names it.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 as the Web names it.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// How one outside service is recognised. Equal are those with the same names and roots, so that
/// connections outlive a snapshot that changes neither.
pub struct OutsideTls {
    sni: ServerName<'static>,
    names: Vec<ServerName<'static>>,
    roots: [u8; 32],
    configs: [Arc<rustls::ClientConfig>; 3],
    bytes: Arc<rustls::ClientConfig>,
}

impl PartialEq for OutsideTls {
    fn eq(&self, other: &OutsideTls) -> bool {
        self.names == other.names && self.roots == other.roots
    }
}

impl Eq for OutsideTls {}

impl fmt::Debug for OutsideTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutsideTls").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Roots that vouch for outside services.
pub struct Roots {
    store: Arc<RootCertStore>,
    digest: [u8; 32],
}

/// Reads roots, and remembers them: a file that cannot be read right now must not hold up new
/// certificates, so what was read last stays in force.
pub struct OutsideRoots {
    provider: Arc<CryptoProvider>,
    /// By file; `None` is the operating system.
    known: HashMap<Option<PathBuf>, Arc<Roots>>,
    /// What was read since [`OutsideRoots::again`], or why it could not be.
    read: HashMap<Option<PathBuf>, Result<Arc<Roots>, String>>,
}

impl OutsideRoots {
    /// Nothing read yet.
    pub fn new(provider: Arc<CryptoProvider>) -> OutsideRoots {
        OutsideRoots { provider, known: HashMap::new(), read: HashMap::new() }
    }

    /// From now on roots are read anew, each once however many services are recognised by them.
    pub fn again(&mut self) {
        self.read.clear();
    }

    /// The client side for one service, with the roots of `file` or of the operating system.
    ///
    /// # Errors
    /// A sentence about the names, or about roots that could never be read.
    pub fn tls(&mut self, names: &[String], file: Option<&Path>) -> Result<OutsideTls, String> {
        let key = file.map(Path::to_owned);
        let roots = match self.read.get(&key) {
            Some(read) => read.clone(),
            None => {
                let read = self.read(file);
                self.read.insert(key, read.clone());
                read
            }
        };
        OutsideTls::build(names, &*roots?, &self.provider)
    }

    /// Reads roots. Unchanged ones stay the very same, so that they are in memory once.
    fn read(&mut self, file: Option<&Path>) -> Result<Arc<Roots>, String> {
        let key = file.map(Path::to_owned);
        let last = self.known.get(&key);
        let found = match file {
            None => Ok(Certificates::of_system()),
            Some(file) => Certificates::of_file(file),
        };
        let roots = found.and_then(|found| {
            let digest = found.digest();
            let mut known = self.known.values();
            match known.find(|roots| roots.digest == digest) {
                Some(same) => Ok(Arc::clone(same)),
                None => found.roots(digest).map(Arc::new),
            }
        });
        match (roots, last) {
            (Ok(roots), _) => {
                self.known.insert(key, Arc::clone(&roots));
                Ok(roots)
            }
            (Err(why), Some(last)) => {
                tracing::warn!(code = "TL-02", why, "the last good roots stay");
                Ok(Arc::clone(last))
            }
            (Err(why), None) => Err(why),
        }
    }
}

/// Certificates as they were read, and whose they are.
struct Certificates {
    whose: String,
    certificates: Vec<CertificateDer<'static>>,
}

impl Certificates {
    fn of_system() -> Certificates {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(code = "TL-01", %error, "some root certificates of the system were not read");
        }
        let whose = "the root certificates of the system".to_owned();
        Certificates { whose, certificates: native.certs }
    }

    fn of_file(path: &Path) -> Result<Certificates, String> {
        let whose = path.display().to_string();
        let pem = std::fs::read(path).map_err(|error| format!("{whose}: {error}"))?;
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("{whose}: {error}"))?;
        Ok(Certificates { whose, certificates })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for certificate in &self.certificates {
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest.finish().as_ref());
        sha256
    }

    fn roots(self, digest: [u8; 32]) -> Result<Roots, String> {
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(self.certificates);
        if usable == 0 {
            return Err(format!("{}: no usable root certificate", self.whose));
        }
        Ok(Roots { store: Arc::new(store), digest })
    }
}

impl OutsideTls {
    /// The client side for one service; the first of `names` is sent as SNI, each may be proved.
    ///
    /// # Errors
    /// A sentence about the name or the roots that cannot be used.
    pub fn build(
        names: &[String],
        roots: &Roots,
        provider: &Arc<CryptoProvider>,
    ) -> Result<OutsideTls, String> {
        let parse = |name: &String| {
            ServerName::try_from(name.clone())
                .map_err(|_| format!("`{name}` is not a name a certificate can carry"))
        };
        let names = names.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let sni = names.first().cloned().ok_or("no server name is given")?;
        let webpki = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&roots.store),
            Arc::clone(provider),
        )
        .build()
        .map_err(|error| error.to_string())?;
        let verifier = Arc::new(OneOf { names: names.clone(), webpki });
        let config = |protocols: &[&[u8]]| {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::<OneOf>::clone(&verifier);
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| error.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            config.resumption = rustls::client::Resumption::disabled();
            Ok::<_, String>(Arc::new(config))
        };
        let configs =
            [config(&[ALPN_HTTP1])?, config(&[ALPN_H2])?, config(&[ALPN_H2, ALPN_HTTP1])?];
        Ok(OutsideTls { sni, names, roots: roots.digest, configs, bytes: config(&[])? })
    }

    /// The client side that offers these protocols.
    pub fn client(&self, offer: Offer) -> Arc<rustls::ClientConfig> {
        let [http1, http2, either] = &self.configs;
        Arc::clone(match offer {
            Offer::Http1 => http1,
            Offer::Http2 => http2,
            Offer::Either => either,
        })
    }

    /// The client side of a connection that is not HTTP: it names no protocol.
    pub fn for_bytes(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.bytes)
    }

    /// The name sent as SNI.
    pub fn name(&self) -> ServerName<'static> {
        self.sni.clone()
    }
}

/// Accepts a server that proves one of the names of its document.
#[derive(Debug)]
struct OneOf {
    names: Vec<ServerName<'static>>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name: &ServerName<'_>| {
            self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let first = verify(server_name);
        if first.is_ok() {
            return first;
        }
        self.names.iter().find_map(|name| verify(name).ok()).map_or(first, Ok)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn roots_are_read_once_for_a_snapshot_and_kept_once_while_they_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.pem"));
        let pem = authority();
        std::fs::write(&one, &pem).unwrap();
        std::fs::write(&two, &pem).unwrap();
        let mut roots = OutsideRoots::new(crate::tls::provider(&[]));
        let names = ["a.example".to_owned()];
        let first = roots.tls(&names, Some(&one)).unwrap();
        roots.tls(&names, Some(&two)).unwrap();
        let store = |roots: &OutsideRoots, file: &PathBuf| {
            Arc::clone(&roots.known.get(&Some(file.clone())).unwrap().store)
        };
        let of_first = store(&roots, &one);
        assert!(Arc::ptr_eq(&of_first, &store(&roots, &two)), "equal roots are kept once");

        std::fs::write(&one, authority()).unwrap();
        assert!(roots.tls(&names, Some(&one)).unwrap() == first, "read once for a snapshot");
        roots.again();
        assert!(roots.tls(&names, Some(&one)).unwrap() != first, "and anew for the next");
        roots.tls(&names, Some(&two)).unwrap();
        assert!(Arc::ptr_eq(&of_first, &store(&roots, &two)), "unchanged roots stay the same");

        std::fs::remove_file(&one).unwrap();
        roots.again();
        assert!(roots.tls(&names, Some(&one)).is_ok(), "the last good ones stay");
        assert!(roots.tls(&names, Some(&folder.path().join("none.pem"))).is_err());
    }
}
