//! Installs the pinned third-party programs tests and benches use, into a cache outside the tree.
//! Idempotent: each set has a stamp named by the hash of its pins, so a warm run does next to
//! nothing. Debian packages are installed only by root with apt; otherwise the exact command to
//! type is printed. `COUNTERSIGN_TESTBED=require` turns whatever is missing into a failure.

mod go_tools;
mod maven;
mod npm;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use countersign_config::env;

use crate::repo;

const APT: &str = "integration/testbed/apt.txt";
const WHEELS: &str = "integration/testbed/wheels.txt";
const PYTHON: &str = "integration/testbed/python.txt";

/// The folder that holds the test-bed.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::COUNTERSIGN_CACHE.get() {
        return Ok(PathBuf::from(dir));
    }
    if let Some(dir) = env::XDG_CACHE_HOME.get() {
        return Ok(Path::new(&dir).join("countersign"));
    }
    let home = env::HOME.get().context("neither COUNTERSIGN_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/countersign"))
}

/// Installs one group; says what could not be installed and how to do it by hand.
pub(crate) fn install(group: &str) -> Result<()> {
    if group != "base" {
        bail!("no test-bed group `{group}`; there is one: base");
    }
    let mut missing = Vec::new();
    missing.extend(debian_packages()?);
    missing.extend(python_packages()?);
    missing.extend(npm::install()?);
    missing.extend(maven::install()?);
    missing.extend(go_tools::install()?);
    if missing.is_empty() {
        println!("testbed: base is complete in {}", cache()?.display());
        return Ok(());
    }
    for text in &missing {
        eprintln!("testbed: {text}");
    }
    if env::COUNTERSIGN_TESTBED.get().as_deref() == Some("require") {
        bail!("the test-bed is incomplete and COUNTERSIGN_TESTBED=require is set");
    }
    eprintln!("testbed: tests that need these will be skipped and say so");
    Ok(())
}

/// One line of `apt.txt`: a package and a command that works once it is there.
#[derive(Debug, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    probe: Vec<&'a str>,
}

fn parse_packages(text: &str) -> Vec<Package<'_>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().map(|name| Package { name, probe: words.collect() })
        })
        .collect()
}

/// Where programs are found: Debian keeps servers where only root's own path leads.
pub(crate) fn path() -> OsString {
    #[expect(clippy::disallowed_methods, reason = "PATH is nobody's setting; it is passed on")]
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn present(package: &Package<'_>) -> bool {
    match package.probe.split_first() {
        Some((program, arguments)) => {
            repo::works(Command::new(program).args(arguments).env("PATH", path()))
        }
        None => repo::works(Command::new("dpkg").args(["--status", package.name])),
    }
}

/// Installs what `apt.txt` lists and is not there; gives what stayed missing.
fn debian_packages() -> Result<Option<String>> {
    let text = std::fs::read_to_string(APT).context(APT)?;
    let packages = parse_packages(&text);
    let wanted: Vec<&str> =
        packages.iter().filter(|package| !present(package)).map(|package| package.name).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let advice = format!(
        "missing programs; as root: apt-get install --no-install-recommends {}",
        wanted.join(" ")
    );
    let is_root = repo::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !repo::works(Command::new("apt-get").arg("--version")) {
        return Ok(Some(advice));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]);
        command
    };
    let _quiet = NoDaemons::new();
    let done = repo::call(apt().arg("update")).and_then(|()| {
        repo::call(apt().args(["install", "--no-install-recommends"]).args(&wanted))
    });
    if let Err(error) = done {
        return Ok(Some(format!("{advice} ({error:#})")));
    }
    let still: Vec<&str> =
        packages.iter().filter(|package| !present(package)).map(|package| package.name).collect();
    Ok((!still.is_empty()).then(|| format!("installed but not working: {}", still.join(" "))))
}

/// While it lives, Debian packages start no daemon: the tests start their own. A policy of the
/// machine's owner stays as it is.
struct NoDaemons(Option<&'static Path>);

impl NoDaemons {
    fn new() -> NoDaemons {
        use std::os::unix::fs::PermissionsExt as _;
        let path = Path::new("/usr/sbin/policy-rc.d");
        let placed = || {
            std::fs::write(path, "#!/bin/sh\nexit 101\n")?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        };
        NoDaemons((!path.exists() && placed().is_ok()).then_some(path))
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            eprintln!("testbed: {} stayed behind: {error}", path.display());
        }
    }
}

/// Makes `$CACHE/py`, a virtual environment with exactly the pinned wheels.
fn python_packages() -> Result<Option<String>> {
    let pins = format!("{}{}", std::fs::read_to_string(WHEELS)?, std::fs::read_to_string(PYTHON)?);
    let Ok(python) = repo::output(Command::new("python3").args(["-c", PYTHON_FACTS])) else {
        return Ok(Some("python3 is missing".to_owned()));
    };
    let facts = python.trim();
    if !facts.starts_with("linux-x86_64 ") {
        return Ok(Some(format!("the pinned wheels are for Linux x86_64, this is {facts}")));
    }
    let cache = cache()?;
    let name = format!("py-{:016x}", fnv1a(&format!("{facts}\n{pins}")));
    let folder = cache.join(&name);
    let stamp = folder.join("complete");
    if !stamp.exists() {
        if let Err(error) = make_environment(&folder) {
            return Ok(Some(format!("Python packages: {error:#}")));
        }
        std::fs::write(&stamp, facts)?;
    }
    point_to(&cache, "py", &name)?;
    Ok(None)
}

const PYTHON_FACTS: &str =
    "import sys, sysconfig; print(sysconfig.get_platform(), '%d.%d' % sys.version_info[:2])";

fn make_environment(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?; // an earlier attempt that was cut short
    }
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    repo::call(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let pip = |more: &[&str]| {
        let mut command = Command::new(folder.join("bin/python"));
        command.args(["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q"]);
        command.args(["--no-deps", "--only-binary", ":all:", "--require-hashes"]).args(more);
        command
    };
    repo::call(&mut pip(&["-r", WHEELS]))?;
    repo::call(&mut pip(&["-r", PYTHON]))?;
    repo::call(Command::new(folder.join("bin/python")).args(["-m", "pip", "check"]))
}

/// Makes `$CACHE/LINK` point to the folder just checked, in one step.
fn point_to(cache: &Path, link: &str, name: &str) -> Result<()> {
    let fresh = cache.join(format!("{link}.{}", std::process::id()));
    let link = cache.join(link);
    if std::fs::read_link(&link).is_ok_and(|target| target == Path::new(name)) {
        return Ok(());
    }
    std::os::unix::fs::symlink(name, &fresh)?;
    std::fs::rename(&fresh, &link).with_context(|| format!("could not place {}", link.display()))
}

/// Names a set of pins; nothing depends on it but the name of a folder.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lines_name_a_probe() {
        let packages =
            parse_packages("# tools\ncurl  curl --version  # client\n\nca-certificates\n");
        assert_eq!(
            packages,
            [
                Package { name: "curl", probe: vec!["curl", "--version"] },
                Package { name: "ca-certificates", probe: vec![] },
            ]
        );
    }

    #[test]
    fn other_pins_get_another_folder() {
        assert_ne!(fnv1a("a==1"), fnv1a("a==2"));
    }
}
