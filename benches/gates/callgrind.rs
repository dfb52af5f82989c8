//! Callgrind: starting a program under it, and what its files say: instructions in user space,
//! and how often Rust code asked the allocator for memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// How Rust code asks for memory, whatever the allocator; what C code asks for is not among them.
const ASKS: [&str; 3] =
    ["__rustc::__rust_alloc", "__rustc::__rust_alloc_zeroed", "__rustc::__rust_realloc"];

/// Valgrind numbers threads from 1 on; a proxy has few.
const THREADS_MAX: u32 = 64;

/// What was counted in one process with one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Threads {
    /// In the thread that did most: the worker, as long as there are requests.
    pub(crate) worker: Counts,
    /// In all others: audit, control.
    pub(crate) aside: Counts,
}

/// What was counted between two points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In user space.
    pub(crate) instructions: u64,
    /// New blocks and grown ones.
    pub(crate) allocations: u64,
}

/// Says what to install if something is missing.
pub(crate) fn check_programs() -> Result<()> {
    for (program, asked) in
        [("valgrind", "--version"), ("callgrind_control", "--version"), ("strace", "--version")]
    {
        let found = Command::new(program).arg(asked).output();
        ensure!(
            found.is_ok_and(|output| output.status.success()),
            "{program} is missing; `cargo xtask testbed` installs it"
        );
    }
    Ok(())
}

/// What instruction counts depend on beside the code: they are compared all the same, and named
/// where they differ.
pub(crate) fn versions() -> Result<String> {
    let first_line = |program: &str, asked: &str| -> Result<String> {
        let output = Command::new(program).arg(asked).output().context(program.to_owned())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let c_library = first_line("ldd", "--version")?;
    let c_library = c_library.rsplit(' ').next().unwrap_or_default();
    let rustc = first_line("rustc", "--version")?;
    let rustc = rustc.split(" (").next().unwrap_or_default();
    let arch = std::env::consts::ARCH;
    Ok(format!("{}, {rustc}, glibc {c_library}, {arch}", first_line("valgrind", "--version")?))
}

/// Runs a program; a file is written each time it leaves the function `each`, with what was
/// counted inside it. The files, in that order, and what the program printed.
pub(crate) fn run(program: &mut Command, each: &str, out: &Path) -> Result<(Vec<PathBuf>, String)> {
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.args([format!("--toggle-collect={each}"), format!("--dump-after={each}")]);
    let output = valgrind.arg(program.get_program()).args(program.get_args()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind ended with {}\n{errors}", output.status);
    let part = |number: usize| PathBuf::from(format!("{}.{number}", out.display()));
    let parts = (1..).map(part).take_while(|path| path.exists()).collect();
    Ok((parts, String::from_utf8(output.stdout)?))
}

/// A command that runs `program` so that counting can be switched on later.
pub(crate) fn silent(program: &Path, out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    valgrind
}

/// A command that runs `program` and notes from its start on which functions it runs, under the
/// names the linker knows.
pub(crate) fn noting(program: &Path, out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--demangle=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    valgrind
}

/// The functions that a process ran since its start, or since the last of these calls.
pub(crate) fn functions(pid: u32, out: &Path, part: u32) -> Result<Vec<String>> {
    control(&["-d"], pid)?;
    let path = PathBuf::from(format!("{}.{part}", out.display()));
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("could not read {}", path.display()))?;
    Ok(names(&text))
}

/// Every function a file of callgrind names, where it names it first.
fn names(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| {
        let function = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn="))?;
        Some(function.split_once(' ')?.1.to_owned())
    });
    named.collect()
}

/// Begins to count in a process.
pub(crate) fn begin(pid: u32) -> Result<()> {
    control(&["-i", "on"], pid)
}

/// What the threads of a process did since [`begin`], or since the last of these calls.
pub(crate) fn end(pid: u32, out: &Path, part: u32) -> Result<Threads> {
    control(&["-d"], pid)?;
    let mut all = of_threads(out, part).map(|path| read(&path)).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|counts| counts.instructions);
    let mut threads = Threads { worker: all.pop().context("no thread")?, ..Threads::default() };
    for counts in all {
        threads.aside.instructions += counts.instructions;
        threads.aside.allocations += counts.allocations;
    }
    Ok(threads)
}

