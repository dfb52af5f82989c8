//! PEM files that somebody else writes and renews: projected volumes, cert-manager, spiffe-helper.
//!
//! The contents are read once a second, so every way of replacing a file is seen: writing over it,
//! renaming, swapping the symlink of a projected volume. What changed is taken when two readings in
//! a row find it the same, because a file that is being written over can look whole and be cut off
//! between two of its sections. Key and certificate that do not fit are read again for two seconds
//! before they count as an error, because a writer of two files cannot replace both at once.
//! Invariant: a failing read, and files nobody can use, leave what we have as it is.

mod contents;
mod token_key;

use std::{borrow::Cow, io, path::PathBuf, time::Duration};

use countersign_config::FilesKey;
use tokio::time::{Instant, sleep};

pub(crate) use self::contents::FileError;
pub use self::contents::{signing_key, trust};
use self::{contents::Contents, token_key::TokenKey};
use super::publish::{Failed, Publisher};
use crate::{
    bundle::BundleError,
    gate::GateError,
    status::{NextTry, State},
    svid::SvidError,
};

/// Time between two looks at the files.
const POLL: Duration = Duration::from_secs(1);
/// Time between two looks while a change or a rotation is under way.
const POLL_TORN: Duration = Duration::from_millis(200);
/// How long files that do not fit together are taken for a rotation under way.
const TORN_MAX: Duration = Duration::from_secs(2);
/// What to do about files that nobody renews.
const WRITER_STOPPED: &str =
    "its writer (kubelet, cert-manager, spiffe-helper) has stopped: see its log";

/// Which files.
pub(crate) struct Paths {
    pub(crate) certificate: PathBuf,
    pub(crate) key: Option<FilesKey>,
    pub(crate) bundle: PathBuf,
}

/// Watches the files for as long as the process lives.
pub(super) async fn run(publisher: &Publisher, paths: &Paths) {
    let mut watch = Watch::default();
    loop {
        if let Some(FilesKey::Pkcs11(key)) = &paths.key {
            watch.token_key.look_up(key, &paths.certificate).await;
        }
        watch.look(publisher, paths);
        sleep(watch.pause()).await;
    }
}

/// What is remembered between two looks.
#[derive(Default)]
pub(crate) struct Watch {
    /// Digest of what was taken last.
    accepted: Option<[u8; 32]>,
    /// Digest of a change that was seen once.
    settling: Option<[u8; 32]>,
    failing: Option<Failing>,
    /// The key of the certificate, if it is in a token.
    token_key: TokenKey,
    /// The lateness that was reported last.
    alarmed: State,
}

impl Watch {
    fn look(&mut self, publisher: &Publisher, paths: &Paths) {
        match self.take(publisher, paths) {
            Ok(()) => {
                self.failing = None;
                self.report_lateness(publisher, paths);
            }
            Err(error) => {
                let failing = self.failing.get_or_insert_with(Failing::start);
                failing.report_once(publisher, paths, &error);
            }
        }
    }

    fn pause(&self) -> Duration {
        match &self.failing {
            Some(failing) => failing.poll(),
            None if self.settling.is_some() => POLL_TORN,
            None => POLL,
        }
    }

    /// Reads the files and hands them over, unless they are the ones that were taken last.
    pub(crate) fn take(&mut self, publisher: &Publisher, paths: &Paths) -> Result<(), FileError> {
        let contents = Contents::read(paths)?;
        let digest = contents.digest();
        if self.accepted == Some(digest) && publisher.has_identity() {
            self.settling = None;
            return Ok(());
        }
        // Who has nothing has nothing to lose, and waits for no second look.
        if publisher.has_identity() && self.settling.replace(digest) != Some(digest) {
            return Ok(());
        }
        let (delivered, bundles) = contents.parse(&self.token_key).map_err(FileError::Gate)?;
        publisher.deliver(delivered, bundles).map_err(FileError::Gate)?;
        let token_key = std::mem::take(&mut self.token_key);
        *self = Watch { accepted: Some(digest), token_key, ..Watch::default() };
        Ok(())
    }

    /// Files can be read and are good, but nobody renews them: their writer has stopped.
    fn report_lateness(&mut self, publisher: &Publisher, paths: &Paths) {
        let state = publisher.state();
        if !matches!(state, State::Late | State::Critical) || self.alarmed == state {
            return;
        }
        self.alarmed = state;
        let answer = match state {
            State::Critical => "the same certificate still, more than 90 % of its life is over",
            _ => "the same certificate still, more than 75 % of its life is over",
        };
        let failed = Failed {
            authority: &paths.certificate.display().to_string(),
            call: "read",
            answer: answer.to_owned(),
            hint: Some(Cow::Borrowed(WRITER_STOPPED)),
        };
        publisher.failed(failed, NextTry::OnChange);
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
        let path = match error {
            FileError::Gate(GateError::Bundle(_)) => &paths.bundle,
            FileError::Gate(GateError::Key(_)) => match &paths.key {
                Some(FilesKey::File(key)) => key,
                Some(FilesKey::Pkcs11(_)) | None => &paths.certificate,
            },
            FileError::Gate(_) => &paths.certificate,
            FileError::Read { path, .. } => path,
        };
        let answer = error.to_string();
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

fn hint(error: &FileError) -> Option<&'static str> {
    match error {
        FileError::Read { error, .. } => match error.kind() {
            io::ErrorKind::NotFound => Some("is the volume mounted, and has its writer run?"),
            io::ErrorKind::PermissionDenied => {
                Some("check owner and mode of the file (in a pod: fsGroup, defaultMode)")
            }
            _ => None,
        },
        FileError::Gate(error) => gate_hint(error),
    }
}

fn gate_hint(error: &GateError) -> Option<&'static str> {
    match error {
        GateError::KeyMismatch => Some("do both files come from the same issuance?"),
        GateError::EmptyField("the private key") => Some("name the file that holds it: files.key"),
        GateError::Bundle(BundleError::Empty) => Some(
            "cert-manager leaves ca.crt empty where the issuer does not know its authority; \
             name a trust file of your own: files.bundle",
        ),
        GateError::Svid(error) => svid_hint(error),
        _ => None,
    }
}

fn svid_hint(error: &SvidError) -> Option<&'static str> {
    match error {
        SvidError::BadSan(_) => Some("cert-manager: `uris: [spiffe://…]`, exactly one"),
        SvidError::BadEku | SvidError::BadKeyUsage(_) => {
            Some("cert-manager: `usages: [digital signature, server auth, client auth]`")
        }
        SvidError::ChainOutOfOrder | SvidError::NotALeaf => {
            Some("the file must hold the leaf first, then each issuer in order")
        }
        SvidError::Expired { .. } => Some(WRITER_STOPPED),
        SvidError::UntrustedChain(_) => {
            Some("does the trust file hold the authority that signed this certificate?")
        }
        _ => None,
    }
}
