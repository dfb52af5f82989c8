//! The house rules a program can watch. Each rule is one function from the files of the repository
//! to complaints; all complaints of all rules are printed at once.
//! A rule that is wrong for a file has a list of exceptions with the reason beside each
//! (`allow_long.txt`, `allow_unsafe.txt`); an exception no longer needed is a complaint too.

mod crates;
mod links;
mod refusals;
mod sources;

use anyhow::{Result, bail};

use crate::repo::{self, SourceFile};

type Rule = fn(&[SourceFile]) -> Vec<String>;

/// Every rule, by the name shown in front of its complaints.
const RULES: &[(&str, Rule)] = &[
    ("module docs", sources::module_docs),
    ("file length", sources::length),
    ("names", sources::names),
    ("unsafe", sources::unsafe_code),
    ("clock", sources::clock),
    ("manifests", crates::manifests),
    ("anyhow", crates::anyhow),
    ("limits", crates::limits_are_read),
    ("refusals", refusals::each_has_a_test),
    ("links", links::resolve),
];

/// Runs every rule.
pub(crate) fn run() -> Result<()> {
    let files = repo::files()?;
    let mut complaints = Vec::new();
    for (name, rule) in RULES {
        complaints.extend(rule(&files).into_iter().map(|text| format!("{name}: {text}")));
    }
    if complaints.is_empty() {
        println!("tidy: {} rules, {} files", RULES.len(), files.len());
        return Ok(());
    }
    bail!("{} complaints\n  {}", complaints.len(), complaints.join("\n  "))
}

/// Crates whose code runs in a user's mesh.
const PRODUCT: &[&str] =
    &["workload-id", "ctxtoken", "policy", "config", "certs-client", "controller", "proxy", "cli"];

/// The crate folder a path is in, if the crate is a product crate.
fn product_crate(path: &str) -> Option<&str> {
    let folder = path.split('/').next()?;
    PRODUCT.contains(&folder).then_some(folder)
}

/// Whether a Rust file holds nothing but tests.
fn is_test_file(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    path.contains("/tests/") || stem == "tests" || stem.ends_with("_tests")
}

/// The text of a file up to its tests, which stand last.
fn before_tests(text: &str) -> &str {
    match text.find("\n#[cfg(test)]\nmod tests {") {
        Some(end) => text.get(..end).unwrap_or(text),
        None => text,
    }
}

#[cfg(test)]
pub(super) fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}
