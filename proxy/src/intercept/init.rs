//! `countersign-proxy init`: installs, verifies and removes the redirect. Needs `NET_ADMIN` and
//! ends when done.
//!
//! Invariant: when it succeeds, the rules in force are the ones that were asked for, read back from
//! the kernel, in every family the pod has an address of. When it fails, what it put in is taken out
//! again, and rules that were in force before it ran are never traded for none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use countersign_config::ProxyConfig;

use crate::intercept::before::{Before, Left};
use crate::intercept::nft::{self, EXPECTED_NAME, Kind, Listing, TABLE_NAME};
use crate::intercept::program::{Program, ProgramError};
use crate::intercept::rules::{Family, MARK, Plan, TABLE};
use crate::intercept::{iptables, rules};

/// What `init` is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Install the rules and read them back.
    #[default]
    Install,
    /// Print what would be installed.
    DryRun,
    /// Say what differs from what should be there.
    Verify,
    /// Take out whatever of ours is there.
    Remove,
}

/// A way to put rules into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// One `nft` table for both families.
    Inet,
    /// One `nft` table per family, for kernels that cannot translate addresses in `inet` tables.
    Split,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

impl Backend {
    /// Every backend, in the order they are tried.
    pub const ALL: [Backend; 3] = [Backend::Inet, Backend::Split, Backend::Iptables];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Backend::Inet => "nft",
            Backend::Split => "nft-split",
            Backend::Iptables => "iptables",
        }
    }
}

/// A call of `init`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The `ProxyConfig` the rules are made from.
    pub config: PathBuf,
    /// What to do.
    pub task: Task,
    /// The one backend to use; `None`: the first that works.
    pub backend: Option<Backend>,
}

impl Arguments {
    /// Reads the arguments after `init`; `None` if they make no sense.
    pub fn read(words: &[&str]) -> Option<Arguments> {
        let mut arguments = Arguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--config" | "-c" => arguments.config = PathBuf::from(words.next()?),
                "--backend" => {
                    let name = words.next()?;
                    arguments.backend = Some(*Backend::ALL.iter().find(|one| one.word() == *name)?);
                }
                "--dry-run" => arguments.task = only(arguments.task, Task::DryRun)?,
                "--verify" => arguments.task = only(arguments.task, Task::Verify)?,
                "--remove" => arguments.task = only(arguments.task, Task::Remove)?,
                _ => return None,
            }
        }
        let needs_config = arguments.task != Task::Remove;
        (!needs_config || !arguments.config.as_os_str().is_empty()).then_some(arguments)
    }
}

fn only(so_far: Task, asked: Task) -> Option<Task> {
    (so_far == Task::Install).then_some(asked)
}

