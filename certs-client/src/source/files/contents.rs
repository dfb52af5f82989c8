//! The bytes of all files at one moment, and what they say.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use countersign_config::FilesKey;
use countersign_workload_id::TrustDomain;
use zeroize::Zeroizing;

use super::{Paths, TokenKey};
use crate::{
    bundle::{Bundle, TrustBundles, sha256},
    bundle_map,
    crl::Crl,
    gate::{Delivered, GateError},
    key::{KeyError, SigningKey},
    pem::{self, KeySection},
    svid,
};

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of the trust file, which may hold revocation lists.
const TRUST_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Why the files cannot be used.
#[derive(Debug)]
pub(crate) enum FileError {
    Gate(GateError),
    Read { path: PathBuf, error: io::Error },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Gate(error) => error.fmt(f),
            FileError::Read { error, .. } => error.fmt(f),
        }
    }
}

/// Where the private key stands.
enum Key {
    Beside(Zeroizing<Vec<u8>>),
    InToken,
    WithCertificate,
}

pub(super) struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Key,
    bundle: Zeroizing<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(paths: &Paths) -> Result<Contents, FileError> {
        let key = match &paths.key {
            Some(FilesKey::File(path)) => Key::Beside(read(path)?),
            Some(FilesKey::Pkcs11(_)) => Key::InToken,
            None => Key::WithCertificate,
        };
        let bundle = read_up_to(&paths.bundle, TRUST_BYTES_MAX)?;
        Ok(Contents { certificate: read(&paths.certificate)?, key, bundle })
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let key = match &self.key {
            Key::Beside(key) => sha256(key),
            Key::InToken | Key::WithCertificate => [0; 32],
        };
        sha256(&[sha256(&self.certificate), key, sha256(&self.bundle)].concat())
    }

    pub(super) fn parse(
        &self,
        token_key: &TokenKey,
    ) -> Result<(Delivered, TrustBundles), GateError> {
        let chain = pem::certificates(&self.certificate)
            .map_err(|error| GateError::Unreadable(format!("certificate file: {error}")))?;
        let leaf = chain.first().ok_or(GateError::EmptyField("the certificate file"))?;
        let own = svid::claimed_id(leaf)?.trust_domain().clone();
        let key = match &self.key {
            Key::Beside(key) => signing_key(key)?,
            Key::InToken => token_key.of(leaf)?,
            Key::WithCertificate => signing_key(&self.certificate)?,
        };
        let bundles = trust(&self.bundle, own)?;
        let crls = Crl::from_pem(&self.bundle)
            .map_err(|error| GateError::Unreadable(format!("trust file: {error}")))?;
        Ok((Delivered { chain, key, crls }, bundles))
    }
}

/// The first private key of a PEM text.
///
/// # Errors
/// When there is none, or none that can be used; the text names the fix.
pub fn signing_key(text: &[u8]) -> Result<SigningKey, GateError> {
    let section = pem::private_key(text)
        .map_err(|error| GateError::Unreadable(format!("key file: {error}")))?;
    match section {
        Some(KeySection::Pkcs8(der)) => Ok(SigningKey::from_pkcs8(&der)?),
        Some(KeySection::Sec1(der)) => Ok(SigningKey::from_sec1(&der)?),
        Some(KeySection::Other(found)) => Err(KeyError::NotPkcs8 { found }.into()),
        None => Err(GateError::EmptyField("the private key")),
    }
}

/// A trust file is a SPIFFE bundle map (JSON) or PEM authorities of our own trust domain, with
/// their revocation lists if there are any.
///
/// Order and repetition mean nothing (kubelet merges and reorders), so they are taken out: the same
/// authorities in another order are no change.
///
/// # Errors
/// When it holds anything but authorities, or none.
pub fn trust(text: &[u8], own: TrustDomain) -> Result<TrustBundles, GateError> {
    let is_json = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_json {
        return Ok(bundle_map::parse(text)?);
    }
    let mut authorities = Bundle::from_pem(text)?.certificates().to_vec();
    authorities.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
    authorities.dedup();
    Ok(TrustBundles::from_iter([(own, Bundle::from_certificates(authorities)?)]))
}

pub(super) fn read(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_up_to(path.as_ref(), FILE_BYTES_MAX)
}

fn read_up_to(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |error| FileError::Read { path: path.to_owned(), error };
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    let file = File::open(path).map_err(failed)?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(failed(io::Error::other(format!("larger than {bytes_max} bytes"))));
    }
    Ok(bytes)
}
