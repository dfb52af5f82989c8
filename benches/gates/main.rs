//! `countersign-gates`: counts that are the same on a quiet and on a busy machine, compared with
//! those recorded in `benches/gates.txt`.
//!
//! Single steps run in this very program, the whole path in real proxies; valgrind's callgrind
//! counts instructions and calls to the allocator, strace counts system calls, and the compiler
//! knows how large the futures are. A figure that rose
//! beyond its tolerance, a new one and one that is gone fail the run. Nothing here is a duration.
//! `cargo xtask gates` builds and starts it. With `order` it counts nothing and writes down which
//! functions the proxies run, for `cargo xtask release`.

#![forbid(unsafe_code)]

mod callgrind;
mod identities;
mod micro;
mod path;
mod profile;
mod record;
mod sizes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use countersign_config::env;

use crate::record::{Figure, Record};

const HELP: &str = "\
Counts instructions, allocations, system calls and bytes of futures, and compares them with benches/gates.txt.

Usage: countersign-gates [--record] [NAME]
       countersign-gates order FILE
       countersign-gates profile

  --record   writes what was counted to benches/gates.txt instead of comparing
  NAME       only figures whose names contain it, such as `decide` or `path/h1`
  FILE       takes the names of the functions that proxies run under load, one a line
  profile    instead says where the instructions of a request go, also in target/gates/profile.json

Proxies are those of COUNTERSIGN_BIN_DIR, or the ones beside this program.";

/// Where the recorded figures are, from the root of the repository.
const RECORD: &str = "benches/gates.txt";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["steps", filter] => {
            micro::run(filter);
            Ok(())
        }
        ["order", file] => order(Path::new(file)),
        ["profile"] => where_they_go(),
        ["--record"] => gates("", Then::Record),
        ["--record", filter] => gates(filter, Then::Record),
        [] => gates("", Then::Compare),
        [filter] if !filter.starts_with('-') => gates(filter, Then::Compare),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("countersign-gates: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What happens with the figures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Compare,
    Record,
}

fn where_they_go() -> Result<()> {
    callgrind::check_programs()?;
    let programs = Programs::find()?;
    profile::run(&programs.proxy, &programs.work)
}

fn gates(filter: &str, then: Then) -> Result<()> {
    callgrind::check_programs()?;
    let programs = Programs::find()?;
    let mut figures = micro::measure(&programs.work, filter)?;
    figures.extend(sizes::measure(filter));
    figures.extend(path::measure(&programs.proxy, &programs.work, filter)?);
    if figures.is_empty() {
        bail!("no figure's name contains `{filter}`");
    }
    let recorded = Record::read(Path::new(RECORD))?;
    match then {
        Then::Record => {
            let merged = recorded.with(filter, figures);
            std::fs::write(RECORD, merged.text(&callgrind::versions()?))
                .with_context(|| format!("could not write {RECORD}"))?;
            println!("wrote {RECORD}; see `git diff {RECORD}`");
            Ok(())
        }
        Then::Compare => compare(&recorded, filter, &figures, &programs.work),
    }
}

fn order(file: &Path) -> Result<()> {
    callgrind::check_programs()?;
    let programs = Programs::find()?;
    let functions = path::functions(&programs.proxy, &programs.work)?;
    std::fs::write(file, functions.join("\n") + "\n")
        .with_context(|| format!("could not write {}", file.display()))?;
    println!("{} functions run; see {}", functions.len(), file.display());
    Ok(())
}

fn compare(recorded: &Record, filter: &str, figures: &[Figure], work: &Path) -> Result<()> {
    let verdict = recorded.compare(filter, figures);
    print!("{}", verdict.text());
    if verdict.passes() {
        return Ok(());
    }
    bail!(
        "{} of {} figures are not as {RECORD} says (recorded with {}; here {})\n\
         where the instructions go: callgrind_annotate {}/NAME; a change that is meant: cargo \
         xtask gates --record, and say in the commit what it buys",
        verdict.problems(),
        figures.len(),
        recorded.versions(),
        callgrind::versions()?,
        work.display(),
    )
}

/// The proxy to measure, and a folder for what is written meanwhile.
struct Programs {
    proxy: PathBuf,
    work: PathBuf,
}

impl Programs {
    fn find() -> Result<Programs> {
        let exe = std::env::current_exe().context("could not find my own executable")?;
        let here = exe.parent().context("my executable is in no folder")?;
        let folder = env::COUNTERSIGN_BIN_DIR.get().map_or_else(|| here.into(), PathBuf::from);
        let proxy = folder.join("countersign-proxy");
        if !proxy.is_file() {
            bail!("no proxy at {}; `cargo xtask gates` builds it", proxy.display());
        }
        let work = here.parent().context("my executable has no target folder")?.join("gates");
        if work.exists() {
            std::fs::remove_dir_all(&work)
                .with_context(|| format!("could not empty {}", work.display()))?;
        }
        std::fs::create_dir_all(&work)
            .with_context(|| format!("could not make {}", work.display()))?;
        Ok(Programs { proxy, work })
    }
}
