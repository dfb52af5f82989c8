//! `countersign-bench`: a countersign pair and an Envoy pair under the same load, side by side.
//!
//! Each round drives, one after the other, the server alone, the Envoy pair and the countersign
//! pair: client -> proxy A -> mTLS -> proxy B -> server. Both proxies of a pair share one core;
//! the load generator and the server have the other. What comes out are ratios of medians over
//! interleaved rounds: a table on stdout and `target/bench/summary.json`.
//! Everything listens on loopback, every run is bounded, and one failed response fails the run.

mod backend;
mod figures;
mod load;
mod machine;
mod pki;
mod plan;
mod run;
mod sidecars;
mod tokens;

use std::process::ExitCode;

const HELP: &str = "\
Measures a countersign pair against an Envoy pair on this machine.

Usage: countersign-bench run [--only envoy|countersign]

  --only PEER   leave the other pair out (its column stays empty)

Environment:
  QUICK=1               fewer and shorter rounds, under 5 minutes
  COUNTERSIGN_ENVOY     the Envoy executable, if not the one `cargo xtask testbed bench` installs
  COUNTERSIGN_CACHE     where that command keeps what it installs

Results: a table on stdout, target/bench/summary.json, logs and configurations in target/bench/work.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let only = match args.as_slice() {
        ["run"] => None,
        ["run", "--only", "envoy"] => Some(sidecars::Make::Envoy),
        ["run", "--only", "countersign"] => Some(sidecars::Make::Countersign),
        ["--help" | "-h" | "help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match run::bench(only) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
