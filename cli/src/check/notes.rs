//! What somebody should know about a `ProxyConfig` that is as it may be: where its private key is
//! made, and in whose memory it is. Notes are no problems and are not counted as such.

use std::path::{Path, PathBuf};

use countersign_certs_client::key::pkcs11::Token;
use countersign_config::identity::{FilesKey, KeyPlace};
use countersign_config::pkcs11::Pkcs11Token;
use countersign_config::{IdentitySource, ProxyConfig};
use serde::Serialize;

/// A remark about a file.
#[derive(Debug, Serialize)]
pub(super) struct Note {
    pub(super) file: String,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

const MADE_ELSEWHERE: &str = "`kubernetesCsr` and `vault` make keys in the process; docs/identity/keys.md keeps them in a token";
const IN_PROCESS: &str = "a software token brings its keys into the memory of the process; with p11-kit server and \
     p11-kit-client.so they stay outside (docs/identity/keys.md)";

/// The notes about each `ProxyConfig` among the files.
pub(super) fn of(files: &[PathBuf]) -> Vec<Note> {
    let all = countersign_config::document_files(files).unwrap_or_default();
    all.iter()
        .filter_map(|file| Some(note(file, &ProxyConfig::load_alone(file).ok()?)))
        .flatten()
        .collect()
}

fn note(file: &Path, config: &ProxyConfig) -> Option<Note> {
    let (message, hint) = match (&config.identity, &config.key) {
        (IdentitySource::WorkloadApi { .. }, _) => (
            "the private key is made by the SPIFFE agent and handed to the process".to_owned(),
            MADE_ELSEWHERE,
        ),
        (IdentitySource::Files { key: Some(FilesKey::Pkcs11(key)), .. }, _) => {
            in_process(&key.token)?
        }
        (IdentitySource::Files { certificate, key, .. }, _) => {
            let holder = match key {
                Some(FilesKey::File(path)) => path,
                _ => certificate,
            };
            let message = format!("the private key is made by whoever writes {}", holder.display());
            (message, MADE_ELSEWHERE)
        }
        (_, KeyPlace::Pkcs11(token)) => in_process(token)?,
        (_, KeyPlace::Memory) => return None,
    };
    Some(Note { file: file.display().to_string(), message, hint })
}

fn in_process(token: &Pkcs11Token) -> Option<(String, &'static str)> {
    if Token::is_elsewhere(token) {
        return None;
    }
    let module = token.module.display();
    Some((format!("the PKCS#11 module {module} is loaded into the process"), IN_PROCESS))
}
