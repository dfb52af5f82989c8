//! Where a certificate is: a file, a folder, a Workload API socket or a live peer.
//!
//! Invariant: what is found is what is there, good or not; only what cannot be looked at at all is
//! an error. Sockets are asked as the proxy asks them.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use countersign_certs_client::{
    CertSource, Certs, CertsHandle, SigningKey, TrustBundles,
    source::{
        self, files,
        workload_api::{Endpoint, JwtKeys},
    },
    svid,
};
use countersign_workload_id::{IdPattern, WorkloadId};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::peer::{self, PeerArgs, PeerFacts};

/// Bytes of a file we look at.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a socket may take to hand out an identity.
const SOCKET_MAX: Duration = Duration::from_secs(5);

/// File names in a folder: certificate, key, trust; and who writes them.
const LAYOUTS: [(&str, Option<&str>, &str, &str); 5] = [
    ("tls.crt", Some("tls.key"), "ca.crt", "a Secret, or a CSI driver of cert-manager"),
    ("cert-chain.pem", Some("key.pem"), "root-cert.pem", "Istio's agent"),
    ("svid.pem", Some("svid_key.pem"), "svid_bundle.pem", "spiffe-helper"),
    ("identity.pem", None, "trust.pem", "PodCertificate and ClusterTrustBundle projections"),
    ("credentialbundle.pem", None, "trustbundle.pem", "PodCertificate projections"),
];

/// What the user named.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    File(PathBuf),
    Folder(PathBuf),
    /// A host and a port.
    Peer(String, u16),
    Socket(Endpoint),
}

impl Place {
    /// Tells by what is there: whatever exists as a path is one.
    pub(super) fn parse(text: &str) -> anyhow::Result<Place> {
        if text.contains("://") {
            return Ok(Place::Socket(text.parse()?));
        }
        if let Ok(metadata) = fs::metadata(text) {
            let path = PathBuf::from(text);
            return match metadata.file_type() {
                kind if kind.is_socket() => {
                    let path = std::path::absolute(path).context("no folder to start from")?;
                    Ok(Place::Socket(Endpoint::Unix(path)))
                }
                kind if kind.is_dir() => Ok(Place::Folder(path)),
                _ => Ok(Place::File(path)),
            };
        }
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if !host.is_empty() && !host.contains('/') => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Ok(Place::Peer(host.to_owned(), port))
            }
            _ => Ok(Place::File(PathBuf::from(text))),
        }
    }
}

/// What to look at it with.
pub(super) struct Options {
    key: Option<PathBuf>,
    trust: Option<PathBuf>,
    pub(super) expect: Option<IdPattern>,
    present: Option<Place>,
    peer: PeerArgs,
}

impl Options {
    pub(super) fn new(
        key: Option<PathBuf>,
        trust: Option<PathBuf>,
        expect: Option<&str>,
        peer: &PeerArgs,
    ) -> anyhow::Result<Options> {
        let expect = expect.map(IdPattern::parse).transpose().context("--expect")?;
        let present = peer.present.as_deref().map(Place::parse).transpose().context("--present")?;
        Ok(Options { key, trust, expect, present, peer: peer.clone() })
    }
}

/// The private key that was found, or what is wrong with it.
pub(super) type Key = Result<SigningKey, String>;

/// What is there.
pub(super) struct Found {
    /// The place in words.
    pub(super) source: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Option<Key>,
    /// Who may vouch for it, and where that came from.
    pub(super) trust: Option<(TrustBundles, String)>,
    /// What is wrong with the trust file.
    pub(super) bad_trust: Option<String>,
    pub(super) peer: Option<PeerFacts>,
    /// Set where the place is a folder: how a proxy is configured for it.
    pub(super) config: Option<String>,
}

impl Found {
    fn new(source: String, chain: Vec<CertificateDer<'static>>) -> Found {
        Found { source, chain, key: None, trust: None, bad_trust: None, peer: None, config: None }
    }

    /// Whether there are only authorities in it.
    pub(super) fn is_bundle(&self) -> bool {
        self.chain.iter().all(|certificate| {
            X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
        })
    }
}

/// Looks once.
pub(super) async fn look(place: &Place, options: &Options) -> anyhow::Result<Found> {
    let found = match place {
        Place::File(path) => file(path, options.key.as_deref())?,
        Place::Folder(path) => folder(path)?,
        Place::Socket(endpoint) => {
            let handle = ask(endpoint);
            let certs = identity(&handle).await?;
            from_certs(endpoint, &certs)?
        }
        Place::Peer(host, port) => {
            let present = match &options.present {
                None => None,
                Some(place) => Some(credentials(place, options).await?),
            };
            let seen = peer::ask(host, *port, present, &options.peer).await?;
            let mut found = Found::new(format!("{host}:{port}"), seen.chain);
            found.peer = Some(seen.facts);
            found
        }
    };
    match &options.trust {
        Some(path) => with_trust(found, path),
        None => Ok(found),
    }
}

/// The identity to present to a peer.
async fn credentials(place: &Place, options: &Options) -> anyhow::Result<Arc<CertifiedKey>> {
    let found = match place {
        Place::File(path) => file(path, options.peer.present_key.as_deref())?,
        Place::Folder(path) => folder(path)?,
        Place::Socket(endpoint) => {
            let certs = identity(&ask(endpoint)).await?;
            let identity =
                certs.identity.as_ref().context("the authority has no identity for us")?;
            return Ok(identity.to_rustls());
        }
        Place::Peer(..) => bail!("--present names a file, a folder or a socket"),
    };
    match found.key {
        Some(Ok(key)) => Ok(Arc::new(CertifiedKey::new(found.chain, key.to_rustls()))),
        Some(Err(problem)) => bail!("--present: {problem}"),
        None => bail!("--present: there is no private key in {}; --present-key", found.source),
    }
}

