//! Runs the test suites, and builds what they need first.
//! Unit and property tests run from cargo's dev profile, with overflow checks; end-to-end tests
//! start the real programs, built once in profile `e2e`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use countersign_config::env;

use crate::{release, repo, testbed};

/// The programs end-to-end tests and the demo start.
const PROGRAMS: &[&str] = &["countersign-proxy", "countersign-cli"];

/// Crates whose tests need programs or the test-bed, so they are no unit tests.
const NOT_UNIT: &[&str] = &["countersign-integration"];

/// Crates whose unit tests belong to the identity suite.
const IDENTITY: &[&str] =
    &["countersign-workload-id", "countersign-certs-client", "countersign-controller"];

/// Crates whose unit tests belong to the context suite.
const CONTEXT: &[&str] = &["countersign-ctxtoken", "countersign-policy", "countersign-proxy"];

/// Runs one suite, or all of them.
pub(crate) fn run(name: &str) -> Result<()> {
    match name {
        "unit" => unit(),
        "foundation" => {
            let others =
                ["--skip", "interception::", "--skip", "identity::", "--skip", "context::"];
            end_to_end(&others)
        }
        "interception" => {
            end_to_end(&without_alone(&["interception::", "attacks::", "shutdown::", "netns::"]))?;
            alone(&["interception::"])
        }
        "identity" => {
            unit_of(IDENTITY)?;
            end_to_end(&without_alone(&["identity::", "rotation::", "attacks::", "components::"]))?;
            alone(&["identity::"])
        }
        "context" => {
            unit_of(CONTEXT)?;
            end_to_end(&without_alone(&["context::", "gateway::", "attacks::", "refusals::"]))?;
            alone(&["context::"])
        }
        "soak" => end_to_end(&["--ignored", "soak_"]),
        "all" => {
            unit()?;
            end_to_end(&without_alone(&[]))?;
            alone(&[""])
        }
        _ => bail!(
            "no suite `{name}`; there are: unit, foundation, interception, identity, context, soak, all"
        ),
    }
}

/// Tests that hold a rate, or thousands of connections: others beside them would decide whether
/// this machine keeps up, not what is tested.
const ALONE: &[&str] = &[
    "identity::revocation::five_thousand",
    "identity::spire::spire_server",
    "interception::memory::",
    "interception::rollout::rolling_restart",
];

fn without_alone<'a>(filter: &[&'a str]) -> Vec<&'a str> {
    let skips = ALONE.iter().flat_map(|name| ["--skip", name]);
    filter.iter().copied().chain(skips).collect()
}

/// Runs those of them whose names start with one of `prefixes`.
fn alone(prefixes: &[&str]) -> Result<()> {
    let mut filter = vec!["--test-threads", "1"];
    let wanted = |name: &&&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    filter.extend(ALONE.iter().filter(wanted));
    end_to_end(&filter)
}

fn unit_of(packages: &[&str]) -> Result<()> {
    let mut command = repo::cargo();
    command.args(["test", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    repo::call(&mut command)
}

fn unit() -> Result<()> {
    let mut command = repo::cargo();
    command.args(["test", "--locked", "--workspace"]);
    for package in NOT_UNIT {
        command.args(["--exclude", package]);
    }
    repo::call(&mut command)
}

/// `filter` is handed to the test program; what takes minutes is ignored unless asked for.
fn end_to_end(filter: &[&str]) -> Result<()> {
    testbed::install("base")?;
    programs("e2e", PROGRAMS)?;
    let mut command = repo::cargo();
    command.args(["test", "--locked", "--package", "countersign-integration"]);
    command.args(["--lib", "--test", "it"]); // the harness's own checks, too
    command.arg("--").args(filter);
    if let Some((name, runner)) = user_namespace()? {
        command.env(name, runner);
    }
    command.env("PATH", testbed::path());
    repo::call(command.env(env::COUNTERSIGN_BIN_DIR.name, programs_dir("e2e")?))
}

/// Makes whoever is not root root in a user namespace, with a range of users as `/etc/subuid`
/// grants it: the pods of the tests are network namespaces and their sidecars have a user of
/// their own. Gives cargo's variable for a program that starts the tests, and that program.
fn user_namespace() -> Result<Option<(String, &'static str)>> {
    const RUNNER: &str = "unshare --user --map-root-user --map-auto";
    if repo::output(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(None);
    }
    let mut words = RUNNER.split(' ');
    let mut probe = Command::new(words.next().unwrap_or_default());
    if !repo::works(probe.args(words).arg("true")) {
        println!(
            "pods need root, or a range for this user in /etc/subuid and /etc/subgid and newuidmap \
             (Debian: uidmap): their tests are skipped"
        );
        return Ok(None);
    }
    let rustc = repo::output(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc names no host")?.to_uppercase().replace('-', "_");
    Ok(Some((format!("CARGO_TARGET_{host}_RUNNER"), RUNNER)))
}

/// How long the bench may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// The proxy as it is released, all rounds.
    Full,
    /// The proxy of the tests, few rounds.
    Quick,
    /// The proxy as it is released, all rounds of what grows with workers and configuration.
    Scaling,
}

/// Runs the side-by-side bench; results are printed and in `target/bench`.
pub(crate) fn bench(plan: Plan) -> Result<()> {
    testbed::install("base")?;
    let profile = match plan {
        Plan::Full | Plan::Scaling => "release",
        Plan::Quick => "e2e",
    };
    match plan {
        Plan::Full | Plan::Scaling => release::proxy(profile)?,
        Plan::Quick => programs(profile, &["countersign-proxy"])?,
    }
    programs("e2e", &["countersign-cli"])?; // its authority gives identities; it is not measured
    let mut command = repo::cargo();
    command.args(["run", "--locked", "--profile", "e2e", "--package", "countersign-benches"]);
    command.args(["--bin", "countersign-bench", "--", "run"]);
    if matches!(plan, Plan::Quick) {
        command.env(env::QUICK.name, "1");
    }
    if matches!(plan, Plan::Scaling) {
        command.args(["--case", "scaling"]);
    }
    repo::call(command.env(env::COUNTERSIGN_BIN_DIR.name, programs_dir(profile)?))
}

/// Counts what steps and requests cost and compares with `benches/gates.txt`, or records it there.
/// The proxies are those end-to-end tests start, or those of `COUNTERSIGN_BIN_DIR`.
pub(crate) fn gates(words: &[&str]) -> Result<()> {
    testbed::install("base")?;
    let given = env::COUNTERSIGN_BIN_DIR.get();
    if given.is_none() {
        programs("e2e", &["countersign-proxy"])?;
    }
    let folder = given.map_or_else(|| programs_dir("e2e"), |given| Ok(given.into()))?;
    let mut command = repo::cargo();
    command.args(["run", "--locked", "--profile", "e2e", "--package", "countersign-benches"]);
    command.args(["--bin", "countersign-gates", "--"]).args(words);
    repo::call(command.env(env::COUNTERSIGN_BIN_DIR.name, folder))
}

/// Builds the programs of some packages in a profile.
pub(crate) fn programs(profile: &str, packages: &[&str]) -> Result<()> {
    let mut command = repo::cargo();
    command.args(["build", "--locked", "--profile", profile, "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    repo::call(&mut command)
}

/// Where cargo puts the programs of a profile.
pub(crate) fn programs_dir(profile: &str) -> Result<PathBuf> {
    let json =
        repo::output(repo::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&json).context("cargo metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(Path::new(target).join(profile))
}
