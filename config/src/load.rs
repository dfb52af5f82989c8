//! The only reader of disk and environment: opens what a user wrote, hands the texts on.
//! A file that cannot be read is a problem like any other, reported with the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_policy::yaml::{self, Findings};
use countersign_policy::{Diagnostic, Documents, Excerpt, Pace, Problems, Severity, Source};

use crate::identity::KubernetesApi;
use crate::limits::POLICY_BYTES_MAX;
use crate::proxy::ProxyConfig;
use crate::read::{self, Written};
use crate::signer::SignerConfig;
use crate::{check, env};

/// Folders below a documents folder that are still read.
const FOLDERS_DEEP_MAX: usize = 8;

/// A file that was read.
struct Text {
    name: String,
    text: String,
}

impl ProxyConfig {
    /// Reads a `ProxyConfig` and every document it names; all problems of all files at once.
    /// Warnings are in `documents.warnings`.
    pub fn load(path: &Path) -> Result<(ProxyConfig, Documents), Problems> {
        ProxyConfig::load_paced(path, Pace::default())
    }

    fn load_paced(path: &Path, pace: Pace<'_>) -> Result<(ProxyConfig, Documents), Problems> {
        let file = read_file(path)?;
        let sources = [Source { name: &file.name, text: &file.text }];
        let mut findings = Findings::new(&sources);
        let nodes = yaml::documents(&mut findings, 0);
        let written = read::proxy_config(path, &nodes, &environment(), &mut findings);
        check::alone(&written, &mut findings);
        let loaded = documents_of(&written, &mut findings, pace);
        let mut documents = match loaded {
            Ok(documents) => documents,
            Err(Problems(found)) => return Err(refused(findings, found)),
        };
        check::against(&written, &documents, &mut findings);
        match findings.finish() {
            Ok(warnings) => documents.warnings.extend(warnings),
            Err(Problems(found)) => return Err(Problems(found)),
        }
        let config =
            written.config.ok_or_else(|| unreadable(path, "nothing was read".to_owned()))?;
        Ok((config, documents))
    }

    /// Reads a `ProxyConfig` and none of the documents it names: for those who tell a running proxy
    /// something, whatever became of its documents since.
    pub fn load_alone(path: &Path) -> Result<ProxyConfig, Problems> {
        let file = read_file(path)?;
        let sources = [Source { name: &file.name, text: &file.text }];
        let mut findings = Findings::new(&sources);
        let nodes = yaml::documents(&mut findings, 0);
        let written = read::proxy_config(path, &nodes, &environment(), &mut findings);
        findings.finish()?;
        written.config.ok_or_else(|| unreadable(path, "nothing was read".to_owned()))
    }

    /// Reads the documents again with every check [`ProxyConfig::load`] makes, so that what a
    /// route or listener refers to cannot vanish unnoticed. Changes of the process's own fields
    /// are not taken over: they need a restart. `pace` is called between two steps of reading.
    pub fn reload_documents(&self, pace: Pace<'_>) -> Result<Documents, Problems> {
        ProxyConfig::load_paced(&self.file, pace).map(|(_, documents)| documents)
    }
}

impl SignerConfig {
    /// Reads a `SignerConfig` and the documents it names; all problems of all files at once.
    pub fn load(path: &Path) -> Result<(SignerConfig, Option<Documents>), Problems> {
        let file = read_file(path)?;
        let sources = [Source { name: &file.name, text: &file.text }];
        let mut findings = Findings::new(&sources);
        let nodes = yaml::documents(&mut findings, 0);
        let written = read::signer_config(path, &nodes, &environment(), &mut findings);
        findings.finish()?;
        let config = written.ok_or_else(|| unreadable(path, "nothing was read".to_owned()))?;
        let documents = match config.documents.as_slice() {
            [] => None,
            paths => Some(load_documents(paths)?),
        };
        Ok((config, documents))
    }
}

fn environment() -> read::Environment {
    read::Environment {
        spiffe_socket: env::SPIFFE_ENDPOINT_SOCKET.get(),
        pod_ips: env::COUNTERSIGN_POD_IPS.get(),
        kubernetes: KubernetesApi::server_of_this_pod(),
    }
}

/// Reads policy documents from files and folders; all problems of all files at once.
pub fn load_documents(paths: &[PathBuf]) -> Result<Documents, Problems> {
    load_documents_paced(paths, Pace::default())
}

fn load_documents_paced(paths: &[PathBuf], pace: Pace<'_>) -> Result<Documents, Problems> {
    let (texts, problems) = read_all(paths);
    load_texts(&texts, problems, pace)
}

/// Every document file behind a list of files and folders, sorted inside each folder: what to
/// watch for changes.
pub fn document_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problems> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        if let Err(Problems(found)) = expand(path, 0, &mut files) {
            problems.extend(found);
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(Problems(problems)) }
}

