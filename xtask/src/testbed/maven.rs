//! Programs that travel as Maven artifacts: fetched by Maven, compared with the pinned digest,
//! unpacked and prepared once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{cache, fnv1a, point_to};
use crate::repo;

/// Name, coordinates and SHA-256 of each.
const PINS: &str = "integration/testbed/maven.txt";
/// Keycloak's settings that are fixed when it is prepared, so that tests start it ready-made.
const KEYCLOAK_BUILD: &[&str] = &["build", "--db=dev-mem"];

/// One line of the pins.
#[derive(Debug, PartialEq, Eq)]
struct Pin<'a> {
    name: &'a str,
    coordinates: &'a str,
    sha256: &'a str,
}

/// Makes `$CACHE/maven/NAME`; gives what stands in the way.
pub(super) fn install() -> Result<Option<String>> {
    let pins = std::fs::read_to_string(PINS).context(PINS)?;
    let cache = cache()?;
    let name = format!("maven-{:016x}", fnv1a(&format!("{pins}{KEYCLOAK_BUILD:?}")));
    let folder = cache.join(&name);
    let stamp = folder.join("complete");
    if !stamp.exists() {
        if !repo::works(Command::new("mvn").arg("--version")) {
            return Ok(Some("mvn is missing; as root: apt-get install maven".to_owned()));
        }
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?; // an earlier attempt that was cut short
        }
        std::fs::create_dir_all(&folder)?;
        for pin in parse(&pins)? {
            println!("testbed: installing {} (once)", pin.name);
            if let Err(error) = place(&pin, &folder) {
                return Ok(Some(format!("{}: {error:#}", pin.name)));
            }
        }
        std::fs::write(&stamp, "")?;
    }
    point_to(&cache, "maven", &name)?;
    Ok(None)
}

fn parse(text: &str) -> Result<Vec<Pin<'_>>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let pin = |line| match str::split_whitespace(line).collect::<Vec<_>>()[..] {
        [name, coordinates, sha256] => Ok(Pin { name, coordinates, sha256 }),
        _ => anyhow::bail!("{PINS}: `{line}` is not name, coordinates and SHA-256"),
    };
    lines.filter(|line| !line.is_empty()).map(pin).collect()
}

/// Fetches one artifact and unpacks it as `FOLDER/NAME`.
fn place(pin: &Pin<'_>, folder: &Path) -> Result<()> {
    let fetched = folder.join("fetched");
    let mut mvn = Command::new("mvn");
    mvn.args(["--quiet", "--batch-mode", "dependency:copy"]);
    mvn.arg(format!("-Dartifact={}", pin.coordinates));
    mvn.arg(format!("-DoutputDirectory={}", fetched.display()));
    repo::call(&mut mvn)?;
    let archive = only_entry(&fetched)?;
    let digest = repo::output(Command::new("sha256sum").arg(&archive))?;
    let digest = digest.split_whitespace().next().unwrap_or_default();
    ensure!(
        digest == pin.sha256,
        "the artifact has the SHA-256 {digest}, pinned is {}",
        pin.sha256
    );
    let unpacked = folder.join("unpacked");
    let mut unzip = Command::new("python3");
    repo::call(unzip.args(["-m", "zipfile", "-e"]).arg(&archive).arg(&unpacked))?;
    let home = folder.join(pin.name);
    std::fs::rename(only_entry(&unpacked)?, &home)?;
    std::fs::remove_dir_all(&fetched)?;
    std::fs::remove_dir_all(&unpacked)?;
    if pin.name == "keycloak" {
        repo::call(Command::new("sh").arg(home.join("bin/kc.sh")).args(KEYCLOAK_BUILD))?;
    }
    Ok(())
}

/// What a folder holds, which must be one thing.
fn only_entry(folder: &Path) -> Result<std::path::PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let [only] = &entries[..] else {
        anyhow::bail!("{}: one entry was expected, not {}", folder.display(), entries.len());
    };
    Ok(only.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_three_words() {
        let pins = parse("# programs\na b:c:1:zip 00ff # why\n\n").unwrap();
        assert_eq!(pins, [Pin { name: "a", coordinates: "b:c:1:zip", sha256: "00ff" }]);
        assert!(parse("a b:c:1:zip\n").is_err());
    }
}
