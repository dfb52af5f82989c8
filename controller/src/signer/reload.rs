//! What changes while the signer runs: the authority's files and the `Revocation` documents.
//!
//! Invariant: what does not parse changes nothing and is said; the last good state stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_config::{SignerConfig, document_files, load_documents};
use countersign_policy::Revocations;
use tracing::{error, info};

use super::authority::Authority;

/// SHA-256.
type Content = Vec<u8>;

/// The state in force, and what it was read from.
pub(crate) struct Watched {
    config: SignerConfig,
    authority: Arc<Authority>,
    authority_bytes: Vec<Option<Content>>,
    revocations: Arc<Revocations>,
    document_bytes: Vec<(PathBuf, Option<Content>)>,
}

impl Watched {
    pub(crate) fn new(
        config: SignerConfig,
        authority: Authority,
        revocations: Revocations,
    ) -> Watched {
        Watched {
            authority_bytes: authority_bytes(&config),
            document_bytes: document_bytes(&config),
            authority: Arc::new(authority),
            revocations: Arc::new(revocations),
            config,
        }
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    pub(crate) fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Takes over what changed since the last look. Small files, once a second.
    pub(crate) fn look(&mut self) {
        let bytes = authority_bytes(&self.config);
        if bytes != self.authority_bytes {
            self.authority_bytes = bytes;
            match Authority::load(&self.config) {
                Ok(authority) => {
                    info!(not_after = authority.not_after(), "the authority changed");
                    self.authority = Arc::new(authority);
                }
                Err(problem) => error!(%problem, "the authority is not taken over"),
            }
        }
        let bytes = document_bytes(&self.config);
        if bytes != self.document_bytes {
            self.document_bytes = bytes;
            match load_documents(&self.config.documents) {
                Ok(documents) => {
                    info!("the documents changed");
                    self.revocations = Arc::new(Revocations::of(&documents));
                }
                Err(problems) => error!(%problems, "the documents are not taken over"),
            }
        }
    }
}

fn authority_bytes(config: &SignerConfig) -> Vec<Option<Content>> {
    let paths = [Some(&config.certificate), Some(&config.key), config.roots.as_ref()];
    paths.into_iter().flatten().map(|path| content(path)).collect()
}

fn document_bytes(config: &SignerConfig) -> Vec<(PathBuf, Option<Content>)> {
    let files = document_files(&config.documents).unwrap_or_default();
    files.into_iter().map(|path| (path.clone(), content(&path))).collect()
}

/// What a file holds, as a digest: a private key is not kept a second time.
fn content(path: &Path) -> Option<Content> {
    let bytes = std::fs::read(path).ok()?;
    Some(digest(&SHA256, &bytes).as_ref().to_vec())
}
