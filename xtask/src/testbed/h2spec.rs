//! Builds h2spec, the conformance tests of HTTP/2, from its pinned Go module into the cache.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{cache, fnv1a, point_to};
use crate::repo;

const MODULE: &str = "integration/testbed/h2spec";
const PROGRAM: &str = "github.com/summerwind/h2spec/cmd/h2spec";

/// Makes `$CACHE/h2spec/h2spec`; gives what stands in the way.
pub(super) fn install() -> Result<Option<String>> {
    let read = |name: &str| {
        let path = Path::new(MODULE).join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let pins = format!("{}{}", read("go.mod")?, read("go.sum")?);
    let cache = cache()?;
    let name = format!("h2spec-{:016x}", fnv1a(&pins));
    let folder = cache.join(&name);
    let stamp = folder.join("complete");
    if !stamp.exists() {
        if !repo::works(Command::new("go").arg("version")) {
            return Ok(Some("h2spec needs Go; as root: apt-get install golang-go".to_owned()));
        }
        if let Err(error) = build(&folder.join("h2spec")) {
            return Ok(Some(format!("h2spec: {error:#}")));
        }
        std::fs::write(&stamp, PROGRAM)?;
    }
    point_to(&cache, "h2spec", &name)?;
    Ok(None)
}

fn build(program: &Path) -> Result<()> {
    let mut go = Command::new("go");
    go.current_dir(MODULE).env("CGO_ENABLED", "0").env("GOFLAGS", "");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(program);
    repo::call(go.arg(PROGRAM))
}
