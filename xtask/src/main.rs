//! The repository's own tool: what CI runs, what generates the docs, what installs the test-bed.
//! Called as `cargo xtask <task>`; the Makefile and `.ci/run` only call this.
//! It may use `anyhow`, start programs and print; no product crate depends on it.
#![forbid(unsafe_code)]

mod ci;
mod conformance;
mod docs;
mod graph;
mod performance;
mod release;
mod repo;
mod suite;
mod testbed;
mod tidy;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <task>

  ci                   everything CI runs: check, then every test suite
  check                fmt, clippy, tidy, crate graph, docs, deny
  test [SUITE]         unit | foundation | interception | identity | context | soak |
                       all (default); what `make test` runs
  bench [quick]        a countersign pair beside Envoy, HAProxy and nginx
  bench scaling        what workers, endpoints, policies, services and a change of them cost
  bench publish        put the figures of the last full run into docs/performance.md
  bench profile NAME   count where the instructions of a request go, and keep it as `before` or `now`
  bench pages          make tables and plots of docs/performance.md anew
  gates [--record] [NAME]
                       count instructions, allocations, system calls; compare with benches/gates.txt
  release [PROFILE]    the proxy as it is released, functions that run side by side
  bin                  print the folder of the programs tests and the demo start
  docs [--check]       write the generated pages of docs/, or say which are stale
  tidy                 the house rules a program can watch
  graph                who links whom: pure crates, arrows, package budget
  deny                 licences, bans, sources
  testbed [GROUP]      install the pinned third-party programs tests use (default: base)
  where                print the test-bed folder";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    std::env::set_current_dir(repo::root())?;
    match words {
        ["ci"] => ci::all(),
        ["check"] => ci::check(),
        ["test"] => suite::run("all"),
        ["test", name] => suite::run(name),
        ["bench"] => suite::bench(suite::Plan::Full),
        ["bench", "quick"] => suite::bench(suite::Plan::Quick),
        ["bench", "scaling"] => suite::bench(suite::Plan::Scaling),
        ["bench", "publish"] => performance::publish(),
        ["bench", "profile", name @ ("before" | "now")] => performance::take_profile(name),
        ["bench", "pages"] => performance::write(),
        ["gates", rest @ ..] => suite::gates(rest),
        ["release"] => release::proxy("release"),
        ["release", profile] => release::proxy(profile),
        ["bin"] => {
            println!("{}", suite::programs_dir("e2e")?.display());
            Ok(())
        }
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        ["tidy"] => tidy::run(),
        ["graph"] => graph::check(),
        ["deny"] => ci::deny(),
        ["testbed"] => testbed::install("base"),
        ["testbed", group] => testbed::install(group),
        ["where"] => {
            println!("{}", testbed::cache()?.display());
            Ok(())
        }
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("no such task: {}\n\n{HELP}", words.join(" ")),
    }
}
