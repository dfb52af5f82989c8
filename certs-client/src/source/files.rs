//! PEM files that somebody else writes and renews (projected volumes, spiffe-helper, cert-manager).
//!
//! The contents are read once a second, so every way of replacing a file is seen: writing over it,
//! renaming, swapping the symlink of a projected volume. Key and certificate that do not fit are
//! read again for two seconds before they count as an error, because a writer of two files cannot
//! replace both at once. A failing read keeps what we have.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_workload_id::TrustDomain;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::publish::{Failed, Publisher};
use crate::{
    bundle::{Bundle, TrustBundles, sha256},
    bundle_map,
    gate::{Delivered, GateError},
    key::{KeyError, SigningKey},
    pem::{self, KeySection},
    status::NextTry,
    svid,
};

/// Time between two looks at the files.
const POLL: Duration = Duration::from_secs(1);
/// Time between two looks while a rotation seems to be under way.
const POLL_TORN: Duration = Duration::from_millis(200);
/// How long files that do not fit together are taken for a rotation under way.
const TORN_MAX: Duration = Duration::from_secs(2);
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Which files.
pub(crate) struct Paths {
    pub(crate) certificate: PathBuf,
    pub(crate) key: Option<PathBuf>,
    pub(crate) bundle: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug)]
enum FileError {
    Gate(GateError),
    Read { path: PathBuf, error: io::Error },
}

/// Watches the files for as long as the process lives.
pub(super) async fn run(publisher: &Publisher, paths: &Paths) {
    let mut accepted: Option<[u8; 32]> = None;
    let mut failing: Option<Failing> = None;
    loop {
        match take(publisher, paths, accepted) {
            Ok(digest) => {
                accepted = Some(digest);
                failing = None;
            }
            Err(error) => {
                let failing = failing.get_or_insert_with(Failing::start);
                failing.report_once(publisher, paths, &error);
            }
        }
        sleep(failing.as_ref().map_or(POLL, Failing::poll)).await;
    }
}

/// A series of failures without a success between them.
struct Failing {
    since: Instant,
    reported: Option<String>,
}

impl Failing {
    fn start() -> Failing {
        Failing { since: Instant::now(), reported: None }
    }

    fn is_torn(&self) -> bool {
        self.since.elapsed() < TORN_MAX
    }

    fn poll(&self) -> Duration {
        if self.is_torn() { POLL_TORN } else { POLL }
    }

    fn report_once(&mut self, publisher: &Publisher, paths: &Paths, error: &FileError) {
        let (path, answer) = match error {
            FileError::Gate(error) => (&paths.certificate, error.to_string()),
            FileError::Read { path, error } => (path, error.to_string()),
        };
        let said = format!("{}: {answer}", path.display());
        if self.is_torn() || self.reported.as_ref() == Some(&said) {
            return;
        }
        self.reported = Some(said);
        let authority = path.display().to_string();
        let failed = Failed {
            authority: &authority,
            call: "read",
            answer,
            hint: hint(error).map(Cow::Borrowed),
        };
        publisher.failed(failed, NextTry::OnChange);
    }
}

/// Reads the files and hands them over, unless they are the ones that were accepted last.
fn take(
    publisher: &Publisher,
    paths: &Paths,
    accepted: Option<[u8; 32]>,
) -> Result<[u8; 32], FileError> {
    let contents = Contents::read(paths)?;
    let digest = contents.digest();
    if accepted == Some(digest) {
        return Ok(digest);
    }
    let (delivered, bundles) = contents.parse().map_err(FileError::Gate)?;
    publisher.deliver(delivered, bundles).map_err(FileError::Gate)?;
    Ok(digest)
}

/// The bytes of all files at one moment.
struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Option<Zeroizing<Vec<u8>>>,
    bundle: Zeroizing<Vec<u8>>,
}

impl Contents {
    fn read(paths: &Paths) -> Result<Contents, FileError> {
        Ok(Contents {
            certificate: read(&paths.certificate)?,
            key: paths.key.as_deref().map(read).transpose()?,
            bundle: read(&paths.bundle)?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let key = self.key.as_ref().map(|key| sha256(key)).unwrap_or_default();
        sha256(&[sha256(&self.certificate), key, sha256(&self.bundle)].concat())
    }

    fn parse(&self) -> Result<(Delivered, TrustBundles), GateError> {
        let chain = pem::certificates(&self.certificate)
            .map_err(|error| GateError::Unreadable(format!("certificate file: {error}")))?;
        let leaf = chain.first().ok_or(GateError::EmptyField("the certificate file"))?;
        let own = svid::claimed_id(leaf)?.trust_domain().clone();
        let key = signing_key(self.key.as_ref().unwrap_or(&self.certificate))?;
        let bundles = trust(&self.bundle, own)?;
        Ok((Delivered { chain, key, crls: Vec::new() }, bundles))
    }
}

fn signing_key(text: &[u8]) -> Result<SigningKey, GateError> {
    let section = pem::private_key(text)
        .map_err(|error| GateError::Unreadable(format!("key file: {error}")))?;
    match section {
        Some(KeySection::Pkcs8(der)) => Ok(SigningKey::from_pkcs8(&der)?),
        Some(KeySection::Other(found)) => Err(KeyError::NotPkcs8 { found }.into()),
        None => Err(GateError::EmptyField("the private key")),
    }
}

/// A trust file is a SPIFFE bundle map (JSON) or PEM authorities of our own trust domain.
fn trust(text: &[u8], own: TrustDomain) -> Result<TrustBundles, GateError> {
    let is_json = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_json {
        return Ok(bundle_map::parse(text)?);
    }
    Ok(TrustBundles::from_iter([(own, Bundle::from_pem(text)?)]))
}

fn read(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let path = path.as_ref();
    let failed = |error| FileError::Read { path: path.to_owned(), error };
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

fn hint(error: &FileError) -> Option<&'static str> {
    match error {
        FileError::Read { error, .. } => match error.kind() {
            io::ErrorKind::NotFound => Some("is the volume mounted, and has its writer run?"),
            io::ErrorKind::PermissionDenied => Some("check owner and mode of the file"),
            _ => None,
        },
        FileError::Gate(GateError::KeyMismatch) => {
            Some("do both files come from the same issuance?")
        }
        FileError::Gate(_) => None,
    }
}
