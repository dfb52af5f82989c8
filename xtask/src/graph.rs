//! The crate graph: what each crate may link, checked against cargo's own resolution.
//! Pure crates build without tokio; crates of ours are used only along the arrows of
//! ARCHITECTURE.md; the proxy's tree stays within its package budget; one crypto provider.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::repo;

/// Packages the proxy may link, all of them together.
const PROXY_PACKAGES_MAX: usize = 250;

/// Crates that open no socket: nothing of an async runtime may be below them.
const PURE: &[&str] = &["workload-id", "ctxtoken", "policy", "config"];

/// What a pure crate must not link.
const IMPURE: &[&str] = &["tokio", "hyper", "h2", "mio", "socket2", "rustls", "tonic", "reqwest"];

/// Never in any tree of ours: a second crypto provider or TLS stack.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls"];

/// Which of our crates each may use directly. Who is not listed here may use any but `proxy`.
const ARROWS: &[(&str, &[&str])] = &[
    ("workload-id", &[]),
    ("ctxtoken", &["workload-id"]),
    ("policy", &["workload-id"]),
    ("config", &["workload-id", "policy"]),
    ("certs-client", &["workload-id", "ctxtoken", "policy", "config"]),
    ("proxy", &["workload-id", "ctxtoken", "policy", "config", "certs-client"]),
    ("cli", &["workload-id", "ctxtoken", "policy", "config", "certs-client"]),
    ("xtask", &["config", "policy"]),
];

/// Who may link the proxy as a library: tests and benches.
const MAY_LINK_PROXY: &[&str] = &["integration", "benches"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// Names of packages and who links whom, for the target we build for.
struct Graph {
    names: BTreeMap<String, String>,
    members: BTreeMap<String, String>, // folder -> id
    links: BTreeMap<String, Vec<String>>,
    links_and_builds: BTreeMap<String, Vec<String>>,
}

/// Checks the graph and prints the proxy's package count.
pub(crate) fn check() -> Result<()> {
    let graph = Graph::read()?;
    let mut problems = graph.names_and_arrows();
    for folder in PURE {
        let tree = graph.tree(folder, &graph.links)?;
        for bad in IMPURE.iter().filter(|bad| tree.contains(**bad)) {
            problems.push(format!("{folder}/ is pure but links {bad}; see `cargo tree -p countersign-{folder} -i {bad}`"));
        }
    }
    for folder in graph.members.keys() {
        let tree = graph.tree(folder, &graph.links_and_builds)?;
        for bad in BANNED.iter().filter(|bad| tree.contains(**bad)) {
            problems.push(format!("{folder}/ links {bad}; aws-lc-rs is the only crypto provider"));
        }
    }
    let proxy = graph.tree("proxy", &graph.links_and_builds)?.len();
    println!("crate graph: countersign-proxy needs {proxy} packages (limit {PROXY_PACKAGES_MAX})");
    if proxy >= PROXY_PACKAGES_MAX {
        problems.push(format!(
            "countersign-proxy needs {proxy} packages, the limit is {PROXY_PACKAGES_MAX}"
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("the crate graph is not as ARCHITECTURE.md says\n  {}", problems.join("\n  "))
}

impl Graph {
    fn read() -> Result<Graph> {
        let json = repo::output(repo::cargo().args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            &host()?,
        ]))?;
        Graph::from_metadata(serde_json::from_str(&json).context("cargo metadata")?)
    }

    fn from_metadata(metadata: Metadata) -> Result<Graph> {
        let mut graph = Graph {
            names: BTreeMap::new(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            links_and_builds: BTreeMap::new(),
        };
        for package in metadata.packages {
            if metadata.workspace_members.contains(&package.id) {
                let mut parts = package.manifest_path.rsplit('/').skip(1);
                let folder = parts.next().context("manifest without folder")?.to_owned();
                graph.members.insert(folder, package.id.clone());
            }
            graph.names.insert(package.id, package.name);
        }
        for node in metadata.resolve.nodes {
            let of = |wanted: &dyn Fn(Option<&str>) -> bool| -> Vec<String> {
                let used = |d: &&Dependency| d.dep_kinds.iter().any(|k| wanted(k.kind.as_deref()));
                node.deps.iter().filter(used).map(|d| d.pkg.clone()).collect()
            };
            graph.links.insert(node.id.clone(), of(&|kind| kind.is_none()));
            graph.links_and_builds.insert(node.id.clone(), of(&|kind| kind != Some("dev")));
        }
        Ok(graph)
    }

    /// Names of everything below a crate of ours, itself included.
    fn tree(&self, folder: &str, edges: &BTreeMap<String, Vec<String>>) -> Result<BTreeSet<&str>> {
        let start = self.members.get(folder).with_context(|| format!("no crate in {folder}/"))?;
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(id) = open.pop() {
            if seen.insert(id.as_str()) {
                open.extend(edges.get(id).into_iter().flatten());
            }
        }
        Ok(seen.iter().filter_map(|id| self.names.get(*id)).map(String::as_str).collect())
    }

    fn names_and_arrows(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (folder, id) in &self.members {
            if self.names.get(id) != Some(&format!("countersign-{folder}")) {
                problems
                    .push(format!("the package in {folder}/ must be named countersign-{folder}"));
            }
            let used = self.links.get(id).into_iter().flatten();
            let ours = used.filter_map(|dep| self.members.iter().find(|(_, other)| *other == dep));
            for (other, _) in ours {
                let listed = ARROWS.iter().find(|(from, _)| from == folder);
                let allowed = match listed {
                    Some((_, to)) => to.contains(&other.as_str()),
                    None => other != "proxy" || MAY_LINK_PROXY.contains(&folder.as_str()),
                };
                if !allowed {
                    problems.push(format!("{folder}/ must not use {other}/"));
                }
            }
        }
        problems
    }
}

fn host() -> Result<String> {
    let version = repo::output(std::process::Command::new("rustc").arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc names no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(policy_uses: &str) -> Graph {
        let json = format!(
            r#"{{"packages": [{{"id": "p", "name": "countersign-policy", "manifest_path": "/r/policy/Cargo.toml"}},
                 {{"id": "x", "name": "countersign-proxy", "manifest_path": "/r/proxy/Cargo.toml"}},
                 {{"id": "t", "name": "tokio", "manifest_path": "/c/tokio/Cargo.toml"}}],
               "workspace_members": ["p", "x"],
               "resolve": {{"nodes": [{{"id": "p", "deps": [{{"pkg": "{policy_uses}", "dep_kinds": [{{"kind": null}}]}}]}},
                 {{"id": "x", "deps": [{{"pkg": "t", "dep_kinds": [{{"kind": "dev"}}]}}]}},
                 {{"id": "t", "deps": []}}]}}}}"#
        );
        Graph::from_metadata(serde_json::from_str(&json).unwrap()).unwrap()
    }

    #[test]
    fn an_arrow_the_wrong_way_is_named() {
        assert_eq!(graph("x").names_and_arrows(), ["policy/ must not use proxy/"]);
        assert!(graph("t").names_and_arrows().is_empty());
    }

    #[test]
    fn trees_follow_links_and_leave_out_what_only_tests_use() {
        let graph = graph("t");
        assert!(graph.tree("policy", &graph.links).unwrap().contains("tokio"));
        assert!(!graph.tree("proxy", &graph.links).unwrap().contains("tokio"));
    }
}
