//! `countersign check --pre`: what the identity source of a process says, asked with the login of
//! that process. What cannot be asked is a warning, because the documents are as good as before.

use std::path::{Path, PathBuf};

use countersign_certs_client::source::vault;
use countersign_config::identity::VaultSource;
use countersign_config::{IdentitySource, ProxyConfig};
use countersign_policy::{Diagnostic, Excerpt, Severity};
use countersign_workload_id::WorkloadId;

/// The check in the table of `docs/identity/vault.md`: a role signs one name.
const CODE: &str = "C405";

/// Asks for every `ProxyConfig` among the files whose source can be asked.
pub(super) fn review(files: &[PathBuf]) -> anyhow::Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for file in files {
        // What is no `ProxyConfig` was checked as what it is.
        let Ok((config, _)) = ProxyConfig::load(file) else { continue };
        if let (IdentitySource::Vault(role), Some(id)) = (&config.identity, &config.expected_id) {
            found.extend(vault_role(file, role, id)?);
        }
    }
    Ok(found)
}

fn vault_role(file: &Path, role: &VaultSource, id: &WorkloadId) -> anyhow::Result<Vec<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = match runtime.block_on(vault::review(role, id)) {
        Ok(findings) => {
            findings.into_iter().map(|found| (found.message, Some(found.hint))).collect()
        }
        Err(error) => {
            let hint = error.hint.clone().map(String::from);
            vec![(format!("{} was not asked: {error}", role.address), hint)]
        }
    };
    let text = std::fs::read_to_string(file)?;
    Ok(findings.into_iter().map(|found| at_role(file, &text, found)).collect())
}

/// A warning at the line that names the source.
fn at_role(file: &Path, text: &str, (message, hint): (String, Option<String>)) -> Diagnostic {
    let start = text.find("vault").unwrap_or(0);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
    Diagnostic {
        code: CODE,
        severity: Severity::Warning,
        file: file.display().to_string().into(),
        line: number(before.matches('\n').count()),
        column: number(start - line_start),
        span: start..start.saturating_add("vault".len()),
        message,
        hint,
        excerpt: Excerpt::at(text, start),
    }
}
