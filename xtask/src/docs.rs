//! The generated pages of `docs/`: written by `cargo xtask docs`, compared in CI.
//! Each page is made from the code or table that owns its facts. What the proxy owns, the proxy
//! prints: `countersign-proxy docs refusals` and `… docs metrics`.

use anyhow::{Context as _, Result, bail};

use crate::{conformance, performance, repo};

/// A page, or a plot on one.
pub(crate) struct Page {
    /// Where it is.
    pub(crate) path: &'static str,
    /// What makes it.
    pub(crate) make: fn() -> Result<String>,
}

/// Every generated page.
const PAGES: [&[Page]; 2] = [TABLES, &performance::PAGES];

const TABLES: &[Page] = &[
    Page { path: "docs/day-one.md", make: || Ok(countersign_config::reference::day_one()) },
    Page { path: "docs/config.md", make: || Ok(countersign_config::reference::config()) },
    Page { path: "docs/environment.md", make: || Ok(countersign_config::reference::environment()) },
    Page { path: "docs/conformance.md", make: conformance::page },
    Page { path: "docs/refusals.md", make: || of_proxy("refusals") },
    Page { path: "docs/metrics.md", make: || of_proxy("metrics") },
];

/// Writes every page that can be made; says which cannot.
pub(crate) fn write() -> Result<()> {
    write_pages(PAGES.into_iter().flatten())
}

/// Writes some of them.
pub(crate) fn write_pages<'a>(pages: impl IntoIterator<Item = &'a Page>) -> Result<()> {
    let mut problems = Vec::new();
    for Page { path, make } in pages {
        match make() {
            Ok(text) => {
                std::fs::write(path, text).with_context(|| format!("could not write {path}"))?;
                println!("wrote {path}");
            }
            Err(error) => problems.push(format!("{path}: {error:#}")),
        }
    }
    report(&problems)
}

/// Says which pages are not what `write` would write.
pub(crate) fn check() -> Result<()> {
    let mut problems = Vec::new();
    for Page { path, make } in PAGES.into_iter().flatten() {
        match make() {
            Ok(text) if std::fs::read_to_string(path).ok().as_deref() == Some(text.as_str()) => {}
            Ok(_) => problems.push(format!("{path} is stale; run `cargo xtask docs` and commit")),
            Err(error) => problems.push(format!("{path}: {error:#}")),
        }
    }
    report(&problems)?;
    println!(
        "docs: {} generated pages are fresh",
        PAGES.iter().map(|pages| pages.len()).sum::<usize>()
    );
    Ok(())
}

fn report(problems: &[String]) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// A page the proxy prints from its own tables.
fn of_proxy(name: &str) -> Result<String> {
    repo::output(repo::cargo().args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "countersign-proxy",
        "--",
        "docs",
        name,
    ]))
}