/// The files of one part, one for each thread.
fn of_threads(out: &Path, part: u32) -> impl Iterator<Item = PathBuf> {
    let file = move |thread: u32| PathBuf::from(format!("{}.{part}-{thread:02}", out.display()));
    (1..=THREADS_MAX).map(file).filter(|path| path.exists())
}

/// The instructions of each function itself, in all threads.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn costs(out: &Path, part: u32) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for path in of_threads(out, part) {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        add_costs(&text, &mut all)
            .with_context(|| format!("{} has an unknown form", path.display()))?;
    }
    Ok(all)
}

/// A line that begins with a position ends with what it cost; after `calls=` it is what the callee
/// cost.
fn add_costs(text: &str, all: &mut BTreeMap<String, u64>) -> Option<()> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut inside = None;
    let mut of_callee = false;
    for line in text.lines() {
        let function =
            |key: &str| line.strip_prefix(key).map(|it| it.split_once(' ').unwrap_or((it, "")));
        if let Some((id, name)) = function("fn=").or_else(|| function("cfn=")) {
            if !name.is_empty() {
                names.insert(id, name);
            }
            if line.starts_with("fn=") {
                inside = names.get(id).copied();
            }
        } else if line.starts_with("calls=") {
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost: u64 = line.rsplit(' ').next()?.parse().ok()?;
            if !std::mem::take(&mut of_callee) {
                *all.entry(inside?.to_owned()).or_default() += cost;
            }
        }
    }
    Some(())
}

fn control(arguments: &[&str], pid: u32) -> Result<()> {
    let output = Command::new("callgrind_control").args(arguments).arg(pid.to_string()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It says "OK." for each process, and exits with 0 also where it failed.
    if !output.status.success() || !text.contains("OK") {
        bail!("callgrind_control {arguments:?} {pid}: {text}");
    }
    Ok(())
}

/// Reads one file of callgrind.
pub(crate) fn read(path: &Path) -> Result<Counts> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} has an unknown form", path.display()))
}

/// Names are written once, as `cfn=(12) name`, and then only as `cfn=(12)`; the line after says how
/// often: `calls=3 0`.
fn parse(text: &str) -> Option<Counts> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut instructions = None;
    let mut allocations = 0;
    let mut called = None;
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            called = names.get(id).copied();
        } else if let Some(calls) = line.strip_prefix("calls=") {
            if called.is_some_and(|name| ASKS.contains(&name)) {
                allocations += calls.split(' ').next()?.parse::<u64>().ok()?;
            }
        } else if let Some(total) =
            line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: "))
        {
            instructions = Some(total.trim().parse().ok()?);
        }
    }
    Some(Counts { instructions: instructions?, allocations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_allocator_are_added_up() {
        let text = "version: 1\nevents: Ir\nsummary: 4200\n\n\
            fn=(1) main\n3 10\ncfn=(2) __rustc::__rust_alloc\ncalls=3 0\n5 30\n\
            cfn=(3) __rustc::__rust_dealloc\ncalls=9 0\n7 8\n\
            fn=(4) other\n1 1\ncfn=(2)\ncalls=2 0\n1 1\ncfn=(5) __rustc::__rust_realloc\ncalls=1 7\n";
        assert_eq!(parse(text), Some(Counts { instructions: 4200, allocations: 6 }));
    }

    #[test]
    fn functions_are_named_once_in_the_order_of_the_file() {
        let text = "ob=(1) /usr/bin/proxy\nfl=(1) ???\nfn=(1) main\n3 10\n\
            cfn=(2) _ZN3std2io4read17h0123456789abcdefE\ncalls=3 0\n5 30\nfn=(4) other\ncfn=(2)\n";
        assert_eq!(names(text), ["main", "_ZN3std2io4read17h0123456789abcdefE", "other"]);
    }

    #[test]
    fn what_a_function_costs_is_without_what_it_calls() {
        let text = "positions: line\nevents: Ir\nsummary: 100\n\nfn=(1) main\n3 10\n\
            cfi=(3) a.c\ncfn=(2) inner\ncalls=3 0\n* 80\n+2 5\n\nfn=(2)\n7 60\n-1 25\n";
        let mut all = BTreeMap::from([("main".to_owned(), 1)]);
        add_costs(text, &mut all).unwrap();
        assert_eq!(all, BTreeMap::from([("main".to_owned(), 16), ("inner".to_owned(), 85)]));
    }

    #[test]
    fn a_file_without_a_total_is_refused() {
        assert_eq!(parse("version: 1\nfn=(1) main\n"), None);
    }
}