fn file(path: &Path, key: Option<&Path>) -> anyhow::Result<Found> {
    let bytes = read(path)?;
    let chain = certificates(&bytes).with_context(|| path.display().to_string())?;
    let mut found = Found::new(path.display().to_string(), chain);
    found.key = match key {
        Some(path) => Some(signing_key(&read(path)?)),
        None if holds_key(&bytes) => Some(signing_key(&bytes)),
        None => None,
    };
    Ok(found)
}

fn folder(path: &Path) -> anyhow::Result<Found> {
    let (certificate, key, trust, writer) = LAYOUTS
        .into_iter()
        .find(|(certificate, ..)| path.join(certificate).exists())
        .with_context(|| {
            let names: Vec<&str> = LAYOUTS.iter().map(|layout| layout.0).collect();
            format!("{}: none of {} is in it; name the file", path.display(), names.join(", "))
        })?;
    let mut found = file(&path.join(certificate), key.map(|name| path.join(name)).as_deref())?;
    let full = |name: &str| path.join(name).display().to_string();
    let key = key.map(|name| format!(", key: {}", full(name))).unwrap_or_default();
    found.config = Some(format!(
        "identity: {{source: {{files: {{certificate: {}{key}, bundle: {}}}}}}}",
        full(certificate),
        full(trust),
    ));
    found.source = format!("{} ({writer})", full(certificate));
    with_trust(found, &path.join(trust))
}

fn with_trust(mut found: Found, path: &Path) -> anyhow::Result<Found> {
    let text = read(path)?;
    let own = found.chain.first().and_then(|leaf| svid::claimed_id(leaf).ok());
    let Some(own) = own else { return Ok(found) };
    // Authorities in DER are read as those in PEM.
    let bundles = match files::trust(&text, own.trust_domain().clone()) {
        Err(error) => match certificates(&text).and_then(|found| Ok(bundle(found, &own)?)) {
            Ok(bundles) => Ok(bundles),
            Err(_) => Err(error),
        },
        good => good,
    };
    match bundles {
        Ok(bundles) => found.trust = Some((bundles, path.display().to_string())),
        Err(error) => found.bad_trust = Some(format!("{}: {error}", path.display())),
    }
    Ok(found)
}

fn bundle(
    authorities: Vec<CertificateDer<'static>>,
    own: &WorkloadId,
) -> Result<TrustBundles, countersign_certs_client::BundleError> {
    let bundle = countersign_certs_client::Bundle::from_certificates(authorities)?;
    Ok(TrustBundles::from_iter([(own.trust_domain().clone(), bundle)]))
}

/// Follows a socket as the proxy does.
pub(super) fn ask(endpoint: &Endpoint) -> CertsHandle {
    let endpoint = endpoint.clone();
    let source = CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore };
    source::spawn(source, None, Arc::new(unix_now_ms))
}

/// The first identity of a socket; what the proxy would discard is an error here.
async fn identity(handle: &CertsHandle) -> anyhow::Result<Arc<Certs>> {
    let (mut certs, mut status) = (handle.certs(), handle.status());
    let received = async {
        loop {
            let failure = status.borrow_and_update().last_failure.clone();
            let now = Arc::clone(&certs.borrow_and_update());
            match failure {
                _ if now.identity.is_some() => return Ok(now),
                Some(failure) => {
                    let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                    bail!("{} of {}: {}{hint}", failure.call, failure.authority, failure.answer)
                }
                None => {}
            }
            tokio::select! {
                changed = certs.changed() => changed?,
                changed = status.changed() => changed?,
            }
        }
    };
    tokio::time::timeout(SOCKET_MAX, received).await.context("no identity came in time")?
}

/// What a socket has delivered; it passed the proxy's own checks.
pub(super) fn from_certs(endpoint: &Endpoint, certs: &Certs) -> anyhow::Result<Found> {
    let identity = certs.identity.as_ref().context("the authority has no identity for us")?;
    let mut found = Found::new(endpoint.to_string(), identity.chain_der.clone());
    let domains: Vec<&str> = certs.bundles.domains().map(|domain| domain.as_str()).collect();
    let from = format!("the authorities it delivered (for {})", domains.join(", "));
    found.trust = Some((TrustBundles::clone(&certs.bundles), from));
    Ok(found)
}

fn holds_key(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ") && line.trim_ascii_end().ends_with(b"PRIVATE KEY-----")
    })
}

fn signing_key(bytes: &[u8]) -> Key {
    files::signing_key(bytes).map_err(|error| error.to_string())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
}

/// PEM sections, or else certificates in DER one after the other.
fn certificates(bytes: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let from_pem = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    match from_pem {
        Ok(found) if !found.is_empty() => return Ok(found),
        Err(_) => bail!("a PEM section is cut off or damaged"),
        Ok(_) => {}
    }
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((after, _)) = X509Certificate::from_der(rest) else {
            bail!("neither PEM nor DER certificates");
        };
        let length = rest.len() - after.len();
        found.push(CertificateDer::from(rest[..length].to_vec()));
        rest = after;
    }
    if found.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(found)
}

pub(super) fn unix_now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default()
}
