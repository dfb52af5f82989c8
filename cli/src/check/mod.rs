//! `countersign check`: every problem of every document, without starting anything.
//!
//! The checks are those of a proxy at its start: each `ProxyConfig` with the documents it names,
//! all other files together as one set. With `--pre`, the identity source is asked as well.

mod notes;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use countersign_cli::output::{Output, print_json};
use countersign_policy::{Diagnostic, Problems, Severity};
use serde::Serialize;

use notes::Note;

/// Version of the JSON form; fields are only added.
const SCHEMA_VERSION: u8 = 1;
/// Problems shown; the rest is counted.
const SHOWN_MAX: usize = 50;

/// Arguments of `countersign check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  countersign check mesh.yaml policies/
  countersign check sidecar.yaml --deny-warnings
  countersign check mesh.yaml policies/ -o json
  countersign check sidecar.yaml --pre     (asks the identity source, too)
Exit code 1 if there are warnings and --deny-warnings is given, 2 if a document is invalid.")]
pub(crate) struct CheckArgs {
    /// Files, and folders with .yaml files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask the identity source of each ProxyConfig, too, with the login of the process: is its role
    /// as narrow as it has to be? (source `vault`)
    #[arg(long)]
    pre: bool,
    /// Treat warnings as a failed check
    #[arg(long)]
    deny_warnings: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `countersign check`.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let found = match countersign_config::check_files(&args.files) {
        Ok(mut warnings) => {
            if args.pre {
                warnings.extend(source::review(&args.files)?);
            }
            warnings
        }
        Err(Problems(problems)) => problems,
    };
    let mut report = Report::of(&found);
    report.notes = notes::of(&args.files);
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print!("{}", text(found, &report)),
    }
    Ok(match (report.errors, report.warnings) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) if args.deny_warnings => ExitCode::from(1),
        (0, _) => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

/// The JSON form.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    schema_version: u8,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
    /// What is as it may be, and worth knowing.
    notes: Vec<Note>,
}

#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    severity: &'static str,
    file: String,
    line: u32,
    column: u32,
    /// Byte range in the file.
    span: [usize; 2],
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Report {
    fn of(found: &[Diagnostic]) -> Report {
        let errors = found.iter().filter(|found| found.severity == Severity::Error).count();
        let problems = found.iter().map(|found| Problem {
            code: found.code,
            severity: found.severity.as_str(),
            file: found.file.to_string(),
            line: found.line,
            column: found.column,
            span: [found.span.start, found.span.end],
            message: found.message.clone(),
            hint: found.hint.clone(),
        });
        Report {
            schema_version: SCHEMA_VERSION,
            errors,
            warnings: found.len() - errors,
            problems: problems.collect(),
            notes: Vec::new(),
        }
    }
}

/// For people: each problem with its excerpt, then one line that counts.
fn text(mut found: Vec<Diagnostic>, report: &Report) -> String {
    let hidden = found.len().saturating_sub(SHOWN_MAX);
    found.truncate(SHOWN_MAX);
    let mut text = String::new();
    if !found.is_empty() {
        text = format!("{}\n", Problems(found));
    }
    if hidden > 0 {
        text.push_str(&format!("and {hidden} more\n"));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {}: {}\n  = {}\n", note.file, note.message, note.hint));
    }
    text.push_str(&match (report.errors, report.warnings) {
        (0, 0) => "all documents are valid\n".to_owned(),
        (0, warnings) => format!("all documents are valid; {}\n", count(warnings, "warning")),
        (errors, 0) => format!("{}\n", count(errors, "error")),
        (errors, warnings) => {
            format!("{}, {}\n", count(errors, "error"), count(warnings, "warning"))
        }
    });
    text
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, content: &str) -> (ExitCode, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        checked(file)
    }

    #[test]
    fn an_invalid_document_is_named_with_its_place() {
        let (code, text) = check("broken.yaml", "kind: MeshConfig\nspec: [\n");
        assert_eq!(code, ExitCode::from(2));
        assert!(text.contains("broken.yaml:"), "{text}");
        assert!(text.lines().last().unwrap().contains("error"), "{text}");
    }

    /// What is said about a `ProxyConfig` that gets its identity like this.
    fn process(identity: &str) -> (ExitCode, String) {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        put("mesh.yaml", include_str!("../../../policy/cases/mesh.yaml"));
        let config = format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: ProxyConfig\nspec:\n  \
             identity: {identity}\n  namespace: shop\n  \
             listeners: {{outbound: [{{address: \"127.0.0.1:7001\"}}]}}\n  \
             documents: {{files: [mesh.yaml]}}\n"
        );
        checked(put("sidecar.yaml", &config))
    }

    fn checked(file: PathBuf) -> (ExitCode, String) {
        let args =
            CheckArgs { files: vec![file], pre: false, deny_warnings: true, output: Output::Json };
        let found = match countersign_config::check_files(&args.files) {
            Ok(found) | Err(Problems(found)) => found,
        };
        let mut report = Report::of(&found);
        report.notes = notes::of(&args.files);
        (run(&args).unwrap(), text(found, &report))
    }

    #[test]
    fn keys_from_elsewhere_are_noted_and_are_no_problem() {
        let files = |key: &str| {
            format!("{{source: {{files: {{certificate: /c.pem, {key}bundle: /b.pem}}}}}}")
        };
        let token = |module: &str| {
            files(&format!("key: \"pkcs11:token=mesh;object=orders?module-path={module}\", "))
        };
        let api = "{source: {workloadApi: {socket: api.sock}}}";
        let noted = [
            (api.to_owned(), "made by the SPIFFE agent"),
            (files(""), "made by whoever writes /c.pem"),
            (files("key: /k.pem, "), "made by whoever writes /k.pem"),
            (token("/usr/lib/softhsm/libsofthsm2.so"), "libsofthsm2.so is loaded into the process"),
        ];
        for (identity, words) in noted {
            let (code, text) = process(&identity);
            assert!(text.contains("note: ") && text.contains(words), "{text}");
            assert!(text.ends_with("all documents are valid\n"), "{text}");
            assert_eq!(code, ExitCode::SUCCESS);
        }
        let (_, text) = process(&token("/usr/lib/p11-kit-client.so"));
        assert_eq!(text, "all documents are valid\n");
    }

    #[test]
    fn a_missing_file_is_a_problem_like_any_other() {
        let args = CheckArgs {
            files: vec!["/nowhere/mesh.yaml".into()],
            pre: false,
            deny_warnings: true,
            output: Output::Text,
        };
        assert_eq!(run(&args).unwrap(), ExitCode::from(2));
    }
}
