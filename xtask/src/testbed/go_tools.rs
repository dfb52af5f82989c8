//! Builds programs from their pinned Go modules into the cache. A module of ours per program pins
//! it and everything below it with hashes (`go.sum`).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{cache, fnv1a, point_to};
use crate::repo;

/// Where the modules are.
const MODULES: &str = "integration/testbed";

/// One module: its folder, which names it, and what is built from it.
struct GoTool {
    name: &'static str,
    packages: &'static [&'static str],
    /// Whether a part of it is C.
    cgo: bool,
    ldflags: &'static str,
}

const TOOLS: &[GoTool] = &[
    GoTool {
        name: "gospiffe", // a program of ours, written with go-spiffe
        packages: &["countersign.dev/testbed/gospiffe"],
        cgo: false,
        ldflags: "",
    },
    GoTool {
        name: "h2spec",
        packages: &["github.com/summerwind/h2spec/cmd/h2spec"],
        cgo: false,
        ldflags: "",
    },
    GoTool {
        name: "kube",
        packages: &["k8s.io/kubernetes/cmd/kube-apiserver"],
        cgo: false,
        // Without the stamp the server calls itself v0.0.0.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
                  -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=34",
    },
    GoTool {
        name: "spire",
        packages: &[
            "github.com/spiffe/spire/cmd/spire-server",
            "github.com/spiffe/spire/cmd/spire-agent",
        ],
        cgo: true, // SQLite
        ldflags: "-s -w",
    },
];

/// Makes `$CACHE/NAME/PROGRAM` for all of them; gives what stands in the way.
pub(super) fn install() -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for tool in TOOLS {
        missing.extend(tool.install()?);
    }
    Ok(missing)
}

impl GoTool {
    fn install(&self) -> Result<Option<String>> {
        let module = Path::new(MODULES).join(self.name);
        let cache = cache()?;
        let name = format!("{}-{:016x}", self.name, fnv1a(&self.pins(&module)?));
        let folder = cache.join(&name);
        let stamp = folder.join("complete");
        if !stamp.exists() {
            if !repo::works(Command::new("go").arg("version")) {
                let advice = "as root: apt-get install golang-go";
                return Ok(Some(format!("{} needs Go; {advice}", self.name)));
            }
            println!("testbed: building {} from its Go module (once)", self.name);
            if let Err(error) = self.build(&module, &folder) {
                return Ok(Some(format!("{}: {error:#}", self.name)));
            }
            std::fs::write(&stamp, self.packages.join("\n"))?;
        }
        point_to(&cache, self.name, &name)?;
        Ok(None)
    }

    /// Everything the programs are made from.
    fn pins(&self, module: &Path) -> Result<String> {
        let mut pins = format!("{:?} {} {}\n", self.packages, self.cgo, self.ldflags);
        let listed = std::fs::read_dir(module).with_context(|| module.display().to_string())?;
        let mut files = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file);
            pins.push_str(&text.with_context(|| file.display().to_string())?);
        }
        Ok(pins)
    }

    fn build(&self, module: &Path, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut go = Command::new("go");
        go.current_dir(module).env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        go.env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
        go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false"]);
        // A path that ends in a slash is a folder to `go build`, whatever the number of programs.
        go.args(["-ldflags", self.ldflags, "-o"]).arg(folder.join("")).args(self.packages);
        repo::call(&mut go)
    }
}
