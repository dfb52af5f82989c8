//! The proxy as it is released: linked twice, the second time with the functions that proxies run
//! side by side.
//!
//! Of 12 MB of code a proxy runs a quarter, scattered over all of it, and the kernel maps 64 KiB
//! around each byte that is touched. Lying together, what runs takes fewer pages and fewer places
//! in the caches. Which functions those are is found by running the first program under callgrind
//! with the load of the gates; order is all that changes.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use countersign_config::env;

use crate::{repo, suite, testbed};

const PROXY: &str = "countersign-proxy";

/// Builds the proxy in `profile`, functions in order where rustc links with LLD.
pub(crate) fn proxy(profile: &str) -> Result<()> {
    suite::programs(profile, &[PROXY])?;
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("functions stay in the order of the compiler: this is for x86_64 Linux");
        return Ok(());
    }
    let order = order(&suite::programs_dir(profile)?)?;
    let mut command = repo::cargo();
    command.args(["rustc", "--locked", "--profile", profile, "--package", PROXY, "--bin", PROXY]);
    command.args(["--", "-C", "link-arg=-Wl,--no-warn-symbol-ordering", "-C"]);
    command.arg(format!("link-arg=-Wl,--symbol-ordering-file={}", order.display()));
    repo::call(&mut command)
}

/// The functions that the proxy in `folder` runs, found once for each build of it.
fn order(folder: &Path) -> Result<PathBuf> {
    let target = folder.parent().context("programs lie in no target folder")?;
    let file = target.join("order").join(format!("{:016x}", hash(&folder.join(PROXY))?));
    if file.is_file() {
        return Ok(file);
    }
    testbed::install("base")?;
    fs::create_dir_all(target.join("order"))?;
    let unfinished = file.with_extension("unfinished");
    let mut command = repo::cargo();
    command.args(["run", "--locked", "--profile", "e2e", "--package", "countersign-benches"]);
    command.args(["--bin", "countersign-gates", "--", "order"]).arg(&unfinished);
    repo::call(command.env(env::COUNTERSIGN_BIN_DIR.name, folder))?;
    fs::rename(unfinished, &file)?;
    Ok(file)
}

fn hash(program: &Path) -> Result<u64> {
    let bytes = fs::read(program).with_context(|| format!("no {}", program.display()))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok(hasher.finish())
}
