//! `countersign-bench`: a countersign pair and an Envoy pair under the same load, side by side.
//!
//! Each round drives, one after the other, the server alone, the Envoy pair and the countersign
//! pair: client -> proxy A -> mTLS -> proxy B -> server. Both proxies of a pair share one core;
//! the load generator and the server have the other. What comes out are ratios of medians over
//! interleaved rounds: a table on stdout and `target/bench/summary.json`.
//! As root each pair has network namespaces with the redirect of a pod; otherwise everything listens
//! on loopback. Every run is bounded, and one failed response fails the run.

mod backend;
mod figures;
mod load;
mod machine;
mod measures;
mod pki;
mod plan;
mod pods;
mod run;
mod sidecars;
mod stage;
mod targets;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use countersign_config::env;
use run::Wanted;
use sidecars::Make;

const HELP: &str = "\
Measures a countersign pair against an Envoy pair on this machine.

Usage: countersign-bench run [--quick] [--rounds N] [--only PEER] [--case NAME]
                             [--envoy PATH] [--proxy PATH]

  --quick        fewer and shorter rounds, under 5 minutes; also QUICK=1
  --rounds N     so many rounds instead of what the plan says
  --only PEER    measure only `countersign` or `envoy`; the other column stays empty
  --case NAME    measure only cases whose name contains NAME, such as `h1_no_token`;
                 `scaling`, which an ordinary run leaves out: workers, endpoints, policies, services
  --envoy PATH   Envoy's executable, if not COUNTERSIGN_ENVOY or what `cargo xtask testbed` installs
  --proxy PATH   countersign-proxy, if not the one in COUNTERSIGN_BIN_DIR or beside this program

Results: a table on stdout, the same in target/bench/summary.json and table.md, or with --case in
target/bench/part; configurations and logs in target/bench/work.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, address, count] = args.as_slice()
        && word == measures::HOLD
    {
        return ended(holder(address, count));
    }
    let Some(wanted) = wanted(&args) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    ended(run::bench(&wanted))
}

/// What the measure of memory starts: see [`measures::hold`].
fn holder(address: &str, count: &str) -> anyhow::Result<()> {
    measures::hold(address.parse()?, count.parse()?)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for; `None` if it is not understood.
fn wanted(args: &[String]) -> Option<Wanted> {
    let mut args = args.iter().map(String::as_str);
    if args.next() != Some("run") {
        return None;
    }
    let programs = env::COUNTERSIGN_BIN_DIR.get();
    let mut wanted = Wanted {
        quick: env::QUICK.get().is_some_and(|value| value != "0"),
        proxy: programs.map(|folder| Path::new(&folder).join("countersign-proxy")),
        rounds: None,
        only: None,
        case: None,
        envoy: env::COUNTERSIGN_ENVOY.get().map(PathBuf::from),
    };
    while let Some(option) = args.next() {
        match option {
            "--quick" => wanted.quick = true,
            "--rounds" => {
                wanted.rounds = Some(args.next()?.parse().ok().filter(|rounds| *rounds > 0)?);
            }
            "--only" => wanted.only = Some(Make::parse(args.next()?)?),
            "--case" => wanted.case = Some(args.next()?.to_owned()),
            "--envoy" => wanted.envoy = Some(args.next()?.into()),
            "--proxy" => wanted.proxy = Some(args.next()?.into()),
            _ => return None,
        }
    }
    Some(wanted)
}
