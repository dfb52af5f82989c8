//! The crate graph: what each crate may link, checked against cargo's own resolution.
//! Pure crates build without tokio; crates of ours are used only along the arrows of
//! ARCHITECTURE.md; the proxy's tree stays within its package budget. Bans of single crates are
//! `deny.toml`'s.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::repo;

/// Packages the proxy may need, built and linked, all of them together.
const PROXY_PACKAGES_MAX: usize = 250;

/// Crates that open no socket: nothing of an async runtime may be below them.
const PURE: &[&str] = &["workload-id", "ctxtoken", "policy", "config"];

/// What a pure crate must not link.
const IMPURE: &[&str] = &["tokio", "hyper", "h2", "mio", "socket2", "rustls", "tonic", "reqwest"];

/// Which of our crates each may use. Who is not listed may use any but `proxy`.
const ARROWS: &[(&str, &[&str])] = &[
    ("workload-id", &[]),
    ("ctxtoken", &["workload-id"]),
    ("policy", &["workload-id"]),
    ("config", &["workload-id", "policy"]),
    ("certs-client", &["workload-id", "ctxtoken", "policy", "config"]),
    ("proxy", &["workload-id", "ctxtoken", "policy", "config", "certs-client"]),
    ("controller", &["workload-id", "policy", "config", "certs-client"]),
    ("cli", &["workload-id", "ctxtoken", "policy", "config", "certs-client", "controller"]),
    ("xtask", &["config"]),
];

/// Who may link the proxy as a library: tests and benches.
const MAY_LINK_PROXY: &[&str] = &["integration", "benches"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    kind: Option<String>,
    path: Option<String>,
}

/// Checks the graph and prints the proxy's package count.
pub(crate) fn check() -> Result<()> {
    let json =
        repo::output(repo::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    let mut problems = names_and_arrows(&metadata);
    for folder in PURE {
        let tree = tree(folder, "normal")?;
        for bad in IMPURE.iter().filter(|bad| tree.iter().any(|line| is_package(line, bad))) {
            problems.push(format!(
                "{folder}/ is pure but links {bad}: cargo tree -p countersign-{folder} -i {bad}"
            ));
        }
    }
    let needed = tree("proxy", "normal,build")?.len();
    println!("crate graph: countersign-proxy needs {needed} packages (limit {PROXY_PACKAGES_MAX})");
    if needed >= PROXY_PACKAGES_MAX {
        problems.push(format!("countersign-proxy needs {needed} packages, too many"));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("the crate graph is not as ARCHITECTURE.md says\n  {}", problems.join("\n  "))
}

/// `name vVERSION` of everything below a crate of ours, itself included.
fn tree(folder: &str, edges: &str) -> Result<BTreeSet<String>> {
    let package = format!("countersign-{folder}");
    let text = repo::output(repo::cargo().args([
        "tree",
        "--locked",
        "--prefix",
        "none",
        "--package",
        &package,
        "--edges",
        edges,
    ]))?;
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(text.lines().filter(|line| !line.is_empty()).map(words).collect())
}

fn is_package(line: &str, name: &str) -> bool {
    line.split(' ').next() == Some(name)
}

/// Packages are named for their folders and use each other along the arrows.
fn names_and_arrows(metadata: &Metadata) -> Vec<String> {
    let folder_of = |manifest: &str| manifest.rsplit('/').nth(1).map(str::to_owned);
    let folders: BTreeMap<String, &Package> =
        metadata.packages.iter().filter_map(|p| Some((folder_of(&p.manifest_path)?, p))).collect();
    let mut problems = Vec::new();
    for (folder, package) in &folders {
        if package.name != format!("countersign-{folder}") {
            problems.push(format!("the package in {folder}/ must be named countersign-{folder}"));
        }
        let linked = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        let ours = linked.filter_map(|d| d.path.as_deref()?.rsplit('/').next());
        for other in ours.filter(|other| !may_use(folder, other)) {
            problems.push(format!("{folder}/ must not use {other}/"));
        }
    }
    problems
}

fn may_use(folder: &str, other: &str) -> bool {
    match ARROWS.iter().find(|(from, _)| *from == folder) {
        Some((_, to)) => to.contains(&other),
        None => other != "proxy" || MAY_LINK_PROXY.contains(&folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(kind: &str, path: &str) -> Vec<String> {
        let json = format!(
            r#"{{"packages": [{{"name": "countersign-policy", "manifest_path": "/r/policy/Cargo.toml",
                 "dependencies": [{{"kind": {kind}, "path": {path}}}]}}]}}"#
        );
        names_and_arrows(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn an_arrow_the_wrong_way_is_named() {
        assert_eq!(problems("null", r#""/r/proxy""#), ["policy/ must not use proxy/"]);
        assert!(problems("null", r#""/r/workload-id""#).is_empty());
        assert!(problems(r#""dev""#, r#""/r/proxy""#).is_empty());
        assert!(problems("null", "null").is_empty());
    }

    #[test]
    fn only_tests_and_benches_link_the_proxy() {
        assert!(may_use("integration", "proxy") && !may_use("controller", "proxy"));
    }

    #[test]
    fn packages_are_compared_by_whole_name() {
        assert!(is_package("tokio v1.54.0", "tokio") && !is_package("tokio-util v0.7.20", "tokio"));
    }
}
