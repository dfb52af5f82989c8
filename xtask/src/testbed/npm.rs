//! Node packages: one folder, exactly what its lock file names, none of their scripts run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{cache, fnv1a, point_to};
use crate::repo;

/// Where `package.json` and `package-lock.json` are.
const PINS: &str = "integration/testbed/npm";

/// Makes `$CACHE/npm/node_modules`; gives what stands in the way.
pub(super) fn install() -> Result<Option<String>> {
    let pins = ["package.json", "package-lock.json"].map(|name| Path::new(PINS).join(name));
    let texts = pins
        .each_ref()
        .map(|path| std::fs::read_to_string(path).with_context(|| path.display().to_string()));
    let [package, lock] = texts;
    let cache = cache()?;
    let name = format!("npm-{:016x}", fnv1a(&format!("{}{}", package?, lock?)));
    let folder = cache.join(&name);
    let stamp = folder.join("complete");
    if !stamp.exists() {
        if !repo::works(Command::new("npm").arg("--version")) {
            return Ok(Some("npm is missing; as root: apt-get install nodejs npm".to_owned()));
        }
        std::fs::create_dir_all(&folder)?;
        for path in &pins {
            std::fs::copy(path, folder.join(path.file_name().unwrap_or_default()))?;
        }
        println!("testbed: installing Node packages (once)");
        let mut npm = Command::new("npm");
        npm.current_dir(&folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        if let Err(error) = repo::call(&mut npm) {
            return Ok(Some(format!("Node packages: {error:#}")));
        }
        std::fs::write(&stamp, "")?;
    }
    point_to(&cache, "npm", &name)?;
    Ok(None)
}