/// Why `init` failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The configuration does not load.
    #[error("{0}")]
    Config(String),
    /// The configuration allows no rules.
    #[error(transparent)]
    Plan(#[from] rules::NothingCaptured),
    /// No backend could load the rules.
    #[error("the redirect could not be installed:{0}")]
    NoBackend(String),
    /// The rules in force are not those asked for.
    #[error("the rules in force are not those that should be:{0}")]
    Differs(String),
    /// The same, of rules that replaced others: those are gone, so the new ones stay.
    #[error(
        "{0}\n  the rules that were in force are replaced; the new ones stay, rather than none"
    )]
    Replaced(String),
    /// The same, and the rules could not be taken out.
    #[error("{0}\n  and they could not be taken out: {1}")]
    Stuck(String, ProgramError),
    /// None of ours are there.
    #[error(
        "the redirect is not installed: there is neither a table `countersign` nor a chain COUNTERSIGN_*"
    )]
    Absent,
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Runs `init` and says on standard error what it did.
pub fn run(arguments: &Arguments) -> ExitCode {
    match perform(arguments) {
        Ok(done) => {
            print!("{done}");
            ExitCode::SUCCESS
        }
        Err(error @ (InitError::Config(_) | InitError::Plan(_))) => {
            eprintln!("{}", error.to_string().trim_end());
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("countersign-proxy init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &Arguments) -> Result<String, InitError> {
    if arguments.task == Task::Remove {
        remove(None)?;
        return Ok("the redirect is removed\n".to_owned());
    }
    let (config, _) = ProxyConfig::load(&arguments.config)
        .map_err(|problems| InitError::Config(problems.to_string()))?;
    let plan = Plan::of(&config)?;
    match arguments.task {
        Task::DryRun => Ok(dry_run(&plan, arguments.backend.unwrap_or(Backend::Inet))),
        Task::Verify => {
            let (backend, families) = installed()?.ok_or(InitError::Absent)?;
            verify(&plan, backend, &families)?;
            Ok(format!("the redirect is in force ({})\n", backend.word()))
        }
        Task::Install | Task::Remove => install(&plan, arguments.backend),
    }
}

/// The text that would be loaded, and the commands beside it as comments.
fn dry_run(plan: &Plan, backend: Backend) -> String {
    let mut text = match backend {
        Backend::Inet => nft::load(plan, &[Kind::Inet]),
        Backend::Split => nft::load(plan, &[Kind::Ip, Kind::Ip6]),
        Backend::Iptables => {
            let of = |family| iptables::load(plan, family, "");
            let (v4, v6) = (of(Family::V4), of(Family::V6));
            format!("# iptables-restore --noflush\n{v4}# ip6tables-restore --noflush\n{v6}")
        }
    };
    for (family, words) in route_commands(plan, &Family::ALL) {
        // Writing to a String cannot fail.
        _ = writeln!(text, "# ip {} {}", flag(family), words.join(" "));
    }
    text
}

fn install(plan: &Plan, only: Option<Backend>) -> Result<String, InitError> {
    let before = Before::read();
    let mut tried = String::new();
    for backend in before.order().into_iter().filter(|one| only.is_none_or(|only| only == *one)) {
        let families = match load(plan, backend) {
            Ok(families) => families,
            Err(error) => {
                _ = write!(tried, "\n  {}: {error}", backend.word());
                before.put_back(backend)?;
                continue;
            }
        };
        let checked = routes(plan, &families).map_err(InitError::from);
        let checked = checked.and_then(|()| verify(plan, backend, &families));
        if let Err(error) = checked {
            return Err(match before.put_back(backend) {
                Ok(Left::AsBefore) => error,
                Ok(Left::Replaced) => InitError::Replaced(error.to_string()),
                Err(undo) => InitError::Stuck(error.to_string(), undo),
            });
        }
        remove(Some(backend))?;
        if !plan.tproxy {
            remove_routes()?;
        }
        let families: Vec<_> = families.iter().map(|family| family.text()).collect();
        let (name, families) = (backend.word(), families.join(" and "));
        return Ok(format!("the redirect is in force ({name}, {families})\n"));
    }
    Err(InitError::NoBackend(tried))
}

/// Loads the rules; says for which families. IPv4 alone will do only in a pod without IPv6.
fn load(plan: &Plan, backend: Backend) -> Result<Vec<Family>, ProgramError> {
    match backend {
        Backend::Inet => Program::NFT.feed(&["-f", "-"], &nft::load(plan, &[Kind::Inet]))?,
        Backend::Split => {
            let both = nft::load(plan, &[Kind::Ip, Kind::Ip6]);
            match Program::NFT.feed(&["-f", "-"], &both) {
                Ok(()) => {}
                Err(error) if has_ipv6() => return Err(error),
                Err(_) => {
                    Program::NFT.feed(&["-f", "-"], &nft::load(plan, &[Kind::Ip]))?;
                    return Ok(vec![Family::V4]);
                }
            }
        }
        Backend::Iptables => {
            load_iptables(plan, Family::V4)?;
            match load_iptables(plan, Family::V6) {
                Ok(()) => {}
                Err(error) if has_ipv6() => return Err(error),
                Err(_) => return Ok(vec![Family::V4]),
            }
        }
    }
    Ok(Family::ALL.to_vec())
}

fn load_iptables(plan: &Plan, family: Family) -> Result<(), ProgramError> {
    let saved = Program::save(family).run(&[])?;
    Program::restore(family).feed(&["--noflush"], &iptables::load(plan, family, &saved))
}

/// Whether any interface but loopback has an IPv6 address, link-local ones included.
fn has_ipv6() -> bool {
    let interfaces = std::fs::read_to_string(Path::new("/proc/net/if_inet6")).unwrap_or_default();
    interfaces.lines().any(|line| line.split_whitespace().last().is_some_and(|name| name != "lo"))
}

/// The commands that lead marked packets to ourselves, in TPROXY mode.
fn route_commands(plan: &Plan, families: &[Family]) -> Vec<(Family, Vec<String>)> {
    let (mark, table) = (format!("{MARK:#x}"), TABLE.to_string());
    let rule = ["rule", "add", "fwmark", &mark, "lookup", &table];
    let route = ["route", "replace", "local", "default", "dev", "lo", "table", &table];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let of = |family: &Family| [(*family, words(&rule)), (*family, words(&route))];
    families.iter().filter(|_| plan.tproxy).flat_map(of).collect()
}

/// Installs the routing of marked packets, without doubling a rule that is there, and without a
/// moment in which there is none.
fn routes(plan: &Plan, families: &[Family]) -> Result<(), ProgramError> {
    for (family, words) in route_commands(plan, families) {
        let is_rule = words.first().is_some_and(|word| word == "rule");
        if is_rule && routing_rules(family)? > 0 {
            continue;
        }
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.insert(0, flag(family));
        Program::IP.run(&words)?;
    }
    Ok(())
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Reads the rules back and compares.
fn verify(plan: &Plan, backend: Backend, families: &[Family]) -> Result<(), InitError> {
    let mut found = Vec::new();
    match backend {
        Backend::Inet => found.extend(compare_nft(plan, Kind::Inet)?),
        Backend::Split => {
            for family in families {
                found.extend(compare_nft(plan, kind_of(*family))?);
            }
        }
        Backend::Iptables => {
            for family in families {
                let saved = Program::save(*family).run(&[])?;
                found.extend(iptables::differences(&saved, plan, *family));
            }
        }
    }
    for family in families.iter().filter(|_| plan.tproxy) {
        found.extend(missing_routes(*family)?);
    }
    if has_ipv6() && !families.contains(&Family::V6) {
        found.push("ipv6: there are IPv6 addresses and no IPv6 rules".to_owned());
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(InitError::Differs(found.iter().map(|line| format!("\n  {line}")).collect()))
}

/// The tables of a backend.
pub(super) fn kinds_of(backend: Backend) -> &'static [Kind] {
    match backend {
        Backend::Inet => &[Kind::Inet],
        Backend::Split => &[Kind::Ip, Kind::Ip6],
        Backend::Iptables => &[],
    }
}

fn kind_of(family: Family) -> Kind {
    match family {
        Family::V4 => Kind::Ip,
        Family::V6 => Kind::Ip6,
    }
}

/// Compares the table in force with the same rules loaded where they do nothing.
fn compare_nft(plan: &Plan, kind: Kind) -> Result<Vec<String>, ProgramError> {
    let list = |name| {
        let json = Program::NFT.run(&["-j", "list", "table", kind.word(), name])?;
        Listing::read(&json).map_err(|error| Program::NFT.said(format!("unreadable JSON: {error}")))
    };
    let is = list(TABLE_NAME)?;
    Program::NFT.feed(&["-f", "-"], &nft::expected(plan, kind))?;
    let expected = list(EXPECTED_NAME);
    Program::NFT.run(&["delete", "table", kind.word(), EXPECTED_NAME])?;
    Ok(is.differences(&expected?, plan))
}

/// How many rules lead marked packets to our table.
pub(super) fn routing_rules(family: Family) -> Result<usize, ProgramError> {
    let (mark, to) = (format!("{MARK:#x}"), format!("lookup {TABLE}"));
    let rules = Program::IP.run(&[flag(family), "rule", "show", "fwmark", &mark])?;
    Ok(rules.lines().filter(|line| line.contains(&to)).count())
}

fn missing_routes(family: Family) -> Result<Vec<String>, ProgramError> {
    let mut found = Vec::new();
    let (mark, table) = (format!("{MARK:#x}"), TABLE.to_string());
    if routing_rules(family)? == 0 {
        found.push(format!("{}: the routing rule for mark {mark} is missing", family.text()));
    }
    let routes = Program::IP.run(&[flag(family), "route", "show", "table", &table]);
    let is_there = |line: &str| line.starts_with("local default dev lo");
    if !routes.unwrap_or_default().lines().any(is_there) {
        found.push(format!("{}: the local route of table {table} is missing", family.text()));
    }
    Ok(found)
}

/// Whether a list of tables shows ours.
pub(super) fn lists(tables: &str, kind: Kind) -> bool {
    tables.lines().any(|line| line.trim() == format!("table {} {TABLE_NAME}", kind.word()))
}

/// Which backend's rules are there, and for which families.
pub(super) fn installed() -> Result<Option<(Backend, Vec<Family>)>, ProgramError> {
    let tables = Program::NFT.run(&["list", "tables"]).unwrap_or_default();
    let has = |kind: Kind| lists(&tables, kind);
    if has(Kind::Inet) {
        return Ok(Some((Backend::Inet, Family::ALL.to_vec())));
    }
    let split: Vec<_> = Family::ALL.into_iter().filter(|family| has(kind_of(*family))).collect();
    if !split.is_empty() {
        return Ok(Some((Backend::Split, split)));
    }
    let saved = |family| Program::save(family).run(&[]).unwrap_or_default();
    let there = |family: &Family| iptables::is_installed(&saved(*family));
    let families: Vec<_> = Family::ALL.into_iter().filter(there).collect();
    Ok((!families.is_empty()).then_some((Backend::Iptables, families)))
}

/// Takes out the rules of every backend but `kept`. What is not there needs no removal, and a
/// program that is not there has installed nothing.
fn remove(kept: Option<Backend>) -> Result<(), ProgramError> {
    let tables = Program::NFT.run(&["list", "tables"]).unwrap_or_default();
    for kind in Kind::ALL {
        let backend = if kind == Kind::Inet { Backend::Inet } else { Backend::Split };
        for name in [TABLE_NAME, EXPECTED_NAME] {
            let is_kept = kept == Some(backend) && name == TABLE_NAME;
            let line = format!("table {} {name}", kind.word());
            if !is_kept && tables.lines().any(|there| there.trim() == line) {
                Program::NFT.run(&["delete", "table", kind.word(), name])?;
            }
        }
    }
    for family in Family::ALL.into_iter().filter(|_| kept != Some(Backend::Iptables)) {
        let saved = Program::save(family).run(&[]).unwrap_or_default();
        let text = iptables::remove(&saved);
        if !text.is_empty() {
            Program::restore(family).feed(&["--noflush"], &text)?;
        }
    }
    if kept.is_none() { remove_routes() } else { Ok(()) }
}

/// Takes out the routing of marked packets, however often it was added.
pub(super) fn remove_routes() -> Result<(), ProgramError> {
    let (mark, table) = (format!("{MARK:#x}"), TABLE.to_string());
    for family in Family::ALL {
        for _ in 0..routing_rules(family).unwrap_or_default() {
            let delete = [flag(family), "rule", "del", "fwmark", &mark, "lookup", &table];
            Program::IP.run(&delete)?;
        }
        let show = [flag(family), "route", "show", "table", &table];
        if !Program::IP.run(&show).unwrap_or_default().trim().is_empty() {
            Program::IP.run(&[flag(family), "route", "flush", "table", &table])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let read = |line: &str| Arguments::read(&line.split_whitespace().collect::<Vec<_>>());
        let asked = read("--config a.yaml --dry-run --backend iptables").expect("arguments");
        assert_eq!(asked.task, Task::DryRun);
        assert_eq!(asked.backend, Some(Backend::Iptables));
        assert_eq!(read("--remove").expect("needs no config").task, Task::Remove);
        for wrong in ["", "--verify", "--config", "--config a --verify --remove", "--backend x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