/// Checks files of any kind, as `countersign check` does: each `ProxyConfig` and `SignerConfig` with the
/// documents it names, all other files together as one set. Gives the warnings.
pub fn check_files(paths: &[PathBuf]) -> Result<Vec<Diagnostic>, Problems> {
    let (mut texts, mut problems) = read_all(paths);
    let (mut warnings, mut processes, mut signers) = (Vec::new(), Vec::new(), Vec::new());
    texts.retain(|text| {
        let [is_process, is_signer] = says(text, [read::is_proxy_config, read::is_signer_config]);
        if is_process {
            processes.push(PathBuf::from(&text.name));
        } else if is_signer {
            signers.push(PathBuf::from(&text.name));
        }
        !is_process && !is_signer
    });
    for signer in &signers {
        match SignerConfig::load(signer) {
            Ok((_, documents)) => warnings.extend(documents.into_iter().flat_map(|d| d.warnings)),
            Err(Problems(found)) => problems.extend(found),
        }
    }
    for process in &processes {
        match ProxyConfig::load(process) {
            Ok((_, documents)) => warnings.extend(documents.warnings),
            Err(Problems(found)) => problems.extend(found),
        }
    }
    if !texts.is_empty() {
        match load_texts(&texts, Vec::new(), Pace::default()) {
            Ok(documents) => warnings.extend(documents.warnings),
            Err(Problems(found)) => problems.extend(found),
        }
    }
    sort(&mut problems);
    sort(&mut warnings);
    if problems.iter().any(|p| p.severity == Severity::Error) {
        return Err(Problems(problems));
    }
    warnings.extend(problems);
    Ok(warnings)
}

/// The documents a `ProxyConfig` names; a path that leads nowhere is reported where it is written.
fn documents_of(
    written: &Written,
    findings: &mut Findings<'_>,
    pace: Pace<'_>,
) -> Result<Documents, Problems> {
    let mut files = Vec::new();
    for (path, span) in &written.places.documents {
        if let Err(Problems(found)) = expand(path, 0, &mut files) {
            for problem in found {
                findings.error("P001", *span, problem.message);
            }
        }
    }
    if findings.has_errors() && files.is_empty() {
        return Err(Problems(Vec::new()));
    }
    load_documents_paced(&files, pace)
}

fn load_texts(
    texts: &[Text],
    mut problems: Vec<Diagnostic>,
    pace: Pace<'_>,
) -> Result<Documents, Problems> {
    let sources: Vec<Source<'_>> =
        texts.iter().map(|text| Source { name: &text.name, text: &text.text }).collect();
    let total: usize = texts.iter().map(|text| text.text.len()).sum();
    if total > POLICY_BYTES_MAX {
        let name = texts.last().map_or("", |text| text.name.as_str());
        problems.extend(
            unreadable(
                Path::new(name),
                format!(
                    "all documents together have {total} bytes, the limit is {POLICY_BYTES_MAX}"
                ),
            )
            .0,
        );
        return Err(Problems(problems));
    }
    match countersign_policy::load_paced(&sources, pace) {
        Ok(documents) if problems.is_empty() => Ok(documents),
        Ok(_) => Err(Problems(problems)),
        Err(Problems(found)) => {
            problems.extend(found);
            sort(&mut problems);
            Err(Problems(problems))
        }
    }
}

fn read_all(paths: &[PathBuf]) -> (Vec<Text>, Vec<Diagnostic>) {
    let (mut files, mut texts, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        if let Err(Problems(found)) = expand(path, 0, &mut files) {
            problems.extend(found);
        }
    }
    for file in &files {
        match read_file(file) {
            Ok(text) => texts.push(text),
            Err(Problems(found)) => problems.extend(found),
        }
    }
    (texts, problems)
}

/// A file is itself; a folder is every YAML file in it, hidden ones (Kubernetes' `..data`) left
/// out, because their files are reached through the visible links.
fn expand(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Problems> {
    let facts = std::fs::metadata(path).map_err(|error| unreadable(path, reason(path, &error)))?;
    if !facts.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    if depth > FOLDERS_DEEP_MAX {
        return Err(unreadable(path, format!("more than {FOLDERS_DEEP_MAX} folders deep")));
    }
    let listed = std::fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut entries = listed.map_err(|error| unreadable(path, reason(path, &error)))?;
    entries.retain(|entry| !file_name(entry).starts_with('.'));
    entries.sort();
    for entry in entries {
        let name = file_name(&entry);
        if entry.is_dir() || name.ends_with(".yaml") || name.ends_with(".yml") {
            expand(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_file(path: &Path) -> Result<Text, Problems> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, reason(path, &error)))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable(path, "the file is not UTF-8".to_owned()))?;
    Ok(Text { name: path.display().to_string(), text })
}

fn reason(path: &Path, error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist",
        std::io::ErrorKind::PermissionDenied => "may not be read by this user",
        _ => return format!("`{}` cannot be read: {error}", path.display()),
    };
    format!("`{}` {what}", path.display())
}

fn unreadable(path: &Path, message: String) -> Problems {
    Problems(vec![Diagnostic {
        code: "P001",
        severity: Severity::Error,
        file: Arc::from(path.display().to_string()),
        line: 1,
        column: 1,
        span: 0..0,
        message,
        hint: None,
        excerpt: Excerpt::default(),
    }])
}

/// Of which of these kinds any of its documents is.
fn says<const N: usize>(text: &Text, kinds: [fn(&yaml::Node) -> bool; N]) -> [bool; N] {
    let sources = [Source { name: &text.name, text: &text.text }];
    let mut findings = Findings::new(&sources);
    let documents = yaml::documents(&mut findings, 0);
    kinds.map(|is| documents.iter().any(is))
}

/// What was found in the `ProxyConfig`, with what was found in its documents.
fn refused(findings: Findings<'_>, mut documents: Vec<Diagnostic>) -> Problems {
    let mut all = match findings.finish() {
        Ok(warnings) => warnings,
        Err(Problems(found)) => found,
    };
    all.append(&mut documents);
    Problems(all)
}

fn sort(found: &mut Vec<Diagnostic>) {
    found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    found.dedup();
}
